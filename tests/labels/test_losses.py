"""The one loss, and that a sparse label reaches the gradient (the released code multiplies it by zero)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from slsr.labels.distributions import (
    likeliest,
    lsr,
    lsro,
    multi_pseudo_label,
    one_hot,
    slsr,
    slsr_nearest,
    slsr_weighted,
)
from slsr.labels.loss import soft_cross_entropy
from slsr.labels.targets import make_targets

CLASSES = 7
CLUSTER = [1, 4, 6]


def logits_of(count, seed=0, scale=3.0):
    return (scale * torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def random_targets(count, seed=0):
    raw = torch.rand(count, CLASSES, generator=torch.Generator().manual_seed(seed))
    return raw / raw.sum(dim=1, keepdim=True)


def gradient(logits, targets, weights=None):
    (found,) = torch.autograd.grad(soft_cross_entropy(logits, targets, weights), logits)
    return found


def naive(logits, targets, weights):
    total = 0.0
    for row, target, weight in zip(logits.tolist(), targets.tolist(), weights, strict=True):
        highest = max(row)
        normalizer = highest + math.log(sum(math.exp(value - highest) for value in row))
        total += weight * -sum(share * (value - normalizer) for share, value in zip(target, row, strict=True))
    return total / len(logits)


@given(
    count=st.integers(1, 6),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.1, 3.0, 50.0]),
    weights=st.lists(st.floats(0, 5, width=32), min_size=6, max_size=6),
)
def test_it_equals_a_naive_loop_and_torch(count, seed, scale, weights):
    logits, targets = logits_of(count, seed, scale).detach(), random_targets(count, seed + 1)
    factors = torch.tensor(weights[:count])
    found = soft_cross_entropy(logits, targets, factors)
    assert found.dtype == torch.float32
    assert found.shape == ()
    assert float(found) == pytest.approx(naive(logits, targets, weights[:count]), rel=1e-4, abs=1e-5)
    each = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(found, (each * factors).mean())
    torch.testing.assert_close(soft_cross_entropy(logits, targets), functional.cross_entropy(logits, targets))


def test_one_hot_targets_are_ordinary_cross_entropy():
    labels = torch.tensor([3, 0, 6, 3])
    targets = make_targets([one_hot(int(label)) for label in labels], CLASSES).batch(torch.arange(4))
    logits = logits_of(4)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.7])
def test_smoothed_targets_are_torchs_label_smoothing(epsilon):
    labels = torch.tensor([3, 0, 6, 3, 2])
    targets = make_targets([lsr(int(label), CLASSES, epsilon) for label in labels], CLASSES).batch(torch.arange(5))
    logits = logits_of(5)
    expected = functional.cross_entropy(logits, labels, label_smoothing=epsilon)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), expected)


def test_a_sparse_label_reaches_the_gradient():
    """The gradient of a generated image's loss is (softmax - sparse target) / B: not LSRO's, and not zero."""
    distributions = [one_hot(2), slsr(CLUSTER), one_hot(5), slsr([0, 3])]
    targets = make_targets(distributions, CLASSES).batch(torch.arange(4))
    logits = logits_of(4)
    found = gradient(logits, targets)
    probability = logits.detach().double().softmax(dim=1).numpy()
    expected = probability.copy()
    expected[0, 2] -= 1
    expected[1, CLUSTER] -= 1 / 3
    expected[2, 5] -= 1
    expected[3, [0, 3]] -= 1 / 2
    np.testing.assert_allclose(found, expected / 4, atol=1e-7)

    uniform = make_targets([one_hot(2), lsro(CLASSES), one_hot(5), lsro(CLASSES)], CLASSES).batch(torch.arange(4))
    of_lsro = gradient(logits, uniform)
    np.testing.assert_allclose(of_lsro[1], (probability[1] - 1 / CLASSES) / 4, atol=1e-7)
    assert torch.equal(found[[0, 2]], of_lsro[[0, 2]]), "real images are told the same"
    outside = [label for label in range(CLASSES) if label not in CLUSTER]
    assert (found[1, outside] > of_lsro[1, outside]).all(), "identities outside of the cluster are pushed down harder"
    assert (found[1, CLUSTER] < of_lsro[1, CLUSTER]).all(), "those of the cluster are pulled up harder"
    assert (found[1] - of_lsro[1]).abs().min() > 0.02
    assert found[1].abs().max() > 0.01


FIXED = {
    "lsr": lsr(2, CLASSES, 0.1),
    "lsro": lsro(CLASSES),
    "slsr": slsr(CLUSTER),
    "slsr-weighted": slsr_weighted(CLUSTER, [1, 5, 2]),
    "slsr-nearest": slsr_nearest([4, 1, 4, 4, 0]),
    "one cluster": slsr(range(CLASSES)),
    "a cluster of one": slsr([4]),
}
FOLLOWING = {"one-hot": likeliest, "mprl": multi_pseudo_label}


def by_hand(name, probability):
    """The target of each regularizer, written out."""
    ascending = sorted(range(CLASSES), key=lambda k: probability[k])
    target = np.zeros(CLASSES)
    for k in range(CLASSES):
        target[k] = {
            "lsr": 0.1 / CLASSES + (0.9 if k == 2 else 0.0),
            "lsro": 1 / CLASSES,
            "one cluster": 1 / CLASSES,
            "slsr": 1 / 3 if k in CLUSTER else 0.0,
            "slsr-weighted": {1: 1 / 8, 4: 5 / 8, 6: 2 / 8}.get(k, 0.0),
            "slsr-nearest": {0: 1 / 5, 1: 1 / 5, 4: 3 / 5}.get(k, 0.0),
            "a cluster of one": float(k == 4),
            "one-hot": float(k == ascending[-1]),
            "mprl": 2 * (ascending.index(k) + 1) / (CLASSES * (CLASSES + 1)),
        }[name]
    return target


@pytest.mark.parametrize("factor", [1.0, 0.25])
@pytest.mark.parametrize("name", [*FIXED, *FOLLOWING])
def test_the_gradient_of_each_regularizer_is_its_formula(name, factor):
    """weight * (softmax - target) / B, in a batch with a real image before and after."""
    logits = logits_of(3, seed=4)
    probability = logits.detach().double().softmax(dim=1).numpy()
    targets = make_targets([one_hot(2), FIXED.get(name, one_hot(0)), one_hot(5)], CLASSES).batch(torch.arange(3))
    if name in FOLLOWING:
        targets[1] = FOLLOWING[name](logits.detach())[1]
    expected = probability.copy()
    expected[0, 2] -= 1
    expected[2, 5] -= 1
    expected[1] = factor * (probability[1] - by_hand(name, probability[1]))
    found = gradient(logits, targets, torch.tensor([1.0, factor, 1.0]))
    np.testing.assert_allclose(found, expected / 3, atol=1e-7)


def test_one_cluster_is_lsro_and_clusters_of_one_are_one_hot_to_the_last_bit():
    logits = logits_of(4)
    for one, two in (
        ([slsr(range(CLASSES))] * 4, [lsro(CLASSES)] * 4),
        ([slsr([label]) for label in (3, 0, 6, 3)], [one_hot(label) for label in (3, 0, 6, 3)]),
    ):
        first, second = (make_targets(each, CLASSES).batch(torch.arange(4)) for each in (one, two))
        assert torch.equal(first, second)
        assert torch.equal(gradient(logits, first), gradient(logits, second))


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0, 3.0])
def test_the_factor_scales_the_gradient_of_generated_images_alone(factor):
    targets = make_targets([one_hot(2), slsr(CLUSTER), slsr(CLUSTER)], CLASSES).batch(torch.arange(3))
    logits = logits_of(3)
    plain = gradient(logits, targets)
    found = gradient(logits, targets, torch.tensor([1.0, factor, factor]))
    assert torch.equal(found[0], plain[0])
    torch.testing.assert_close(found[1:], factor * plain[1:])
    assert (plain[1:].abs().max(dim=1).values > 0.01).all()


def test_a_literal_equation_13_divides_by_the_number_of_identities():
    targets = make_targets([slsr(CLUSTER)], CLASSES).batch(torch.zeros(1, dtype=torch.int64))
    logits = logits_of(1).detach()
    ratio = soft_cross_entropy(logits, targets) / soft_cross_entropy(logits, targets, torch.tensor([1 / CLASSES]))
    assert float(ratio) == pytest.approx(CLASSES, rel=1e-5)


def test_the_loss_of_a_perfect_answer_is_the_entropy_of_the_target():
    targets = make_targets([slsr(CLUSTER), one_hot(0), lsro(CLASSES)], CLASSES).batch(torch.arange(3))
    logits = torch.log(targets + 1e-30)
    for row, entropy in enumerate([math.log(3), 0.0, math.log(CLASSES)]):
        found = float(soft_cross_entropy(logits[row : row + 1], targets[row : row + 1]))
        assert found == pytest.approx(entropy, abs=1e-5)


def test_half_precision_logits_are_taken_in_full_precision():
    targets = random_targets(4)
    logits = logits_of(4).detach().bfloat16()
    found = soft_cross_entropy(logits, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, functional.cross_entropy(logits.float(), targets))


def test_large_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = soft_cross_entropy(logits, torch.tensor([[0.0, 1.0, 0.0]]))
    assert float(loss) == pytest.approx(2e4)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
