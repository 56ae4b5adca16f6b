"""The noise layer: probabilities in, probabilities out, whatever it has learned."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from slsr.labels.distributions import lsro, slsr
from slsr.labels.loss import soft_cross_entropy
from slsr.labels.noise import NoiseLayer, project_rows
from slsr.labels.targets import make_targets

CLASSES = 6


def logits_of(count, seed=0, scale=3.0, classes=CLASSES):
    return (scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def random_layer(classes=CLASSES, seed=1):
    """A layer that is far from the identity."""
    layer = NoiseLayer(classes)
    rows = torch.rand(classes, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        layer.transition.copy_(rows / rows.sum(dim=1, keepdim=True))
    return layer


def targets_of(count):
    return make_targets([slsr([1, 4]), lsro(CLASSES), slsr([0])] * count, CLASSES).batch(torch.arange(count))


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_the_identity_at_the_start_changes_neither_loss_nor_gradient(scale):
    logits, targets = logits_of(9, scale=scale), targets_of(9)
    layer = NoiseLayer(CLASSES)
    assert torch.equal(layer.transition, torch.eye(CLASSES, dtype=torch.float64))
    plain = soft_cross_entropy(logits, targets)
    noisy = soft_cross_entropy(layer(logits), targets)
    torch.testing.assert_close(noisy, plain, rtol=1e-5, atol=1e-6)
    (expected,) = torch.autograd.grad(plain, logits)
    (found,) = torch.autograd.grad(noisy, logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@given(st.integers(1, 5), st.integers(0, 100), st.sampled_from([0.1, 3.0, 20.0]))
def test_it_is_a_naive_double_loop(count, seed, scale):
    logits = logits_of(count, seed, scale)
    layer = random_layer(seed=seed)
    matrix = layer.transition.tolist()
    found = layer(logits)
    assert found.dtype == torch.float32
    for row, noisy in zip(logits.tolist(), found.tolist(), strict=True):
        normalizer = sum(math.exp(value - max(row)) for value in row)
        probability = [math.exp(value - max(row)) / normalizer for value in row]
        for j in range(CLASSES):
            expected = sum(probability[i] * matrix[i][j] for i in range(CLASSES))
            assert math.exp(noisy[j]) == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(found.softmax(dim=1).sum(dim=1), torch.ones(count))
    torch.testing.assert_close(found.exp(), found.softmax(dim=1), rtol=1e-5, atol=1e-6)


def test_the_loss_is_cross_entropy_with_the_noisy_probabilities():
    logits, targets, layer = logits_of(6), targets_of(6), random_layer()
    noisy = logits.double().softmax(dim=1) @ layer.transition
    expected = -(targets * noisy.log()).sum(dim=1).mean()
    assert float(soft_cross_entropy(layer(logits), targets)) == pytest.approx(float(expected), rel=1e-5)


def test_gradients_are_their_formulas():
    """Of Q: sum_b p_bi (1 - z_bj / q_bj) / B. Of the logits: p_bi (s_bi - sum_l p_bl s_bl) / B, s = -Q (z / q).

    The 1 comes from the softmax that the loss takes of log q. It is the same all along a row of Q, so that the
    projection takes it out again, and it leaves the gradient of the logits alone.
    """
    count = 5
    logits, targets, layer = logits_of(count), targets_of(count), random_layer()
    soft_cross_entropy(layer(logits), targets).backward()
    p = logits.detach().double().softmax(dim=1).numpy()
    q, z, matrix = p @ layer.transition.detach().numpy(), targets.numpy(), layer.transition.detach().numpy()
    of_matrix, of_logits = np.zeros((CLASSES, CLASSES)), np.zeros((count, CLASSES))
    for b in range(count):
        slope = [-sum(matrix[i, j] * z[b, j] / q[b, j] for j in range(CLASSES)) for i in range(CLASSES)]
        mean = sum(p[b, i] * slope[i] for i in range(CLASSES))
        for i in range(CLASSES):
            of_logits[b, i] = p[b, i] * (slope[i] - mean) / count
            for j in range(CLASSES):
                of_matrix[i, j] += p[b, i] * (1 - z[b, j] / q[b, j]) / count
    np.testing.assert_allclose(logits.grad, of_logits, atol=1e-6)
    np.testing.assert_allclose(layer.transition.grad, of_matrix, atol=1e-5)


def test_autograd_agrees_with_finite_differences():
    layer, targets = random_layer(4), torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25] * 4])

    def loss(logits, matrix):
        noisy = (logits.softmax(dim=1) @ matrix).clamp_min(1e-300).log()
        return -(targets * noisy).sum(dim=1).mean()

    logits = logits_of(2, classes=4).detach().double().requires_grad_()
    assert torch.autograd.gradcheck(loss, (logits, layer.transition))
    (through,) = torch.autograd.grad(soft_cross_entropy(layer(logits), targets), logits)
    (expected,) = torch.autograd.grad(loss(logits, layer.transition), logits)
    torch.testing.assert_close(through, expected, atol=1e-6, rtol=1e-4)


def naive_projection(row):
    """By bisection of the threshold."""
    low, high = min(row) - 1, max(row)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(max(value - middle, 0.0) for value in row) > 1:
            low = middle
        else:
            high = middle
    return [max(value - low, 0.0) for value in row]


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(st.floats(-5, 5), min_size=n, max_size=n), min_size=1, max_size=4)
    )
)
def test_projected_rows_are_the_nearest_distributions(rows):
    found = project_rows(torch.tensor(rows, dtype=torch.float64))
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(dim=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(found, [naive_projection(row) for row in rows], atol=1e-9)


def test_distributions_are_their_own_projection():
    torch.testing.assert_close(project_rows(torch.eye(5)), torch.eye(5))
    rows = random_layer(9).transition.detach()
    torch.testing.assert_close(project_rows(rows), rows)
    torch.testing.assert_close(project_rows(rows + 3.5), rows)


@pytest.mark.parametrize("scale", [1.0, 30.0, 500.0])
def test_rows_stay_distributions_however_it_is_driven(scale):
    """Also where the network is certain of what the label excludes, and 1 / q overflows single precision."""
    layer = NoiseLayer(CLASSES)
    for step in range(60):
        logits = logits_of(4, step, scale)
        loss = soft_cross_entropy(layer(logits), targets_of(4))
        assert torch.isfinite(loss)
        loss.backward()
        assert torch.isfinite(logits.grad).all()
        before = layer.transition.detach().clone()
        layer.descend(0.3)
        assert layer.transition.grad is None
        matrix = layer.transition.detach()
        assert (matrix >= 0).all()
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(CLASSES, dtype=torch.float64), atol=1e-12, rtol=0)
        assert ((matrix - before).norm(dim=1) <= 0.3 + 1e-9).all(), "a row moves no farther than the rate"
        probability = layer(logits).exp()
        assert (probability >= 0).all()
        torch.testing.assert_close(probability.sum(dim=1), torch.ones(4), atol=1e-5, rtol=0)
    assert float((matrix - torch.eye(CLASSES, dtype=torch.float64)).abs().max()) > 0.2


def test_a_step_is_a_projected_step_down_the_gradient():
    layer = random_layer(5)
    before = layer.transition.detach().clone()
    gradient = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gradient[0] *= 0.01
    gradient[1] *= 1e200
    layer.transition.grad = gradient.clone()
    layer.descend(0.05)
    for row in range(5):
        length = math.sqrt(sum((value / gradient[row].abs().max().item()) ** 2 for value in gradient[row].tolist()))
        length *= gradient[row].abs().max().item()
        shortened = gradient[row] / max(length, 1.0)
        expected = naive_projection((before[row] - 0.05 * shortened).tolist())
        np.testing.assert_allclose(layer.transition.detach()[row], expected, atol=1e-9)


def test_it_learns_how_labels_stray():
    """A network that is right, labels that call identity 0 by 1 in three cases of ten: the layer finds the share."""
    layer = NoiseLayer(3)
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for _ in range(2000):
        soft_cross_entropy(layer(logits), targets).backward()
        layer.descend(0.02)
    assert float(layer.transition[0, 1]) == pytest.approx(0.3, abs=0.03)
    assert float(layer.transition[2, 2]) > 0.97


def test_an_unconstrained_layer_would_not_do():
    """What method.md forbids: the same steps without the projection leave the simplex."""
    layer = NoiseLayer(CLASSES)
    matrix = torch.eye(CLASSES, dtype=torch.float64, requires_grad=True)
    for step in range(40):
        logits, targets = logits_of(4, step).detach().double(), targets_of(4)
        noisy = (logits.softmax(dim=1) @ matrix).clamp_min(1e-12).log()
        (found,) = torch.autograd.grad(-(targets * noisy).sum(dim=1).mean(), matrix)
        matrix = (matrix - 0.05 * functional.normalize(found, dim=1)).detach().requires_grad_()
        soft_cross_entropy(layer(logits), targets).backward()
        layer.descend(0.05)
    assert (matrix.sum(dim=1) - 1).abs().max() > 0.05
    assert (layer.transition.sum(dim=1) - 1).abs().max() < 1e-12


def test_nothing_learned_nothing_moved():
    layer = random_layer()
    before = layer.transition.detach().clone()
    layer.descend(0.5)
    assert torch.equal(layer.transition, before)
