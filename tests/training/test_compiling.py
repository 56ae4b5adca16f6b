"""Compiled or not, a network computes the same; what does not compile runs uncompiled, and the log says so."""

import logging
import shutil

import pytest
import torch
from tiny import colored, make_image, make_recipe

from slsr.models.weights import initial_encoder
from slsr.training import classifier, compiling
from slsr.training.classifier import TrainingSet, train_classifier
from slsr.training.compiling import compiled, compiling_pays

pytestmark = pytest.mark.usefixtures("tiny_backbone")

CPU = torch.device("cpu")
LABELS = [number % 4 for number in range(19)]


def encoder():
    return initial_encoder(make_recipe(), 4, make_image()).to(memory_format=torch.channels_last).train()


def batch(size=6, seed=0):
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return images.to(memory_format=torch.channels_last)


def test_what_pays_is_decided_by_parameter_and_device():
    assert compiling_pays("auto", torch.device("cuda"))
    assert not compiling_pays("never", torch.device("cuda"))
    assert not compiling_pays("auto", CPU)


def test_several_processes_are_not_compiled(monkeypatch):
    monkeypatch.setattr(compiling, "rank_and_size", lambda: (1, 2))
    assert not compiling_pays("auto", torch.device("cuda"))


def with_a_recorder(monkeypatch):
    """`torch.compile` without a compiler; the shapes that went through what it made."""
    shapes = []

    def fake(function, dynamic):
        assert dynamic is False

        def recorded(images):
            shapes.append(tuple(images.shape))
            return function(images)

        return recorded

    monkeypatch.setattr(torch, "compile", fake)
    return shapes


def test_whole_batches_go_through_the_compiled_network_and_others_do_not(monkeypatch):
    shapes, network = with_a_recorder(monkeypatch), encoder()
    fast = compiled(network.features, network, batch(6))
    assert shapes == [(6, 3, 32, 32)], "tried out once"
    for size in (6, 5, 6):
        expected = network.eval().features(batch(size))
        torch.testing.assert_close(fast(batch(size)), expected)
    assert shapes == [(6, 3, 32, 32)] * 3


def test_trying_it_out_leaves_no_trace(monkeypatch):
    with_a_recorder(monkeypatch)
    network = encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    compiled(network.features, network, batch())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("when", ["compiling", "running"])
def test_a_failure_is_said_and_the_network_runs_as_it_is(monkeypatch, caplog, when):
    def broken(images):
        images.sum()
        raise RuntimeError("no working compiler\nand a long story")

    def fake(function, dynamic):
        if when == "running":

            def after_the_network(images):
                return broken(function(images))

            return after_the_network
        return broken

    monkeypatch.setattr(torch, "compile", fake)
    network = encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    function = network.features
    assert compiled(function, network, batch()) is function
    assert caplog.messages == ["not compiled, the network runs uncompiled: RuntimeError: no working compiler"]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_memory_is_not_taken_for_a_failed_compilation(monkeypatch):
    def exhausted(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: exhausted)
    network = encoder()
    with pytest.raises(torch.OutOfMemoryError):
        compiled(network.features, network, batch())


def trained(epochs=2):
    recipe = make_recipe(epochs=epochs, batch_size=8, compile="auto", random_crop=True, head="bottleneck")
    network = initial_encoder(recipe, 4, make_image())
    train_classifier(network, TrainingSet.of_labeled(colored(LABELS)), None, recipe, make_image(), CPU)
    return network.state_dict()


def test_training_compiles_where_it_pays_and_learns_the_same(monkeypatch):
    expected = trained()
    shapes = with_a_recorder(monkeypatch)
    assert trained().keys() == expected.keys()
    assert shapes == [], "never on a CPU"
    monkeypatch.setattr(classifier, "compiling_pays", lambda choice, device: True)
    found = trained()
    assert shapes == [(8, 3, 32, 32)] * 5, "tried out, then two whole batches an epoch; the last has 3 images"
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_real_compiler_gives_the_same_within_rounding_and_the_same_bits_twice(monkeypatch, caplog):
    expected = trained()
    monkeypatch.setattr(classifier, "compiling_pays", lambda choice, device: True)
    with caplog.at_level(logging.INFO, "slsr"):
        first, second = trained(), trained()
    assert caplog.messages.count("compiled for batches of 8") == 2
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(first[name], second[name])
