"""The triplet loss and the center loss against loops, torch's own losses and finite differences."""

import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import slsr.training.metric_losses
from slsr.training.metric_losses import CenterLoss, batch_hard_triplet

MARGINS = [0.0, 0.3, 5.0, None]


def features_of(count, dimensions=5, seed=0, dtype=torch.float32):
    return torch.randn(count, dimensions, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def labels_of(count, identities, seed=0):
    return torch.randint(0, identities, (count,), generator=torch.Generator().manual_seed(seed))


def gradient(features, labels, margin):
    features = features.clone().requires_grad_()
    (found,) = torch.autograd.grad(batch_hard_triplet(features, labels, margin), features)
    return found


def naive_triplet(features, labels, margin):
    """The mean over the anchors, every distance in float64."""
    features, labels, total = features.tolist(), labels.tolist(), 0.0
    for anchor, label in zip(features, labels, strict=True):
        positive = [math.dist(anchor, other) for other, same in zip(features, labels, strict=True) if same == label]
        negative = [math.dist(anchor, other) for other, same in zip(features, labels, strict=True) if same != label]
        if negative:
            excess = max(positive) - min(negative)
            total += math.log1p(math.exp(excess)) if margin is None else max(0.0, margin + excess)
    return total / len(features)


def naive_gradient(features, labels, margin):
    """Each anchor and its two images move along the unit vectors between them, in float64."""
    x, labels = features.double().numpy(), labels.tolist()
    found = np.zeros_like(x)
    for a, label in enumerate(labels):
        distances = np.linalg.norm(x - x[a], axis=1)
        farthest = max((i for i in range(len(x)) if labels[i] == label), key=lambda i: distances[i])
        nearest = min((i for i in range(len(x)) if labels[i] != label), key=lambda i: distances[i])
        excess = distances[farthest] - distances[nearest]
        slope = 1 / (1 + math.exp(-excess)) if margin is None else float(margin + excess > 0)
        for sign, other in ((1, farthest), (-1, nearest)):
            if distances[other] > 0:
                direction = (x[a] - x[other]) / distances[other]
                found[a] += sign * slope * direction / len(x)
                found[other] -= sign * slope * direction / len(x)
    return found


@given(
    count=st.integers(1, 12),
    dimensions=st.integers(1, 6),
    identities=st.integers(1, 5),
    seed=st.integers(0, 1000),
    margin=st.sampled_from(MARGINS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_it_is_a_naive_double_loop(count, dimensions, identities, seed, margin, dtype):
    features, labels = features_of(count, dimensions, seed).to(dtype), labels_of(count, identities, seed)
    found = batch_hard_triplet(features, labels, margin)
    assert found.shape == ()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(found) == pytest.approx(naive_triplet(features, labels, margin), rel=1e-5, abs=1e-6)


def test_the_docstrings_example():
    found = doctest.testmod(slsr.training.metric_losses)
    assert (found.failed, found.attempted) == (0, 1)


@pytest.mark.parametrize("margin", MARGINS)
def test_it_is_torchs_ranking_loss_of_the_hardest_pairs(margin):
    """As the released codes write it: MarginRankingLoss with a margin, SoftMarginLoss without one."""
    features, labels = features_of(24, 16, seed=1), torch.arange(6).repeat_interleave(4)
    every = torch.stack([(features - one).square().sum(dim=1).sqrt() for one in features])
    same = torch.eye(6, dtype=torch.bool).repeat_interleave(4, dim=0).repeat_interleave(4, dim=1)
    positive, negative = (every - 1e9 * ~same).amax(dim=1), (every + 1e9 * same).amin(dim=1)
    ones = torch.ones(24)
    if margin is None:
        expected = functional.soft_margin_loss(negative - positive, ones)
    else:
        expected = functional.margin_ranking_loss(negative, positive, ones, margin=margin)
    torch.testing.assert_close(batch_hard_triplet(features, labels, margin), expected)


@pytest.mark.parametrize("margin", [0.3, 2.0, None])
@pytest.mark.parametrize("seed", range(3))
def test_its_gradient_is_that_of_finite_differences(seed, margin):
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 0])
    features = features_of(7, 3, seed, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: batch_hard_triplet(x, labels, margin), (features,))
    assert gradient(features.detach(), labels, margin).abs().max() > 0.01


@pytest.mark.parametrize("margin", MARGINS)
def test_identical_images_have_a_distance_and_a_gradient_of_0(margin):
    """Two images of one identity are the same, and so are two of different ones; others may pick either as hardest."""
    features, labels = features_of(6, 4, seed=3), torch.tensor([0, 0, 1, 2, 2, 1])
    features[1] = features[0]
    features[4] = features[2]
    expected = naive_triplet(features, labels, margin)
    assert float(batch_hard_triplet(features, labels, margin)) == pytest.approx(expected, rel=1e-5)
    found, formula = gradient(features, labels, margin).numpy(), naive_gradient(features, labels, margin)
    for images in ([0, 1], [2, 4], [3], [5]):
        np.testing.assert_allclose(found[images].sum(axis=0), formula[images].sum(axis=0), atol=1e-6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("margin", "loss"), [(0.3, 0.3), (None, math.log(2))])
def test_a_network_that_gives_all_images_one_feature_has_the_loss_of_the_margin(margin, loss):
    features = features_of(1, 8).expand(6, 8)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert float(batch_hard_triplet(features, labels, margin)) == pytest.approx(loss)
    assert torch.equal(gradient(features, labels, margin), torch.zeros(6, 8))


@pytest.mark.parametrize("margin", [0.3, None])
@pytest.mark.parametrize(("offset", "spread", "apart"), [(1000.0, 0.0, 1e-2), (0.0, 3.0, 1e-4), (300.0, 30.0, 1e-2)])
def test_near_images_far_from_the_origin_are_told_apart(offset, spread, apart, margin):
    """Where float32 and a matrix product leave no right digit, also between groups of near images."""
    centers = offset + spread * features_of(4, 256, seed=5)
    features = centers.repeat_interleave(4, dim=0) + apart * features_of(16, 256, seed=6)
    labels = torch.tensor([0, 1] * 8)
    exact = naive_triplet(features, labels, margin)
    assert float(batch_hard_triplet(features, labels, margin)) == pytest.approx(exact, rel=1e-5)
    np.testing.assert_allclose(gradient(features, labels, margin), naive_gradient(features, labels, margin), atol=1e-6)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("count", [1, 5])
def test_a_batch_of_one_identity_has_no_loss(count, margin):
    features, labels = features_of(count), torch.full((count,), 3)
    assert float(batch_hard_triplet(features, labels, margin)) == 0.0
    assert torch.equal(gradient(features, labels, margin), torch.zeros(count, 5))


def test_a_broken_network_is_heard():
    features = features_of(6)
    features[2, 1] = torch.nan
    assert math.isnan(batch_hard_triplet(features, labels_of(6, 2), 0.3))


def test_mixed_precision_around_it_changes_nothing():
    features, labels = features_of(16, 64).bfloat16(), torch.arange(4).repeat_interleave(4)
    plain = gradient(features.float(), labels, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gradient(features.float(), labels, None), plain)
        assert torch.equal(batch_hard_triplet(features, labels, 0.3), batch_hard_triplet(features.float(), labels, 0.3))


def test_no_step_waits_for_the_device():
    """On a device without numbers, whatever asks for one fails."""
    meta = torch.device("meta")
    features, labels = (
        torch.empty(8, 4, device=meta, requires_grad=True),
        torch.empty(8, dtype=torch.int64, device=meta),
    )
    with pytest.raises((NotImplementedError, RuntimeError)):
        features[labels == 0]
    for margin in (0.3, None):
        batch_hard_triplet(features, labels, margin).backward()
    loss = CenterLoss(3, 4).to(meta)
    loss(features, labels, labels > 0).backward()
    loss.descend(0.5, 1e-3)
    assert features.grad.device == loss.centers.device == meta


class Recorder(TorchDispatchMode):
    """Notes the names of the operations that run inside of it, those of the gradient too."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


# They add to one row from several threads at once: on the CPU or on a GPU the order, so the sum, changes between runs.
ADDS_IN_ANY_ORDER = {"index_put", "_index_put_impl_", "index_add", "scatter_add", "_cdist_backward"}


def test_its_gradient_is_the_same_in_every_run():
    features, labels = features_of(12).requires_grad_(), labels_of(12, 3)
    loss = center_loss(3)
    with Recorder() as recorder:
        total = batch_hard_triplet(features, labels, 0.3) + loss(features, labels, labels > 0)
        total.backward()
        loss.descend(0.5, 1.0)
    assert recorder.names.isdisjoint(ADDS_IN_ANY_ORDER)
    with Recorder() as recorder:
        features[labels].sum().backward()
    assert not recorder.names.isdisjoint(ADDS_IN_ANY_ORDER), "such operations are noted"


def center_loss(classes=4, dimensions=5, seed=0):
    torch.manual_seed(seed)
    return CenterLoss(classes, dimensions)


def test_centers_are_drawn_from_the_global_generator():
    torch.manual_seed(3)
    expected = torch.randn(50, 40)
    loss = center_loss(50, 40, seed=3)
    assert torch.equal(loss.centers, expected)
    assert [name for name, _ in loss.named_parameters()] == ["centers"]
    assert loss.centers.dtype == torch.float32


@given(
    real=st.lists(st.booleans(), min_size=1, max_size=9),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_the_center_loss_is_a_naive_loop_over_the_real_images(real, seed, dtype):
    count, loss = len(real), center_loss(seed=seed)
    features, labels = features_of(count, 5, seed).to(dtype), labels_of(count, 4, seed)
    centers = loss.centers.tolist()
    each = [
        math.dist(feature, centers[label]) ** 2
        for feature, label, counts in zip(features.tolist(), labels.tolist(), real, strict=True)
        if counts
    ]
    found = loss(features, labels, torch.tensor(real))
    assert found.shape == ()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(found.detach()) == pytest.approx(sum(each) / len(each) if each else 0.0, rel=1e-5)


def test_generated_images_take_no_part_whatever_they_are():
    loss, real = center_loss(), torch.tensor([True, False, True, False, False])
    features, labels = features_of(5), torch.tensor([2, -7, 0, 10**6, 0])
    features[1], features[3] = torch.inf, torch.nan
    features.requires_grad_()
    found = loss(features, labels, real)
    torch.testing.assert_close(found, loss(features[real], labels[real], torch.ones(2, dtype=torch.bool)))
    found.backward()
    assert torch.equal(features.grad[~real], torch.zeros(3, 5))
    expected = 2 / 2 * (features[real] - loss.centers[labels[real]])
    torch.testing.assert_close(features.grad[real], expected)
    assert torch.equal(loss.centers.grad[[1, 3]], torch.zeros(2, 5))
    torch.testing.assert_close(loss.centers.grad[[2, 0]], -expected)


def test_a_batch_without_real_images_has_no_center_loss():
    loss, features = center_loss(), features_of(3).requires_grad_()
    found = loss(features, torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool))
    found.backward()
    assert float(found.detach()) == 0.0
    assert torch.equal(features.grad, torch.zeros(3, 5))
    assert torch.equal(loss.centers.grad, torch.zeros(4, 5))


def test_the_gradient_of_the_center_loss_is_that_of_finite_differences():
    loss, labels, real = center_loss().double(), torch.tensor([1, 1, 3, 0]), torch.tensor([True, True, False, True])

    def of(features, centers):
        return torch.func.functional_call(loss, {"centers": centers}, (features, labels, real))

    features = features_of(4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(of, (features, loss.centers))


@pytest.mark.parametrize("weight", [5e-4, 1.0, 20.0])
def test_a_step_moves_each_center_toward_its_images_whatever_the_weight(weight):
    """By the rate times 2/B of the sum of the offsets; beside another loss, and with the same images twice."""
    loss, features, labels = center_loss(), features_of(6), torch.tensor([0, 0, 0, 2, 2, 3])
    before = loss.centers.detach().clone()
    features.requires_grad_()
    total = features.square().mean() + weight * loss(features, labels, torch.ones(6, dtype=torch.bool))
    total.backward()
    loss.descend(0.5, weight)
    assert loss.centers.grad is None
    for label in range(4):
        offsets = [(before[label] - features[row]).detach() for row in range(6) if labels[row] == label]
        expected = before[label] - 0.5 * 2 / 6 * sum(offsets, torch.zeros(5))
        torch.testing.assert_close(loss.centers[label].detach(), expected)
    assert torch.equal(loss.centers[1], before[1]), "no image of identity 1"
    moved = loss.centers.detach().clone()
    loss.descend(0.5, weight)
    assert torch.equal(loss.centers, moved), "nothing learned, nothing moved"


def test_centers_reach_the_means_of_their_images():
    loss, features, labels = center_loss(), features_of(40, seed=2), torch.arange(4).repeat(10)
    for _ in range(200):
        (1e-3 * loss(features, labels, torch.ones(40, dtype=torch.bool))).backward()
        loss.descend(0.5, 1e-3)
    means = torch.stack([features[labels == label].mean(dim=0) for label in range(4)])
    torch.testing.assert_close(loss.centers.detach(), means, rtol=1e-4, atol=1e-5)
