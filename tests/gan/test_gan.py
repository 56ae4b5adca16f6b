import copy
import math
import os
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import DEFAULTS, ROOT
from torch import nn

from slsr.errors import CheckFailed, InputError, Interrupted
from slsr.gan import augmentation as diffaugment
from slsr.gan import steps
from slsr.gan.augmentation import diff_augment
from slsr.gan.batches import balanced_batch, epoch_plan, order_of, shuffled_batch, steps_behind
from slsr.gan.loop import FRAMES, GanLearner, frame_epochs, train_gan
from slsr.gan.networks import draw_images, draw_noise, to_images
from slsr.gan.projected import FeatureDiscriminator
from slsr.gan.steps import Adversaries, discriminator_loss, generator_loss, gradient_penalty
from slsr.params.file import validate_params
from slsr.params.gan import Gan
from slsr.params.presets import preset_names, render_preset
from slsr.params.reading import parse_yaml
from slsr.runtime.clock import Step
from slsr.runtime.resume import NOT_KEPT, STATE, Interval, Keeper, kept
from slsr.runtime.seeds import derived_seed
from slsr.stages.train_gan import LEAST_STEPS

CPU = torch.device("cpu")


def tiny(**changes) -> Gan:
    small = {"height": 32, "width": 32, "latent": 8, "channels": 4, "batch_size": 8, "epochs": 2}
    return Gan(**(DEFAULTS["gan"] | small | changes))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    drawn = [shuffled_batch(count, size, (3,), step) for step in range(batches)]
    assert all(len(batch) == size for batch in drawn)
    seen = np.bincount(np.concatenate(drawn), minlength=count)
    assert seen.max() - seen.min() <= 1


def test_batches_are_shuffled_anew_in_every_pass():
    first, second = (shuffled_batch(50, 50, (1,), step) for step in range(2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, shuffled_batch(50, 50, (1,), 0))
    assert not np.array_equal(first, shuffled_batch(50, 50, (2,), 0))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), size=st.integers(1, 20), steps=st.integers(1, 12))
@settings(max_examples=30)
def test_clusters_and_the_images_of_each_are_seen_equally_often(sizes, size, steps):
    clusters = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    members = [np.flatnonzero(clusters == cluster) for cluster in range(len(sizes))]
    drawn = [balanced_batch(members, size, (3,), step) for step in range(steps)]
    rows, labels = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    assert np.array_equal(clusters[rows], labels)
    visits = np.bincount(labels, minlength=len(sizes))
    assert visits.max() - visits.min() <= 1
    for own in members:
        seen = np.bincount(rows, minlength=len(clusters))[own]
        assert seen.max() - seen.min() <= 1


def test_small_sets_get_more_epochs_to_reach_the_minimum_of_steps():
    assert epoch_plan(640, tiny(batch_size=64, epochs=30)) == (30, 10)
    assert epoch_plan(641, tiny(batch_size=64, epochs=30)) == (30, 11)
    assert epoch_plan(200, tiny(batch_size=64, epochs=30, minimum_steps=1000)) == (250, 4)
    assert epoch_plan(3, tiny(batch_size=64, epochs=5)) == (5, 1)


def test_the_steps_behind_a_generator_include_its_parents():
    assert steps_behind(210, 632, tiny(batch_size=64, epochs=30)) == 120
    assert steps_behind(210, 632, tiny(batch_size=64, epochs=30, parent_epochs=100)) == 120 + 100 * 10
    assert steps_behind(210, 632, tiny(batch_size=64, epochs=30, minimum_steps=1000)) == 1000
    assert steps_behind(210, 632, tiny(batch_size=64, epochs=30, kind="conditional")) == 300


def test_no_preset_has_generators_that_learn_nothing():
    """The table in docs/generators.md: equal thirds of the images; each row counted by hand from the preset."""
    text = (ROOT / "docs/generators.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    shown = {row[0].strip("`"): [int(cell.replace(",", "")) for cell in row[1:]] for row in rows
             if row[0].strip("`") in preset_names(ROOT / "presets") and len(row) == 5}  # fmt: skip
    assert shown.keys() == {*preset_names(ROOT / "presets")} - {"cuhk03"}
    for name, (images, of_cluster, of_parent, of_all) in shown.items():
        gan = validate_params(parse_yaml(render_preset(ROOT / "presets", name)), name).gan
        assert of_cluster == round(images / 3)
        assert of_parent == gan.parent_epochs * math.ceil(images / gan.batch_size)
        learned_from = images if gan.kind == "conditional" else of_cluster
        assert of_all == of_parent + gan.epochs * math.ceil(learned_from / gan.batch_size)
        assert of_all == steps_behind(of_cluster, images, gan) >= LEAST_STEPS[gan.discriminator]
    cuhk03 = validate_params(parse_yaml(render_preset(ROOT / "presets", "cuhk03")), "cuhk03").gan
    assert all(steps_behind(size, 10_000, cuhk03) >= 1000 for size in range(1, 5000, 7))


def test_frames_are_few_and_include_the_last_epoch():
    assert frame_epochs(1) == [1]
    assert frame_epochs(5) == [1, 2, 3, 4, 5]
    assert frame_epochs(30) == list(range(1, 31)), "the published number of epochs"
    many = frame_epochs(1000)
    assert (many[0], many[-1], len(many)) == (1, 1000, FRAMES)


def test_seeds_of_different_streams_are_different():
    found = {
        derived_seed(1, 0, cluster, attempt, stream)
        for cluster in range(300)
        for attempt in range(2)
        for stream in range(6)
    }
    assert len(found) == 3600


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
    for one, other_one in zip(first.frames, again.frames, strict=True):
        assert one.epoch == other_one.epoch
        assert np.array_equal(one.pixels, other_one.pixels)
    assert not torch.equal(parameters(first.generator), parameters(other.generator))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "hinge", "spectral_norm": True, "discriminator_batch_norm": "none"},
        {"r1": 0.1, "discriminator_batch_norm": "none", "discriminator_activation": "relu"},
        {"upsampling": "nearest"},
        {"generator": "light", "reconstruction": 10.0, "reconstruction_epochs": 2},
        {"generator": "light", "discriminator": "both", "loss": "hinge", "reconstruction": 10.0},
        pytest.param({"generator": "light"}, marks=pytest.mark.slow),
        pytest.param({"discriminator": "projected", "loss": "hinge"}, marks=pytest.mark.slow),
        pytest.param({"ema": 0.9}, marks=pytest.mark.slow),
        pytest.param({"augmentation": ["translation", "cutout"]}, marks=pytest.mark.slow),
        pytest.param({"generator_steps": 3}, marks=pytest.mark.slow),
        pytest.param({"discriminator_batch_norm": "all", "epochs": 72}, marks=pytest.mark.slow),
        pytest.param({"precision": "bf16"}, marks=pytest.mark.slow),
        pytest.param({"height": 64, "epochs": 64}, marks=pytest.mark.slow),
    ],
)
def test_every_option_learns_where_it_is_bright(changes):
    """The upper half of generated images becomes brighter than the lower, as it is in the real ones.

    An adversarial training swings, so that one moment of it says little: it is enough that some epoch of the second
    half draws the real images' order, with a good part of their contrast of 180.
    """
    choice = tiny(**{"epochs": 24, "learning_rate": 0.002} | changes)
    half = choice.height // 2
    trained = train_gan(striped(24).repeat(half // 16, axis=1), choice, (1,), CPU, "t")
    contrasts = [float(frame.pixels[0, :, :half].mean() - frame.pixels[0, :, half:].mean()) for frame in trained.frames]
    assert max(contrasts[len(contrasts) // 2 :]) > 40 + min(abs(contrasts[0]), 60), contrasts
    epochs = choice.reconstruction_epochs + choice.epochs
    assert [epoch.number for epoch in trained.epochs] == list(range(1, epochs + 1))
    assert [epoch.images for epoch in trained.epochs] == list(range(24, 24 * epochs + 1, 24))
    judged = trained.epochs[choice.reconstruction_epochs :]
    assert all(0 <= value <= 1 for epoch in judged for value in (epoch.real, epoch.fake))
    assert all((epoch.reconstruction is None) == (choice.reconstruction == 0) for epoch in trained.epochs)
    drawn = draw_images(trained.generator, draw_noise((2,), 5, 8))
    assert drawn.shape == (5, choice.height, 32, 3)


def test_options_change_the_result():
    images = striped(16)
    plain = parameters(train_gan(images, tiny(), (1,), CPU, "t").generator)
    for changes in [
        {"loss": "hinge"},
        {"spectral_norm": True},
        {"r1": 10.0},
        {"augmentation": ["translation"]},
        {"augmentation": ["cutout"]},
        {"augmentation": ["color"]},
        {"ema": 0.9},
        {"generator_steps": 1},
        {"beta1": 0.0},
        {"precision": "bf16"},
        {"beta2": 0.9},
        {"discriminator_learning_rate": 0.001},
        {"augmentation": ["flip"]},
        {"generator": "light"},
        {"reconstruction": 1.0},
        {"reconstruction": 1.0, "reconstruction_epochs": 1},
        {"discriminator": "projected"},
        {"discriminator": "projected", "projected_channels": 8},
        {"discriminator": "projected", "projected_enlargement": 1},
        {"discriminator": "both"},
        {"discriminator": "both", "pixel_weight": 1.0},
    ]:
        assert not torch.equal(plain, parameters(train_gan(images, tiny(**changes), (1,), CPU, "t").generator)), changes


def test_one_image_is_enough():
    trained = train_gan(striped(1), tiny(minimum_steps=3), (1,), CPU, "cluster 0")
    assert len(trained.epochs) == 3


def test_no_image_is_an_error():
    with pytest.raises(InputError, match=r"cluster 4 has no image .* cluster\.k"):
        train_gan(striped(0), tiny(), (1,), CPU, "cluster 4")


@pytest.mark.parametrize(("poisoned", "epoch", "step"), [(0, 1, 1), (29, 1, 30), (44, 2, 5)])
def test_divergence_stops_and_names_epoch_and_step(monkeypatch, poisoned, epoch, step):
    """A loss is made NaN in one step, since Adam's own scaling can keep an absurd learning rate finite."""
    calls = Counter()

    def loss(*arguments):
        calls["steps"] += 1
        return discriminator_loss(*arguments) * (float("nan") if calls["steps"] == poisoned + 1 else 1)

    monkeypatch.setattr(steps, "discriminator_loss", loss)
    with pytest.raises(CheckFailed, match=rf"cluster 3, epoch {epoch}, step {step}: .*diverged.*gan\.learning_rate"):
        train_gan(striped(160), tiny(batch_size=4, epochs=3), (1,), CPU, "cluster 3")
    assert calls["steps"] == poisoned + 1, "at once, where checking costs nothing"


def test_divergence_names_the_last_good_state(monkeypatch, tmp_path):
    calls = Counter()

    def loss(*arguments):
        calls["steps"] += 1
        return discriminator_loss(*arguments) * (float("nan") if calls["steps"] == 8 else 1)

    monkeypatch.setattr(steps, "discriminator_loss", loss)
    keeper = Keeper(tmp_path / "t", Interval(0))
    with pytest.raises(CheckFailed, match=r"after step 7 of all, is .*state\.pt"):
        train_gan(striped(16), tiny(batch_size=4, epochs=3), (1,), CPU, "t", keeper=keeper)
    assert torch.load(tmp_path / "t" / STATE, weights_only=True)["step"] == 7


def test_a_diverged_training_leaves_no_state_to_go_on_from(monkeypatch, tmp_path):
    monkeypatch.setattr(steps, "discriminator_loss", lambda *arguments: discriminator_loss(*arguments) * float("nan"))
    with pytest.raises(CheckFailed):
        train_gan(striped(16), tiny(), (1,), CPU, "t", keeper=Keeper(tmp_path / "t", Interval(0)))
    assert not (tmp_path / "t" / STATE).exists()


INTERRUPTED = [
    {},
    {"ema": 0.9, "generator_steps": 2, "upsampling": "nearest", "augmentation": ["color", "translation", "cutout"]},
    {"spectral_norm": True, "loss": "hinge", "r1": 0.5, "discriminator_batch_norm": "none"},
    {
        "generator": "light",
        "discriminator": "both",
        "projected_channels": 8,
        "projected_enlargement": 1,
        "reconstruction": 10.0,
        "reconstruction_epochs": 1,
        "ema": 0.9,
        "augmentation": ["flip", "translation"],
    },
]


@pytest.mark.parametrize("changes", INTERRUPTED)
@pytest.mark.parametrize("clusters", [None, np.arange(20, dtype=np.int32) % 3])
def test_a_training_interrupted_at_every_step_ends_as_one_that_was_not(tmp_path, changes, clusters):
    choice = tiny(epochs=3 - changes.get("reconstruction_epochs", 0), **changes)

    def train(keeper=NOT_KEPT):
        return train_gan(striped(20), choice, (1, 0), CPU, "t", clusters=clusters, keeper=keeper, keep_networks=True)

    whole = train()
    ended = None
    for _ in range(12):
        keeper = Keeper(tmp_path / "t", Interval(1e9))
        keeper.request_stop()
        try:
            ended = train(keeper)
        except Interrupted as error:
            assert "the same command goes on" in str(error)
    again = train(Keeper(tmp_path / "t", Interval(1e9)))
    assert ended is not None
    for found in (ended, again):
        assert found.epochs == whole.epochs
        for network, expected in (
            (found.generator, whole.generator),
            (found.networks.generator, whole.networks.generator),
            (found.networks.discriminator, whole.networks.discriminator),
        ):
            for name, tensor in expected.state_dict().items():
                assert torch.equal(network.state_dict()[name], tensor), name
        assert [frame.epoch for frame in found.frames] == [1, 2, 3]
        for frame, other in zip(found.frames, whole.frames, strict=True):
            assert np.array_equal(frame.pixels, other.pixels)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, monkeypatch, number):
    choice = tiny(epochs=3)
    expected = parameters(train_gan(striped(20), choice, (1,), CPU, "t").generator)
    steps, train_step = Counter(), Adversaries.train_step

    def step(*arguments):
        steps["seen"] += 1
        if steps["seen"] == 5:
            os.kill(os.getpid(), number)
        return train_step(*arguments)

    monkeypatch.setattr(Adversaries, "train_step", step)
    message = r"interrupted after step 5; the same command goes on from"
    with pytest.raises(Interrupted, match=message), kept(tmp_path / "key", Interval(1e9)) as keeper:
        train_gan(striped(20), choice, (1,), CPU, "t", keeper=keeper)
    assert steps["seen"] == 5
    with kept(tmp_path / "key", Interval(1e9)) as keeper:
        found = train_gan(striped(20), choice, (1,), CPU, "t", keeper=keeper)
    assert steps["seen"] == 9, "three epochs of three steps"
    assert torch.equal(parameters(found.generator), expected)


def test_a_conditional_generator_tells_clusters_apart():
    """Cluster 0 is bright above, cluster 1 below; one network draws both."""
    pixels = np.concatenate([striped(16), striped(16)[:, ::-1]])
    clusters = np.repeat(np.arange(2, dtype=np.int32), 16)
    choice = tiny(epochs=60, learning_rate=0.002)
    trained = train_gan(pixels, choice, (1,), CPU, "conditional", clusters=clusters)
    assert trained.generator.description.clusters == 2
    contrasts = np.array([frame.pixels[:, :, :16].mean(axis=(1, 2, 3, 4)) for frame in trained.frames]) - np.array(
        [frame.pixels[:, :, 16:].mean(axis=(1, 2, 3, 4)) for frame in trained.frames]
    )
    apart = contrasts[:, 0] - contrasts[:, 1]
    assert apart[-8:].max() > 80, apart


def test_reconstruction_draws_the_images_of_the_codes():
    """After reconstruction alone, codes give back their images: better than any one image could, and in their order."""
    shares = np.random.default_rng(3).uniform(40, 220, (24, 1, 1, 1))
    pixels = np.broadcast_to(shares, (24, 32, 32, 3)).astype(np.uint8).copy()
    choice = tiny(reconstruction=1.0, reconstruction_epochs=60, epochs=1, learning_rate=0.003)
    learner = GanLearner(pixels, choice, (1,), CPU, "t", None, None)
    for number in range(180):
        learner.learn(Step(number, number // 3, number % 3, ends_epoch=number % 3 == 2))
    real = to_images(torch.from_numpy(pixels))
    generator = learner.adversaries.networks.generator
    codes = learner.adversaries.networks.codes(real, torch.zeros(24, choice.latent))
    drawn = generator(codes).detach()
    error = (drawn - real).abs().mean()
    assert error < (real.median() - real).abs().mean() / 2
    levels = [images.mean(dim=(1, 2, 3)) for images in (drawn, real)]
    assert np.corrcoef(*levels)[0, 1] > 0.8


def test_epochs_of_reconstruction_alone_have_no_discriminator():
    trained = train_gan(
        striped(16), tiny(reconstruction=5.0, reconstruction_epochs=2, epochs=1), (1,), CPU, "t", keep_networks=True
    )
    assert [epoch.discriminator_loss is None for epoch in trained.epochs] == [True, True, False]
    assert [epoch.fake is None for epoch in trained.epochs] == [True, True, False]
    assert trained.epochs[1].reconstruction < trained.epochs[0].reconstruction
    assert len(trained.frames) == 3


def test_a_reconstruction_is_the_mean_absolute_difference():
    adversaries = Adversaries(tiny(reconstruction=3.0, latent=7), (1,), CPU)
    pixels = torch.from_numpy(striped(8))
    real = to_images(pixels)
    adversaries.measure(pixels)
    before = copy.deepcopy(adversaries.networks)
    noise = torch.zeros(8, 7)
    found = adversaries.reconstruction_step(real, 0)
    codes = before.codes(real, noise)
    expected = sum((one - other).abs().mean() for one, other in zip(before.generator(codes), real, strict=True)) / 8
    assert found[4].item() == pytest.approx(expected.item(), rel=1e-4)
    assert not torch.equal(parameters(adversaries.networks.generator), parameters(before.generator))
    assert torch.equal(parameters(adversaries.networks.discriminator), parameters(before.discriminator))


def test_projected_features_are_computed_once_for_each_image(monkeypatch):
    seen = Counter()
    plain = FeatureDiscriminator.views

    def views(self, images):
        seen["images"] += len(images)
        return plain(self, images)

    monkeypatch.setattr(FeatureDiscriminator, "views", views)
    adversaries = Adversaries(tiny(discriminator="both", generator_steps=1), (1,), CPU)
    for step in range(3):
        adversaries.train_step(torch.rand(8, 3, 32, 32) * 2 - 1, step)
    assert seen["images"] == 3 * (8 + 8)


def test_images_or_clusters_are_seen_equally_often():
    clusters = np.repeat(np.arange(2, dtype=np.int32), [30, 10])
    shares = {}
    for balance in ("images", "clusters"):
        order = order_of(40, clusters, balance, "t")
        drawn = [order.batch(8, (1,), step, CPU) for step in range(10)]
        rows, known = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        assert np.array_equal(clusters[rows], known)
        shares[balance] = known.float().mean().item()
        if balance == "images":
            assert np.bincount(rows).tolist() == [2] * 40
    assert shares == {"images": pytest.approx(0.25), "clusters": pytest.approx(0.5)}


def test_flips_mirror_half_of_the_images():
    images = torch.rand(400, 3, 4, 6)
    flipped = diff_augment(images, ["flip"], torch.Generator().manual_seed(1))
    mirrored = [torch.equal(one, other.flip(2)) for one, other in zip(flipped, images, strict=True)]
    same = [torch.equal(one, other) for one, other in zip(flipped, images, strict=True)]
    assert all(one != other for one, other in zip(mirrored, same, strict=True))
    assert 140 < sum(mirrored) < 260


def test_generator_steps_leave_the_discriminator_alone():
    real = torch.rand(8, 3, 32, 32) * 2 - 1
    judges = []
    for count in (1, 3):
        adversaries = Adversaries(tiny(generator_steps=count), (1,), CPU)
        adversaries.train_step(real.clone(), 0)
        judges.append(parameters(adversaries.networks.discriminator))
        assert all(parameter.requires_grad for parameter in adversaries.networks.discriminator.parameters())
    assert torch.equal(*judges)


def test_averaged_generator_is_the_running_mean_of_a_loop():
    adversaries = Adversaries(tiny(ema=0.5, generator_steps=1), (1,), CPU)
    expected = parameters(adversaries.averaged).clone()
    real = torch.rand(8, 3, 32, 32) * 2 - 1
    for update in range(1, 13):
        adversaries.train_step(real.clone(), update - 1)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * parameters(adversaries.networks.generator)
    torch.testing.assert_close(parameters(adversaries.averaged), expected)


def test_a_training_starts_from_given_networks_and_leaves_them():
    parent = train_gan(striped(16), tiny(), (1, 1), CPU, "parent", keep_networks=True).networks
    before = copy.deepcopy(parent)
    slow = tiny(learning_rate=1e-12, epochs=1)
    child = train_gan(striped(16, seed=3), slow, (1, 0), CPU, "child", start=parent, keep_networks=True)
    torch.testing.assert_close(parameters(child.networks.generator), parameters(before.generator))
    torch.testing.assert_close(parameters(child.networks.discriminator), parameters(before.discriminator))
    train_gan(striped(16, seed=3), tiny(), (1, 0), CPU, "child", start=parent)
    assert torch.equal(parameters(parent.generator), parameters(before.generator))


def test_translation_is_a_shift_by_at_most_an_eighth_filled_with_gray():
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


def test_color_keeps_where_things_are():
    """Brightness, saturation and contrast are affine in each image, so a gray image stays gray and ordered."""
    gray = torch.linspace(-0.5, 0.5, 64).view(1, 1, 8, 8).expand(5, 3, 8, 8)
    changed = diff_augment(gray, ["color"], torch.Generator().manual_seed(1))
    torch.testing.assert_close(changed[:, 0], changed[:, 2])
    assert (changed.flatten(2).diff(dim=2) > 0).all()
    assert len({round(image.mean().item(), 4) for image in changed}) == 5


@pytest.mark.parametrize("names", [["translation"], ["cutout"], ["translation", "cutout"]])
def test_gradients_reach_exactly_what_is_still_seen(names):
    """A pixel that was moved out or cut out gets no gradient, the others that of where they went.

    (Color couples all pixels of an image through its mean: there nothing is exactly without gradient.)
    """
    images = (torch.rand(6, 3, 16, 16) + 0.5).requires_grad_()
    augmented = diff_augment(images, names, torch.Generator().manual_seed(1))
    augmented.square().sum().backward()
    for image, result, gradient in zip(images.detach(), augmented.detach(), images.grad, strict=True):
        kept_values = result[result != 0]
        assert torch.equal(gradient[gradient != 0].sort().values, (2 * kept_values).sort().values)
        assert torch.equal(gradient[gradient != 0], 2 * image[gradient != 0])
        assert (gradient == 0).any() or not (result == 0).any()


def test_gradients_of_color_are_those_of_differences():
    images = torch.rand(2, 3, 3, 3, dtype=torch.float64).mul(2).sub(1).requires_grad_()
    draws = torch.rand(3, 2, 1, 1, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda given: diffaugment.change_color(given, *draws), (images,))
    single = images.detach().float().requires_grad_()
    diff_augment(single, ["color"], torch.Generator().manual_seed(1)).square().sum().backward()
    assert (single.grad.flatten(1).abs().sum(dim=1) > 0).all()
