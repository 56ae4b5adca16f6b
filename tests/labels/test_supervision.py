"""Labels of generated images that follow the network, and the noise layer, in training."""

import copy
import hashlib
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from in_processes import in_two_processes
from tiny import build_tiny_backbone, colored, make_image, make_recipe, noise

from slsr.images.augmentation import to_input
from slsr.labels.distributions import likeliest, lsro, multi_pseudo_label, one_hot, slsr
from slsr.labels.noise import NoiseLayer
from slsr.labels.regularizers import REGULARIZERS
from slsr.labels.supervision import FIXED_LABELS, Supervision
from slsr.labels.targets import make_targets
from slsr.models import backbones
from slsr.models import encoder as encoders
from slsr.models.weights import initial_encoder
from slsr.runtime.resume import NOT_KEPT, STATE, Interval, Keeper, kept
from slsr.training.classifier import TrainingSet, train_classifier

CPU = torch.device("cpu")
CLASSES = 4
REAL, GENERATED = 13, 8

pytestmark = pytest.mark.usefixtures("tiny_backbone")

PSEUDO_LABELS = {name: one.pseudo_label for name, one in REGULARIZERS.items() if one.pseudo_label}


def training_set(target=None, weight=1.0):
    """Labeled images, then noise with one target."""
    labels = [number % CLASSES for number in range(REAL)]
    images = colored(labels)
    pixels = torch.cat([images.pixels, torch.from_numpy(noise(GENERATED, seed=5))])
    distributions = [one_hot(label) for label in labels] + [target or lsro(CLASSES)] * GENERATED
    weights = torch.cat([torch.ones(REAL), torch.full((GENERATED,), weight)])
    return TrainingSet(pixels, make_targets(distributions, CLASSES), weights, images.labels)


RANDOM = {"random_crop": True, "horizontal_flip": True, "random_erasing": 0.5, "head": "bottleneck", "epochs": 3}


def trained(generated, training=None, keeper=NOT_KEPT, **recipe):
    """The encoder after training, and the losses of its epochs."""
    image, choice, losses = make_image(), make_recipe(**(RANDOM | recipe)), []
    encoder = initial_encoder(choice, CLASSES, image)
    train_classifier(
        encoder,
        training or training_set(),
        None,
        choice,
        image,
        CPU,
        lambda epoch: losses.append(epoch.loss),
        keeper,
        generated,
    )
    return encoder, losses


def bits(encoder, generated=FIXED_LABELS):
    tensors = [*encoder.state_dict().values(), *generated.state_dict().values()]
    return hashlib.md5(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def with_noise(rate=0.05, **options):
    return Supervision(first=REAL, noise=NoiseLayer(CLASSES), noise_learning_rate=rate, **options)


@pytest.mark.parametrize("name", PSEUDO_LABELS)
@pytest.mark.parametrize("spent", [0.1, 0.3, 0.31, 1.0])
def test_a_batch_is_supervised_row_by_row(name, spent):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, CLASSES, generator=generator)
    images = torch.tensor([REAL - 1, REAL, 0, REAL + 3, 2, REAL + 1])
    targets = torch.rand(6, CLASSES, generator=generator)
    weights = torch.tensor([1.0, 0.5, 1.0, 0.5, 1.0, 0.5])
    generated = Supervision(first=REAL, pseudo_label=PSEUDO_LABELS[name], start=0.3)
    found = generated.supervise(logits, targets, weights, images, spent)
    assert torch.equal(found[0], logits)
    for row, image in enumerate(images.tolist()):
        if image < REAL:
            assert torch.equal(found[1][row], targets[row])
            assert found[2][row] == 1.0
            continue
        ascending = sorted(range(CLASSES), key=lambda k, row=row: float(logits[row, k]))
        expected = [0.0] * CLASSES
        for rank, k in enumerate(ascending, start=1):
            expected[k] = float(rank == CLASSES) if name == "one-hot" else 2 * rank / (CLASSES * (CLASSES + 1))
        np.testing.assert_allclose(found[1][row], expected, rtol=1e-6)
        assert found[2][row] == (0.5 if spent > 0.3 else 0.0)
    assert weights.tolist() == [1.0, 0.5, 1.0, 0.5, 1.0, 0.5], "the training set's own weights are left alone"


def test_the_noise_layer_is_for_generated_images_alone():
    generated = with_noise()
    with torch.no_grad():
        generated.noise.transition.fill_(1 / CLASSES)
    logits = torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(1))
    images = torch.tensor([REAL, 1, REAL + 2, 0, 5])
    found, targets, weights = generated.supervise(logits, torch.ones(5, CLASSES), torch.ones(5), images, 1.0)
    assert torch.equal(found[[1, 3, 4]], logits[[1, 3, 4]])
    torch.testing.assert_close(found[[0, 2]].softmax(dim=1), torch.full((2, CLASSES), 1 / CLASSES))
    assert torch.equal(targets, torch.ones(5, CLASSES))
    assert torch.equal(weights, torch.ones(5))


def test_without_anything_to_say_a_batch_goes_through_untouched():
    given = [torch.ones(2, CLASSES), torch.ones(2, CLASSES), torch.ones(2)]
    found = FIXED_LABELS.supervise(*given, torch.arange(2), 0.5)
    assert all(one is two for one, two in zip(given, found, strict=True))
    assert bits(*[trained(FIXED_LABELS)[0]]) == bits(trained(Supervision(first=REAL))[0])


@pytest.mark.parametrize("name", PSEUDO_LABELS)
def test_supervision_never_waits_for_the_device(name):
    """Tensors without storage: reading one number back to the host would raise."""
    generated = with_noise(pseudo_label=PSEUDO_LABELS[name], start=0.3)
    meta = torch.device("meta")
    generated.to(meta)
    logits = torch.empty(6, CLASSES, device=meta, requires_grad=True)
    images = torch.empty(6, dtype=torch.int64, device=meta)
    targets, weights = torch.empty(6, CLASSES, device=meta), torch.empty(6, device=meta)
    for spent in (0.1, 1.0):
        found = generated.supervise(logits, targets, weights, images, spent)
        assert {one.device.type for one in found} == {"meta"}
        (found[0].sum() + found[1].sum() * found[2].sum()).backward()
        generated.update_noise(0.5)


@pytest.mark.parametrize("name", PSEUDO_LABELS)
def test_a_step_follows_the_predictions_of_that_step(name):
    """A step of plain SGD on one batch of everything: the classifier's bias moves by -rate mean(softmax - target)."""
    training, image, rate = training_set(weight=0.5), make_image(), 0.5
    recipe = make_recipe(
        epochs=1,
        batch_size=REAL + GENERATED,
        optimizer={"learning_rate": rate, "head_learning_rate": rate, "momentum": 0.0, "weight_decay": 0.0},
    )
    encoder = initial_encoder(recipe, CLASSES, image)
    with torch.no_grad():
        encoder.head[0].weight.normal_(generator=torch.Generator().manual_seed(2))
        before = encoder.head[0].bias.clone()
        logits = copy.deepcopy(encoder).train()(to_input(training.pixels, image))
    wanted = training.targets.batch(torch.arange(REAL + GENERATED)).clone()
    for row in range(REAL, REAL + GENERATED):
        ascending = sorted(range(CLASSES), key=lambda k, row=row: float(logits[row, k]))
        for rank, k in enumerate(ascending, start=1):
            wanted[row, k] = float(rank == CLASSES) if name == "one-hot" else 2 * rank / (CLASSES * (CLASSES + 1))
    factor = training.weights[:, None]
    expected = -rate * (factor * (logits.softmax(dim=1) - wanted)).mean(dim=0)
    generated = Supervision(first=REAL, pseudo_label=PSEUDO_LABELS[name])
    train_classifier(encoder, training, None, recipe, image, CPU, supervision=generated)
    torch.testing.assert_close(encoder.head[0].bias.detach() - before, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", PSEUDO_LABELS)
def test_before_their_start_generated_images_weigh_nothing(name):
    late = Supervision(first=REAL, pseudo_label=PSEUDO_LABELS[name], start=1.0)
    assert bits(trained(late)[0]) == bits(trained(FIXED_LABELS, training_set(weight=0.0))[0])
    losses = {first: trained(Supervision(REAL, PSEUDO_LABELS[name], first / 3))[1] for first in (0, 1, 3)}
    assert losses[1][0] == losses[3][0]
    assert losses[1][1] != losses[3][1]
    assert losses[0][0] != losses[1][0]


def test_the_share_that_is_spent_is_that_of_the_summed_rate():
    """Two epochs of three steps at the full rate, one at a tenth."""
    seen = []

    class Watched(Supervision):
        def supervise(self, logits, targets, weights, images, spent):
            seen.append(spent)
            return super().supervise(logits, targets, weights, images, spent)

    trained(Watched(), schedule={"name": "step", "step_epochs": 2, "step_factor": 0.1})
    rates = [1.0] * 6 + [0.1] * 3
    assert seen == pytest.approx([sum(rates[: step + 1]) / sum(rates) for step in range(9)])
    assert seen[-1] == 1.0


def test_every_regularizer_trains_a_network_of_its_own():
    ways = {
        "lsro": (FIXED_LABELS, training_set()),
        "slsr": (FIXED_LABELS, training_set(slsr([1, 3]))),
        "nothing": (FIXED_LABELS, training_set(weight=0.0)),
        "one-hot": (Supervision(REAL, likeliest), training_set()),
        "mprl": (Supervision(REAL, multi_pseudo_label), training_set()),
        "slsr with noise": (with_noise(), training_set(slsr([1, 3]))),
    }
    found = {name: bits(trained(*way)[0]) for name, way in ways.items()}
    assert len(set(found.values())) == len(ways)


def test_the_stored_target_of_an_image_with_a_pseudo_label_does_not_matter():
    generated = Supervision(REAL, multi_pseudo_label)
    assert bits(trained(generated, training_set(slsr([2])))[0]) == bits(trained(generated, training_set())[0])


def test_the_noise_layer_is_trained_and_never_enters_the_network():
    generated = with_noise(rate=0.2)
    encoder, _ = trained(generated, training_set(slsr([1, 3])))
    plain, _ = trained(FIXED_LABELS, training_set(slsr([1, 3])))
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    matrix = generated.noise.transition.detach()
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(CLASSES, dtype=torch.float64))
    moved = 1 - matrix.diagonal()
    assert float(moved.max()) > 0.05
    assert float(matrix[:, [1, 3]].sum()) > float(matrix[:, [0, 2]].sum()), "towards the identities of the label"


def test_a_noise_layer_that_cannot_move_trains_the_same_network():
    """At the start it is the identity: up to rounding, nothing changes."""
    still, first = trained(with_noise(rate=0.0), training_set(slsr([1, 3])), epochs=1)
    plain, second = trained(FIXED_LABELS, training_set(slsr([1, 3])), epochs=1)
    assert first == pytest.approx(second, rel=1e-4)
    for one, two in zip(still.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_the_schedule_moves_the_rate_of_the_noise_layer_too(monkeypatch):
    rates = []
    monkeypatch.setattr(NoiseLayer, "descend", lambda self, rate: rates.append(rate))
    trained(
        with_noise(rate=0.4), epochs=4, batch_size=32, schedule={"name": "step", "step_epochs": 2, "step_factor": 0.1}
    )
    assert rates == pytest.approx([0.4, 0.4, 0.04, 0.04])


def make_generated(name):
    return with_noise(pseudo_label=PSEUDO_LABELS.get(name), start=1 / 3)


@pytest.mark.parametrize("name", ["slsr", *PSEUDO_LABELS])
def test_the_same_seed_gives_the_same_bits(name):
    found = []
    for _ in range(2):
        torch.manual_seed(len(found))
        generated = make_generated(name)
        found.append(bits(trained(generated, training_set(slsr([1, 3])), seed=5)[0], generated))
    assert found[0] == found[1]
    generated = make_generated(name)
    assert bits(trained(generated, training_set(slsr([1, 3])), seed=6)[0], generated) != found[0]


class Killed(Exception):
    """Stands for a kill between two steps: whatever was not saved is lost."""


def killed_at(steps, kill):
    """`Keeper.due`, but `kill` is called instead when it is asked for the time after `steps`."""
    due, seen = Keeper.due, []

    def counted(self, ended=0):
        seen.append(1)
        if len(seen) > steps:
            kill()
        return due(self, ended)

    return counted


def raise_killed():
    raise Killed


@pytest.mark.parametrize("name", ["slsr", *PSEUDO_LABELS])
def test_a_run_goes_on_with_the_same_bits(tmp_path, monkeypatch, name):
    """Left in the epoch before pseudo-labels, at its end, and in the middle of a later one."""
    generated = make_generated(name)
    encoder, losses = trained(generated, training_set(slsr([1, 3])))
    for steps in (1, 2, 2):
        with monkeypatch.context() as patch, pytest.raises(Killed), kept(tmp_path / "key", Interval(0)) as keeper:
            patch.setattr(Keeper, "due", killed_at(steps, raise_killed))
            trained(make_generated(name), training_set(slsr([1, 3])), keeper)
        state = torch.load(tmp_path / "key" / STATE, weights_only=True)
        assert torch.equal(state["learner"]["supervision"]["transition"].sum(dim=1).float(), torch.ones(CLASSES))
    again = make_generated(name)
    with kept(tmp_path / "key", Interval(0)) as keeper:
        found, said = trained(again, training_set(slsr([1, 3])), keeper)
    assert bits(found, again) == bits(encoder, generated)
    assert said == losses
    assert float((again.noise.transition - torch.eye(CLASSES)).detach().abs().max()) > 0.001


def run_until_killed(folder: Path, steps: int) -> None:
    """Train with a state saved at each step; die by SIGKILL after the given ones, or write what came out."""
    torch.set_num_threads(1)
    encoders.build_backbone = build_tiny_backbone
    backbones.WIDTHS["resnet18"] = 16
    Keeper.due = killed_at(steps, lambda: os.kill(os.getpid(), signal.SIGKILL))
    generated = make_generated("mprl")
    with kept(folder / "scratch" / "key", Interval(0)) as keeper:
        encoder, losses = trained(generated, keeper=keeper)
    (folder / "found").write_text(f"{bits(encoder, generated)} {losses}")


@pytest.mark.slow
def test_a_kill_changes_nothing(tmp_path):
    generated = make_generated("mprl")
    encoder, losses = trained(generated)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for steps, code in ((4, -signal.SIGKILL), (99, 0)):
        process = context.Process(target=run_until_killed, args=(tmp_path, steps))
        process.start()
        process.join(120)
        assert process.exitcode == code
    assert (tmp_path / "found").read_text() == f"{bits(encoder, generated)} {losses}"


def train_together(folder: Path) -> tuple[list[float], np.ndarray]:
    """Losses and the noise layer of a run whose pseudo-labels follow a network that all processes share."""
    encoders.build_backbone = build_tiny_backbone
    backbones.WIDTHS["resnet18"] = 16
    generated = with_noise(pseudo_label=multi_pseudo_label)
    _, losses = trained(generated, batch_size=7, epochs=2)
    return losses, generated.noise.transition.detach().numpy()


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    torch.set_num_threads(1)
    losses, matrix = train_together(tmp_path)
    first, second = in_two_processes(tmp_path, train_together)
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0] == second[0]
    np.testing.assert_allclose(first[0], losses, atol=1e-4)
    np.testing.assert_allclose(first[1], matrix, atol=1e-3)
    assert np.abs(matrix - np.eye(CLASSES)).max() > 0.01
