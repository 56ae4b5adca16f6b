import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import DEFAULTS
from torch import nn

from slsr.errors import InputError
from slsr.params import Gan
from slsr.training.diffaugment import diff_augment
from slsr.training.gan import (
    derive_seed,
    discriminator_loss,
    epoch_plan,
    generator_loss,
    gradient_penalty,
    prepare_adversaries,
    shuffled_batches,
    train_gan,
    train_step,
)

CPU = torch.device("cpu")


def tiny(**changes) -> Gan:
    small = {"height": 32, "width": 32, "latent": 8, "channels": 4, "batch_size": 8, "epochs": 2}
    return Gan(**(DEFAULTS["gan"] | small | changes))


def striped(count: int, seed: int = 0) -> np.ndarray:
    """Bright top, dark bottom, a little noise."""
    pixels = np.full((count, 32, 32, 3), 40.0)
    pixels[:, :16] = 220
    return np.clip(pixels + np.random.default_rng(seed).normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)


def parameters(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@given(count=st.integers(1, 40), size=st.integers(1, 25), batches=st.integers(1, 12))
@settings(max_examples=30)
def test_batches_are_full_and_every_image_is_seen_equally_often(count, size, batches):
    drawn = list(itertools.islice(shuffled_batches(count, size, (3,)), batches))
    assert all(len(batch) == size for batch in drawn)
    seen = np.bincount(np.concatenate(drawn), minlength=count)
    assert seen.max() - seen.min() <= 1


def test_batches_are_shuffled_anew_in_every_pass():
    stream = shuffled_batches(50, 50, (1,))
    first, second = next(stream), next(stream)
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, next(shuffled_batches(50, 50, (1,))))


def test_small_sets_get_more_epochs_to_reach_the_minimum_of_steps():
    assert epoch_plan(640, tiny(batch_size=64, epochs=30)) == (30, 10)
    assert epoch_plan(641, tiny(batch_size=64, epochs=30)) == (30, 11)
    assert epoch_plan(200, tiny(batch_size=64, epochs=30, minimum_steps=1000)) == (250, 4)
    assert epoch_plan(3, tiny(batch_size=64, epochs=5)) == (5, 1)


def test_seeds_of_different_streams_are_different():
    found = {derive_seed((1, 0, cluster, stream)) for cluster in range(300) for stream in range(6)}
    assert len(found) == 1800


def test_cross_entropy_is_that_of_torch():
    real, fake = torch.randn(2, 9, generator=torch.Generator().manual_seed(1)) * 5
    entropy = nn.functional.binary_cross_entropy_with_logits
    expected = entropy(real, torch.ones(9)) + entropy(fake, torch.zeros(9))
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), entropy(fake, torch.ones(9)))


def test_hinge_loss_is_that_of_a_loop():
    real, fake = [2.0, 0.5, -1.0], [-3.0, 0.25, -0.5]
    expected = sum(max(0, 1 - value) for value in real) / 3 + sum(max(0, 1 + value) for value in fake) / 3
    assert discriminator_loss(torch.tensor(real), torch.tensor(fake), "hinge").item() == pytest.approx(expected)
    assert generator_loss(torch.tensor(fake), "hinge").item() == pytest.approx(-sum(fake) / 3)


def test_gradient_penalty_of_a_linear_judge_is_half_its_squared_weight():
    weight = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
    images = torch.rand(6, 3, 4, 5, requires_grad=True)
    penalty = gradient_penalty((images * weight).sum(dim=(1, 2, 3)), images)
    torch.testing.assert_close(penalty, weight.square().sum() / 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_same_seed_same_generator_and_another_seed_another():
    images = striped(20)
    first, again, other = (train_gan(images, tiny(), seed, CPU, "t") for seed in [(1, 0), (1, 0), (1, 1)])
    assert torch.equal(parameters(first.generator), parameters(again.generator))
    assert first.epochs == again.epochs
    assert np.array_equal(first.preview, again.preview)
    assert not torch.equal(parameters(first.generator), parameters(other.generator))


def test_options_change_the_result():
    images = striped(16)
    plain = parameters(train_gan(images, tiny(), (1,), CPU, "t").generator)
    for changes in [
        {"loss": "hinge"},
        {"spectral_norm": True},
        {"r1": 10.0},
        {"augmentation": ["translation"]},
        {"augmentation": ["cutout"]},
        {"augmentation": ["colour"]},
        {"ema": 0.9},
        {"generator_steps": 1},
        {"beta1": 0.0},
        {"precision": "bf16"},
    ]:
        assert not torch.equal(plain, parameters(train_gan(images, tiny(**changes), (1,), CPU, "t").generator)), changes


def test_one_image_is_enough():
    trained = train_gan(striped(1), tiny(minimum_steps=3), (1,), CPU, "cluster 0")
    assert len(trained.epochs) == 3


def test_no_image_is_an_error():
    with pytest.raises(InputError, match=r"cluster 4 has no image .* cluster\.k"):
        train_gan(striped(0), tiny(), (1,), CPU, "cluster 4")


def test_generator_steps_leave_the_discriminator_alone():
    real = torch.rand(8, 3, 32, 32) * 2 - 1
    judges = []
    for steps in (1, 3):
        choice = tiny(generator_steps=steps)
        adversaries = prepare_adversaries(choice, (1,), CPU)
        train_step(adversaries, real.clone(), choice)
        judges.append(parameters(adversaries.networks.discriminator))
        assert all(parameter.requires_grad for parameter in adversaries.networks.discriminator.parameters())
    assert torch.equal(*judges)


def test_averaged_generator_is_the_running_mean_of_a_loop():
    choice = tiny(ema=0.5, generator_steps=1)
    adversaries = prepare_adversaries(choice, (1,), CPU)
    expected = parameters(adversaries.averaged).clone()
    real = torch.rand(8, 3, 32, 32) * 2 - 1
    for update in range(1, 13):
        train_step(adversaries, real.clone(), choice)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * parameters(adversaries.networks.generator)
    torch.testing.assert_close(parameters(adversaries.averaged), expected)


def test_a_training_starts_from_given_networks_and_leaves_them():
    parent = train_gan(striped(16), tiny(), (1, 1), CPU, "parent").networks
    before = copy.deepcopy(parent)
    slow = tiny(learning_rate=1e-12, epochs=1)
    child = train_gan(striped(16, seed=3), slow, (1, 0), CPU, "child", start=parent)
    torch.testing.assert_close(parameters(child.networks.generator), parameters(before.generator))
    torch.testing.assert_close(parameters(child.networks.discriminator), parameters(before.discriminator))
    train_gan(striped(16, seed=3), tiny(), (1, 0), CPU, "child", start=parent)
    assert torch.equal(parameters(parent.generator), parameters(before.generator))


def test_translation_is_a_shift_by_at_most_an_eighth_filled_with_grey():
    images = torch.rand(40, 3, 16, 24) + 0.5
    moved = diff_augment(images, ["translation"], torch.Generator().manual_seed(1))
    shifts = set()
    for image, result in zip(images, moved, strict=True):
        candidates = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-3, 4)
            if torch.equal(shifted(image, down, right), result)
        ]
        assert len(candidates) == 1
        shifts.update(candidates)
    assert len(shifts) > 15


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    result = torch.zeros_like(image)
    height, width = image.shape[1:]
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[:, y, x] = image[:, y - down, x - right]
    return result


def test_cutout_hides_a_rectangle_of_at_most_half_the_sides():
    images = torch.rand(60, 3, 16, 24) + 0.5
    cut = diff_augment(images, ["cutout"], torch.Generator().manual_seed(1))
    areas = []
    for image, result in zip(images, cut, strict=True):
        hidden = (result == 0).all(dim=0)
        rows, columns = hidden.any(dim=1), hidden.any(dim=0)
        assert torch.equal(hidden, rows[:, None] & columns)
        assert torch.equal(result[:, ~hidden], image[:, ~hidden])
        assert 4 <= rows.sum() <= 8
        assert 6 <= columns.sum() <= 12
        areas.append(int(hidden.sum()))
    assert max(areas) == 8 * 12


def test_colour_keeps_where_things_are():
    """Brightness, saturation and contrast are affine in each image, so a grey image stays grey and ordered."""
    grey = torch.linspace(-0.5, 0.5, 64).view(1, 1, 8, 8).expand(5, 3, 8, 8)
    changed = diff_augment(grey, ["colour"], torch.Generator().manual_seed(1))
    torch.testing.assert_close(changed[:, 0], changed[:, 2])
    assert (changed.flatten(2).diff(dim=2) > 0).all()
    assert len({round(image.mean().item(), 4) for image in changed}) == 5
