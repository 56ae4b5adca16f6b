"""Training: it learns, it repeats itself, and the label of a generated image moves the weights."""

import copy
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import colored, make_image, make_recipe, noise

from slsr.errors import CheckFailed, InputError, Interrupted
from slsr.images.augmentation import to_input
from slsr.images.loading import LabeledImages
from slsr.labels.distributions import lsro, one_hot, slsr
from slsr.labels.targets import make_targets
from slsr.models.encoder import Encoder, EncoderDescription
from slsr.models.weights import initial_encoder
from slsr.runtime.resume import NOT_KEPT, STATE, Interval, Keeper
from slsr.training import classifier
from slsr.training.classifier import (
    TrainingSet,
    batches,
    build_optimizer,
    describe,
    set_learning_rate,
    train_classifier,
    validate,
)
from slsr.training.metric_losses import CenterLoss
from slsr.training.run import train_and_save

CPU = torch.device("cpu")
CLASSES = 4

pytestmark = pytest.mark.usefixtures("tiny_backbone")


def labels(count):
    return [number % CLASSES for number in range(count)]


def real_set(count=16, seed=0):
    return TrainingSet.of_labeled(colored(labels(count), seed=seed))


def mixed_set(generated_target, weight=1.0, real=16, generated=8):
    """Labeled images, and noise with one target."""
    images = colored(labels(real))
    pixels = torch.cat([images.pixels, torch.from_numpy(noise(generated, seed=5))])
    distributions = [one_hot(label) for label in labels(real)] + [generated_target] * generated
    weights = torch.cat([torch.ones(real), torch.full((generated,), weight)])
    return TrainingSet(pixels, make_targets(distributions, CLASSES), weights, images.labels)


def trained(training, validation=None, image=None, **recipe):
    """The encoder after training, and its epochs."""
    image, choice, epochs = image or make_image(), make_recipe(**recipe), []
    encoder = initial_encoder(choice, CLASSES, image)
    train_classifier(encoder, training, validation, choice, image, CPU, epochs.append)
    return encoder, epochs


def equal(one, two):
    first, second = one.state_dict(), two.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("head", "optimizer"),
    [("plain", "sgd"), ("linear", "sgd-nesterov"), ("bottleneck", "adamw"), ("bnneck", "adam")],
)
def test_it_learns_what_can_be_learned(head, optimizer):
    _, epochs = trained(
        real_set(32),
        colored(labels(12), seed=1),
        head=head,
        epochs=10,
        horizontal_flip=True,
        random_crop=True,
        schedule={"name": "one-cycle"},
        optimizer={"name": optimizer, "learning_rate": 0.02, "head_learning_rate": 0.02, "weight_decay": 0.0},
    )
    assert [epoch.number for epoch in epochs] == list(range(1, 11))
    assert epochs[0].loss > 1.0
    assert epochs[-1].validation_accuracy > 0.9
    assert epochs[-1].loss < 0.7 * epochs[0].loss
    assert epochs[-1].validation_loss < 0.5 * epochs[0].validation_loss


RANDOM = {"random_crop": True, "horizontal_flip": True, "random_erasing": 0.5, "head": "bottleneck"}


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    torch.manual_seed(1)
    one, first = trained(real_set(), colored(labels(4), seed=2), seed=3, **RANDOM)
    torch.manual_seed(2)
    torch.rand(7)
    two, second = trained(real_set(), colored(labels(4), seed=2), seed=3, **RANDOM)
    assert equal(one, two)
    assert first == second
    three, _ = trained(real_set(), seed=4, **RANDOM)
    assert not equal(one, three)


def test_validation_does_not_change_the_training():
    one, _ = trained(real_set(), None, **RANDOM)
    two, _ = trained(real_set(), colored(labels(10), seed=9), **RANDOM)
    assert equal(one, two)


def from_one_start(training, seed, **recipe):
    """Trained with a seed, but from the same initial weights whatever the seed."""
    image = make_image()
    encoder = initial_encoder(make_recipe(seed=1, head="bottleneck"), CLASSES, image)
    train_classifier(encoder, training, None, make_recipe(seed=seed, head="bottleneck", **recipe), image, CPU)
    return encoder


@pytest.mark.parametrize("drawn", ["order", "dropout", "random_crop", "horizontal_flip", "random_erasing"])
def test_each_draw_follows_the_seed(drawn):
    """One batch of all images leaves no order; what is left to chance is what is switched on."""
    options = {"batch_size": 16, "epochs": 1} if drawn != "order" else {"batch_size": 4, "epochs": 1}
    if drawn not in ("order", "dropout"):
        options[drawn] = 0.8 if drawn == "random_erasing" else True
    assert not equal(from_one_start(real_set(), 1, **options), from_one_start(real_set(), 2, **options))


def watched(training, seen):
    """The same set; the images of each batch that the loss is computed of are appended to `seen`."""

    class Watched:
        def __init__(self, targets):
            self.table, self._targets = targets.table, targets

        def to(self, device):
            return self

        def batch(self, images):
            seen.append(images.tolist())
            return self._targets.batch(images)

    return TrainingSet(training.pixels, Watched(training.targets), training.weights, training.labels)


def test_every_epoch_sees_every_image_once_in_another_order():
    seen = []
    trained(watched(real_set(19), seen), epochs=3, batch_size=6)
    orders = [[*chain(*seen[start : start + 3])] for start in range(0, len(seen), 3)]
    assert [len(batch) for batch in seen[:3]] == [6, 6, 7], "the image left over joins the batch before"
    assert len(orders) == 3
    for order in orders:
        assert sorted(order) == list(range(19))
    assert len({tuple(order) for order in orders}) == 3


PEOPLE = {"sampler": "identities", "batch_size": 6, "images_per_identity": 2}


def test_batches_of_identities_have_their_real_images_first_and_generated_ones_beside_them():
    """19 real and 8 generated images: three batches a pass, each with 3 x 2 real ones and 6 * 8 / 19 = 2.5 others."""
    seen, training = [], mixed_set(lsro(CLASSES), real=19)
    trained(watched(training, seen), epochs=4, **PEOPLE)
    assert [len(batch) for batch in seen] == [6 + 3] * 4 * 3
    for batch in seen:
        people = [labels(19)[image] for image in batch[:6]]
        assert people[::2] == people[1::2], "two images of each, side by side"
        assert len({*people}) == 3
        assert len({*batch}) == 9, "nobody has fewer than two images, so none is there twice"
        assert all(19 <= image < 27 for image in batch[6:])
    passes = [[*chain(*seen[start : start + 3])] for start in range(0, 12, 3)]
    assert all({*range(19, 27)} <= {*one} for one in passes), "a pass shows every generated image"
    assert {*range(27)} == {*chain(*passes)}
    assert len({tuple(one) for one in passes}) == 4


def test_batches_of_identities_have_the_same_steps_whatever_is_generated():
    """So that every regularizer has; a shuffled union has more of them."""
    sets = [real_set(19), *(mixed_set(lsro(CLASSES), real=19, generated=count) for count in (1, 8, 60))]
    found = [trained(training, epochs=2, **PEOPLE)[1] for training in sets]
    assert [[epoch.steps for epoch in epochs] for epochs in found] == [[3, 6]] * 4
    assert len({tuple(epoch.rate_sum for epoch in epochs) for epochs in found}) == 1
    assert [trained(training, epochs=1, batch_size=6)[1][0].steps for training in sets] == [3, 4, 5, 13]


def test_more_identities_in_a_batch_than_there_are_are_refused_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the curves look for a git repository in the current folder
    recipe, image, epochs = make_recipe(sampler="identities", batch_size=10, images_per_identity=2), make_image(), []
    encoder = initial_encoder(recipe, CLASSES, image)
    before = copy.deepcopy(encoder)
    with pytest.raises(InputError, match=r"10 / 2 = 5 identities in a batch, but the training images have 4") as caught:
        train_classifier(encoder, real_set(19), None, recipe, image, CPU, epochs.append)
    assert "\n" not in str(caught.value)
    assert equal(encoder, before)
    assert epochs == []
    with pytest.raises(InputError, match="set batch_size to at most 8"):
        train_and_save(tmp_path / "model", real_set(19), None, recipe, image, tmp_path, NOT_KEPT)
    assert [*tmp_path.iterdir()] == []


def naive_losses(encoder, training, image, batch, margin, centers):
    """Cross-entropy, triplet loss and center loss of one batch, image by image, in float64.

    The triplet and center losses are of the real images and the pooled features; the cross-entropy is the mean over
    all images and of what the neck gives, which divides by the deviations of the batch.
    """
    with torch.no_grad():
        maps = copy.deepcopy(encoder.backbone).train()(to_input(training.pixels[batch], image))
    pooled = maps.double().mean(dim=(2, 3)).numpy()
    necked = (pooled - pooled.mean(axis=0)) / np.sqrt(pooled.var(axis=0) + 1e-5)
    logits = necked @ encoder.head[-1].weight.detach().double().numpy().T
    entropy, triplet, center = [], [], []
    for row, number in enumerate(batch):
        logs = logits[row] - np.log(np.exp(logits[row]).sum())
        target = training.targets.batch(torch.tensor([number]))[0].double().numpy()
        entropy.append(-float(training.weights[number]) * float(target @ logs))
    people = training.labels[[number for number in batch if number < len(training.labels)]].tolist()
    for row, label in enumerate(people):
        distances = [float(np.linalg.norm(pooled[row] - pooled[other])) for other in range(len(people))]
        positive = max(far for far, other in zip(distances, people, strict=True) if other == label)
        negative = min(near for near, other in zip(distances, people, strict=True) if other != label)
        excess = positive - negative
        triplet.append(np.log1p(np.exp(excess)) if margin is None else max(0.0, margin + excess))
        center.append(float(((pooled[row] - centers[label]) ** 2).sum()))
    return [float(np.mean(losses)) for losses in (entropy, triplet, center)]


@pytest.mark.parametrize(
    ("triplet", "margin", "center"), [(0, 3.0, 0), (1, 3.0, 0), (20, None, 0), (0, 3.0, 0.01), (2, 3.0, 0.01)]
)
def test_the_loss_is_the_sum_of_what_loops_find(monkeypatch, triplet, margin, center):
    """One step at a rate of next to nothing, with smoothed labels of real images and half of the generated ones'."""
    training, image, seen, built = mixed_set(slsr([1, 3]), weight=0.5, real=19), make_image(), [], []
    smoothed = [(np.arange(CLASSES, dtype=np.int32), 0.9 * np.eye(CLASSES)[one] + 0.1 / CLASSES) for one in labels(19)]
    smoothed = [(index, share.astype(np.float32)) for index, share in smoothed]
    training = replace(training, targets=make_targets([*smoothed, *[slsr([1, 3])] * 8], CLASSES))

    class Watched(CenterLoss):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            built.append(self.centers.detach().double().numpy().copy())

    monkeypatch.setattr(classifier, "CenterLoss", Watched)
    recipe = make_recipe(
        {"learning_rate": 1e-12, "head_learning_rate": 1e-12},
        steps=1,
        epochs=1,
        head="bnneck",
        triplet={"weight": triplet, "margin": margin},
        center={"weight": center, "learning_rate": 0.5},
        **PEOPLE,
    )
    encoder, epochs = initial_encoder(recipe, CLASSES, image), []
    with torch.no_grad():
        encoder.head[-1].weight.normal_(generator=torch.Generator().manual_seed(2))
    start = copy.deepcopy(encoder)
    train_classifier(encoder, watched(training, seen), None, recipe, image, CPU, epochs.append)
    assert [centers.shape for centers in built] == ([(CLASSES, 16)] if center else [])
    centers = built[0] if center else np.zeros((CLASSES, 16))
    weights, losses = (1, triplet, center), naive_losses(start, training, image, seen[0], margin, centers)
    parts = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
    assert epochs[0].loss == pytest.approx(sum(parts), rel=1e-4)
    assert all(part > 0.01 * sum(parts) for part, weight in zip(parts, weights, strict=True) if weight), "all count"


def test_triplet_and_center_losses_move_the_weights_of_the_backbone():
    """Of one start; the label loss alone moves them otherwise."""
    common = {"epochs": 1, "head": "bnneck", **PEOPLE}
    ways = [{}, {"triplet": {"weight": 1.0, "margin": 3.0}}, {"center": {"weight": 0.1, "learning_rate": 0.5}}]
    found = [trained(real_set(19), **common, **way)[0] for way in ways]
    assert not any(equal(found[0], other) for other in found[1:])
    assert not equal(found[1], found[2])


def after_steps(count, **recipe):
    """The weights after each of the first steps, of runs that end there."""
    return [trained(real_set(19), steps=steps, **recipe)[0].state_dict() for steps in range(1, count + 1)]


def test_averaged_weights_are_a_loop_over_the_weights_after_each_step():
    """From those after the first step; batch norms' means and variances are averaged too. Validation measures them."""
    options = {"epochs": 2, "batch_size": 6, "optimizer": {"learning_rate": 0.1}, **RANDOM}
    states, held_out = after_steps(6, **options), colored(labels(8), seed=4)
    averages = [states[0]]
    for state in states[1:]:
        averages.append({name: 0.8 * averages[-1][name] + 0.2 * value for name, value in state.items()})
    encoder, epochs = trained(real_set(19), held_out, ema=0.8, **options)
    found = encoder.state_dict()
    floats = [name for name, value in found.items() if value.is_floating_point()]
    assert any("running_var" in name for name in floats)
    for name in floats:
        torch.testing.assert_close(found[name], averages[-1][name], rtol=1e-4, atol=1e-6)
    apart = [float((found[name] - states[-1][name]).abs().max()) for name in floats]
    assert max(apart) > 0.01, "the last weights are others"
    for epoch, state in zip(epochs, (averages[2], averages[5]), strict=True):
        network = initial_encoder(make_recipe(head="bottleneck"), CLASSES, make_image())
        network.load_state_dict({name: state[name] for name in floats}, strict=False)
        loss, _ = validate(network, held_out, make_image())
        assert epoch.validation_loss == pytest.approx(loss, rel=1e-4)


def test_averaging_does_not_change_the_training():
    """The losses of the steps are those of a run without it."""
    plain, averaged = (trained(real_set(19), epochs=3, batch_size=6, ema=ema, **RANDOM)[1] for ema in (0.0, 0.9))
    assert [epoch.loss for epoch in plain] == [epoch.loss for epoch in averaged]


@given(st.integers(2, 300), st.integers(2, 64))
def test_no_batch_has_one_image_and_none_is_lost(count, size):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    parts = batches(order, size)
    assert torch.equal(torch.cat(parts), order)
    assert all(2 <= len(part) <= size + 1 for part in parts)
    assert all(len(part) == size for part in parts[:-1])
    assert len(parts) == max(1, (count + size - 2) // size)


def plain_step(target, weight=1.0, rate=0.5):
    """One step of plain SGD on one batch of everything: the change of the classifier's bias, and what it should be."""
    training, image = mixed_set(target, weight), make_image()
    recipe = make_recipe(
        epochs=1,
        batch_size=24,
        optimizer={"learning_rate": rate, "head_learning_rate": rate, "momentum": 0.0, "weight_decay": 0.0},
    )
    encoder = initial_encoder(recipe, CLASSES, image)
    with torch.no_grad():
        encoder.head[0].weight.normal_(generator=torch.Generator().manual_seed(2))
        before = encoder.head[0].bias.clone()
        probability = copy.deepcopy(encoder).train()(to_input(training.pixels, image)).softmax(dim=1)
    wanted = torch.zeros(24, CLASSES)
    for row, label in enumerate(labels(16)):
        wanted[row, label] = 1
    index, share = target
    wanted[16:, torch.from_numpy(index.astype(np.int64))] = torch.from_numpy(share)
    factor = torch.cat([torch.ones(16), torch.full((8,), weight)])[:, None]
    expected = -rate * (factor * (probability - wanted)).mean(dim=0)
    train_classifier(encoder, training, None, recipe, image, CPU)
    return encoder.head[0].bias.detach() - before, expected


@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
@pytest.mark.parametrize("target", [slsr([1, 3]), slsr([2]), lsro(CLASSES)], ids=["slsr", "one identity", "lsro"])
def test_a_step_of_training_follows_the_target_of_generated_images(target, weight):
    """The published code drops the sparse target on the way; here it arrives in the weights of the network."""
    change, expected = plain_step(target, weight)
    torch.testing.assert_close(change, expected, atol=1e-6, rtol=1e-4)


def test_slsr_and_lsro_train_different_networks():
    changes = [plain_step(target)[0] for target in (slsr([1, 3]), lsro(CLASSES))]
    difference = changes[0] - changes[1]
    # 8 of 24 images, rate 0.5: each generated image moves weight from identities 0 and 2 to 1 and 3
    expected = 0.5 * 8 / 24 * (torch.tensor([0, 0.5, 0, 0.5]) - 0.25)
    torch.testing.assert_close(difference, expected, atol=1e-6, rtol=1e-4)


def test_weight_zero_leaves_the_labels_of_generated_images_without_effect():
    one, two = (trained(mixed_set(target, 0.0), **RANDOM)[0] for target in (slsr([1, 3]), lsro(CLASSES)))
    assert equal(one, two)
    one, two = (trained(mixed_set(target, 1.0), **RANDOM)[0] for target in (slsr([1, 3]), lsro(CLASSES)))
    assert not equal(one, two)


@pytest.mark.parametrize("name", ["sgd", "sgd-nesterov", "adam", "adamw"])
def test_backbone_and_head_have_their_own_rates(name):
    encoder = Encoder(EncoderDescription("resnet18", "bottleneck", CLASSES, make_image()))
    choice = make_recipe(
        optimizer={
            "name": name,
            "learning_rate": 0.01,
            "head_learning_rate": 0.05,
            "momentum": 0.8,
            "weight_decay": 3e-4,
        }
    ).optimizer
    optimizer = build_optimizer(encoder, choice)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rate_of) == len(list(encoder.parameters()))
    assert {rate_of[id(p)] for p in encoder.backbone.parameters()} == {0.01}
    assert {rate_of[id(p)] for p in encoder.head.parameters()} == {0.05}
    assert type(optimizer) is {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(name, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 3e-4
        if name.startswith("adam"):
            assert group["betas"] == (0.8, 0.999)
        else:
            assert (group["momentum"], group["nesterov"]) == (0.8, name == "sgd-nesterov")
    set_learning_rate(optimizer, 0.5)
    set_learning_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.001, 0.005])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_norms_and_biases_may_go_without_weight_decay(name):
    encoder = Encoder(EncoderDescription("resnet18", "bottleneck", CLASSES, make_image()))
    choice = {"name": name, "learning_rate": 0.01, "head_learning_rate": 0.05, "weight_decay": 0.02}
    optimizer = build_optimizer(encoder, make_recipe(optimizer=choice | {"decay_norms_and_biases": False}).optimizer)
    found = {id(p): (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(encoder.parameters()))
    for part, rate in ((encoder.backbone, 0.01), (encoder.head, 0.05)):
        for module in part.modules():
            for key, value in module.named_parameters(recurse=False):
                without = key == "bias" or isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)
                assert found[id(value)] == (0.0 if without else 0.02, rate)


def test_without_a_gradient_adamw_shrinks_what_decays_alone():
    """One step at rate 0.1 with weight decay 0.5 leaves 95 % of each matrix, and all of each norm and bias."""
    encoder = Encoder(EncoderDescription("resnet18", "bottleneck", CLASSES, make_image()))
    before = copy.deepcopy(encoder)
    choice = {"name": "adamw", "learning_rate": 0.1, "head_learning_rate": 0.1, "weight_decay": 0.5}
    optimizer = build_optimizer(encoder, make_recipe(optimizer=choice | {"decay_norms_and_biases": False}).optimizer)
    for one in encoder.parameters():
        one.grad = torch.zeros_like(one)
    optimizer.step()
    for new, old in zip(encoder.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(new, old * (0.95 if new.ndim > 1 else 1.0))


@pytest.mark.parametrize("all_decay", [True, False])
def test_adam_is_torchs_on_the_same_gradients(all_decay):
    """With torch's loop over parameters, whose weight decay is a part of the gradient."""
    encoder = Encoder(EncoderDescription("resnet18", "bottleneck", CLASSES, make_image()))
    other = copy.deepcopy(encoder)
    choice = {"name": "adam", "learning_rate": 0.01, "head_learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.5}
    ours = build_optimizer(encoder, make_recipe(choice | {"decay_norms_and_biases": all_decay}).optimizer)
    theirs = [
        torch.optim.Adam(
            [one], lr=rate, betas=(0.8, 0.999), weight_decay=0.5 if all_decay or one.ndim > 1 else 0.0, foreach=False
        )
        for part, rate in ((other.backbone, 0.01), (other.head, 0.05))
        for one in part.parameters()
    ]
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for mine, reference in zip(encoder.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            reference.grad = mine.grad.clone()
        for optimizer in (ours, *theirs):
            optimizer.step()
    for mine, reference in zip(encoder.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


def test_the_neck_learns_at_the_rate_of_the_head_and_the_power_of_the_mean_at_that_of_the_backbone():
    encoder = Encoder(EncoderDescription("resnet18", "bnneck", CLASSES, make_image(), pooling="gem"))
    choice = {"name": "adam", "learning_rate": 0.01, "head_learning_rate": 0.05, "decay_norms_and_biases": False}
    optimizer = build_optimizer(encoder, make_recipe(choice).optimizer)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found[id(encoder.pool.p)] == (0.01, 0.0)
    assert found[id(encoder.neck.weight)] == (0.05, 0.0)
    assert found[id(encoder.head[-1].weight)] == (0.05, 5e-4)
    assert id(encoder.neck.bias) not in found
    assert len(found) == len([*encoder.parameters()]) - 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_bias_of_the_neck_stays_0_and_the_rest_learns(name):
    common = {"head": "bnneck", "pooling": "gem", "epochs": 2, "optimizer": {"name": name}}
    encoder, _ = trained(real_set(19), **common)
    start = initial_encoder(make_recipe(head="bnneck", pooling="gem"), CLASSES, make_image())
    assert not encoder.neck.bias.any()
    for key in ("pool.p", "neck.weight", "head.0.weight", "backbone.0.weight"):
        assert not torch.equal(encoder.state_dict()[key], start.state_dict()[key]), key


def test_a_rate_of_the_head_alone_moves_the_head_alone():
    def moved(backbone_rate, head_rate):
        rates = {"learning_rate": backbone_rate, "head_learning_rate": head_rate, "weight_decay": 0.0, "momentum": 0.0}
        recipe = make_recipe(epochs=1, optimizer=rates)
        encoder = initial_encoder(recipe, CLASSES, make_image())
        before = copy.deepcopy(encoder)
        train_classifier(encoder, real_set(), None, recipe, make_image(), CPU)
        return [
            max(float((a - b).detach().abs().max()) for a, b in zip(new.parameters(), old.parameters(), strict=True))
            for new, old in ((encoder.backbone, before.backbone), (encoder.head, before.head))
        ]

    backbone, head = moved(1e-12, 0.1)
    assert backbone < 1e-9
    assert head > 1e-4


def test_the_schedule_sets_the_rate_of_every_epoch():
    schedule = {"name": "step", "step_epochs": 2, "step_factor": 0.1}
    _, epochs = trained(real_set(), epochs=5, schedule=schedule, optimizer={"learning_rate": 0.02})
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([0.02, 0.02, 0.002, 0.002, 0.0002])
    _, epochs = trained(real_set(), epochs=3, schedule={"name": "one-cycle"}, optimizer={"learning_rate": 0.02})
    assert epochs[-1].learning_rate == pytest.approx(0.02 / 250_000)


def test_the_reported_loss_is_the_mean_of_the_steps():
    """At a rate of next to nothing, the loss of an epoch is the loss of the start."""
    images, image = colored(labels(16)), make_image()
    recipe = make_recipe(epochs=1, batch_size=16, optimizer={"learning_rate": 1e-12, "head_learning_rate": 1e-12})
    encoder = initial_encoder(recipe, CLASSES, image)
    with torch.no_grad():
        logits = copy.deepcopy(encoder).train()(to_input(images.pixels, image))
        expected = float(torch.nn.functional.cross_entropy(logits, images.labels))
    epochs = []
    train_classifier(encoder, TrainingSet.of_labeled(images), None, recipe, image, CPU, epochs.append)
    assert epochs[0].loss == pytest.approx(expected, rel=1e-5)
    assert epochs[0].validation_loss is None
    assert epochs[0].validation_accuracy is None


@pytest.mark.parametrize(("at", "epoch", "step"), [(1, 1, 1), (3, 1, 3), (7, 2, 3), (8, 2, 4)])
def test_a_loss_that_is_nan_stops_with_epoch_and_step(monkeypatch, at, epoch, step):
    original, calls = classifier.soft_cross_entropy, []

    def sometimes(*arguments):
        calls.append(1)
        return original(*arguments) * (float("nan") if len(calls) == at else 1.0)

    monkeypatch.setattr(classifier, "soft_cross_entropy", sometimes)
    with pytest.raises(CheckFailed, match=rf"the loss is nan in epoch {epoch}, step {step}: .*learning_rate"):
        trained(real_set(16), epochs=5, batch_size=4)
    assert len(calls) <= 4 * epoch


def test_a_loss_that_is_nan_names_the_last_good_state_and_leaves_it(monkeypatch, tmp_path):
    original, calls = classifier.soft_cross_entropy, []

    def sometimes(*arguments):
        calls.append(1)
        return original(*arguments) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(classifier, "soft_cross_entropy", sometimes)
    recipe, image, keeper = make_recipe(epochs=5, batch_size=4), make_image(), Keeper(tmp_path, Interval(0))
    encoder = initial_encoder(recipe, CLASSES, image)
    with pytest.raises(CheckFailed, match=rf"epoch 2, step 2: .*after step 5 of all, is {tmp_path / STATE}\)"):
        train_classifier(encoder, real_set(16), None, recipe, image, CPU, keeper=keeper)
    assert keeper.load()["step"] == 5


def test_a_validation_loss_that_is_nan_stops_after_its_epoch(monkeypatch, tmp_path):
    """Else no later state could be saved, since the curve is part of it."""
    losses = iter([0.5, float("nan")])
    monkeypatch.setattr(classifier, "validate", lambda *arguments: (next(losses), 0.5))
    recipe, image, keeper = make_recipe(epochs=5, batch_size=4), make_image(), Keeper(tmp_path, Interval(0))
    encoder = initial_encoder(recipe, CLASSES, image)
    with pytest.raises(CheckFailed, match=r"held-out images is nan after epoch 2: .*after step 7 of all"):
        train_classifier(
            encoder,
            real_set(16),
            LabeledImages(torch.from_numpy(noise(4)), torch.arange(4)),
            recipe,
            image,
            CPU,
            keeper=keeper,
        )


def test_a_loss_that_does_not_move_in_the_first_epoch_is_warned_about(caplog):
    trained(real_set(32), epochs=2, batch_size=4, optimizer={"learning_rate": 1e-12, "head_learning_rate": 1e-12})
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "the loss has not fallen in the first epoch" in warning.message
    assert "optimizer.learning_rate (1e-12)" in warning.message


@pytest.mark.parametrize("count", [32, 12])
def test_a_loss_that_falls_and_an_epoch_too_short_to_judge_are_not_warned_about(caplog, count):
    rate = 0.02 if count == 32 else 1e-12
    trained(real_set(count), epochs=2, batch_size=4, optimizer={"learning_rate": rate, "head_learning_rate": rate})
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_an_infinite_loss_stops_within_a_long_epoch(monkeypatch):
    original, calls = classifier.soft_cross_entropy, []

    def explode(*arguments):
        calls.append(1)
        return original(*arguments) + (float("inf") if len(calls) == 30 else 0.0)

    monkeypatch.setattr(classifier, "soft_cross_entropy", explode)
    with pytest.raises(CheckFailed, match=r"the loss is inf in epoch 1, step 30"):
        trained(real_set(160), epochs=1, batch_size=2)
    assert len(calls) == 30, "at once, where looking at the loss costs nothing"


def test_a_rate_out_of_all_proportion_is_a_failed_check():
    with pytest.raises(CheckFailed, match=r"epoch \d+, step \d+"):
        trained(real_set(16), epochs=6, optimizer={"learning_rate": 1e30, "head_learning_rate": 1e30})


def test_validation_is_a_loop_over_images():
    image = make_image()
    encoder, _ = trained(real_set(), epochs=1)
    held_out = LabeledImages(torch.from_numpy(noise(8)), torch.tensor([0, 1, 2, 3, 3, 2, 1, 1]))
    encoder.eval()
    losses, right = [], 0
    with torch.no_grad():
        for pixels, label in zip(held_out.pixels, held_out.labels.tolist(), strict=True):
            probability = encoder(to_input(pixels[None], image))[0].softmax(dim=0)
            losses.append(-float(torch.log(probability[label])))
            right += int(probability.argmax() == label)
    encoder.train()
    loss, accuracy = validate(encoder, held_out, image, batch_size=3)
    assert loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert accuracy == right / 8


def test_labeled_images_have_all_weight_on_their_label():
    training = TrainingSet.of_labeled(colored([2, 0, 3, 3]))
    assert training.targets.batch(torch.arange(4)).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert training.weights.tolist() == [1, 1, 1, 1]


def test_an_epoch_is_described_in_one_line():
    _, epochs = trained(real_set(), colored(labels(4)), epochs=1)
    line = describe(epochs[0], 7)
    assert line.startswith(
        f"epoch 1/7: loss {epochs[0].loss:.4f}, validation accuracy {epochs[0].validation_accuracy:.3f}"
    )
    _, epochs = trained(real_set(), None, epochs=1)
    assert "validation" not in describe(epochs[0], 7)


def test_a_run_in_steps_has_exactly_these_and_validates_its_last_part():
    _, epochs = trained(
        real_set(19), colored(labels(4)), epochs=2, steps=7, batch_size=6, optimizer={"learning_rate": 0.1}
    )
    assert [(epoch.number, epoch.steps) for epoch in epochs] == [(1, 3), (2, 6), (3, 7)]
    assert [epoch.rate_sum for epoch in epochs] == pytest.approx([0.3, 0.6, 0.7])
    assert all(epoch.validation_loss is not None for epoch in epochs)


def test_a_part_of_an_epoch_is_the_start_of_the_whole_one():
    """Seven steps of three a pass: the weights are those of the same run, left after seven of nine steps."""
    constant = {"batch_size": 6, **RANDOM}
    part, _ = trained(real_set(19), epochs=3, steps=7, **constant)
    recipe, image, seen = make_recipe(epochs=3, **constant), make_image(), []

    class After7(Keeper):
        def due(self, ended=0):
            seen.append(ended)
            if len(seen) == 7:
                raise KeyboardInterrupt
            return False

    whole = initial_encoder(recipe, CLASSES, image)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(whole, real_set(19), None, recipe, image, CPU, keeper=After7(Path("unused")))
    assert equal(part, whole)


@pytest.mark.parametrize("left_after", [1, 3, 6, 7])
def test_a_run_in_steps_goes_on_with_the_same_bits(tmp_path, left_after):
    """Left in the first epoch, at its end, and in or after the part of one that is the last."""
    options = {"epochs": 2, "steps": 8, "batch_size": 6, "schedule": {"name": "one-cycle"}, **RANDOM}
    expected, whole = trained(real_set(19), colored(labels(4)), **options)
    recipe, image = make_recipe(**options), make_image()

    class Leaving(Keeper):
        steps = 0

        def __init__(self, folder):
            super().__init__(folder, Interval(1e9))
            if left_after == 1:
                self.request_stop()

        def due(self, ended=0):
            self.steps += 1
            if self.steps + 1 == left_after:
                self.request_stop()
            return False

    with pytest.raises(Interrupted, match=f"after step {left_after};"):
        encoder = initial_encoder(recipe, CLASSES, image)
        train_classifier(encoder, real_set(19), colored(labels(4)), recipe, image, CPU, keeper=Leaving(tmp_path))
    encoder, epochs = initial_encoder(recipe, CLASSES, image), []
    keeper = Keeper(tmp_path, Interval(1e9))
    train_classifier(encoder, real_set(19), colored(labels(4)), recipe, image, CPU, epochs.append, keeper)
    assert equal(encoder, expected)
    assert epochs == whole
    assert [epoch.steps for epoch in epochs] == [3, 6, 8]
