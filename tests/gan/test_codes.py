import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.decomposition import PCA

from slsr.gan.codes import Codes
from slsr.gan.networks import to_images


def images(count=50, size=(32, 16), seed=0) -> torch.Tensor:
    """Random mixtures of a few pictures, so that a few components say nearly all: uint8 [N, H, W, 3]."""
    randomness = torch.Generator().manual_seed(seed)
    pictures = torch.rand(6, 3, *size, generator=randomness)
    shares = torch.randn(count, 6, generator=randomness) * torch.tensor([6.0, 5, 4, 3, 2, 1])
    mixed = torch.einsum("nk,kchw->nhwc", shares, pictures - 0.5)
    return (128 + 12 * mixed).round().clamp(0, 255).to(torch.uint8)


def test_codes_are_the_components_of_sklearn_through_the_normal_distribution():
    shown = images()
    codes = Codes(32, 16, 6)
    codes.measure(shown, seed=1)
    found = codes(to_images(shown), torch.zeros(50, 6)).numpy()
    components = PCA(6, svd_solver="full").fit_transform(to_images(shown).flatten(1).numpy())
    expected = 2 * norm.cdf(components / components.std(axis=0)) - 1
    for ours, theirs in zip(found.T, expected.T, strict=True):
        assert min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) < 1e-3, "up to the sign"


def test_codes_of_normal_components_are_uniform_as_the_noise_is():
    shown = images(4000)
    codes = Codes(32, 16, 6)
    codes.measure(shown, seed=1)
    found = codes(to_images(shown), torch.zeros(4000, 6))
    assert found.abs().max() <= 1
    assert found.mean(dim=0).abs().max() < 0.05
    assert found.var(dim=0) == pytest.approx(np.full(6, 1 / 3), rel=0.1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_or_one_have_codes(count):
    codes = Codes(32, 16, 8)
    codes.measure(images(count), seed=1)
    noise = torch.rand(count, 8)
    found = codes(to_images(images(count)), noise)
    assert torch.isfinite(found).all()
    assert torch.equal(found[:, count:], noise[:, count:])


def test_large_images_are_shrunk_by_averaging():
    shown = images(30, (64, 32))
    large = shown.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    codes, of_large = Codes(64, 32, 5), Codes(128, 64, 5)
    codes.measure(shown, seed=1)
    of_large.measure(large, seed=1)
    zeros = torch.zeros(30, 5)
    torch.testing.assert_close(of_large(to_images(large), zeros), codes(to_images(shown), zeros), atol=1e-3, rtol=1e-3)


def test_the_same_seed_gives_the_same_codes_and_leaves_the_global_random_state():
    before = torch.random.get_rng_state()
    first, second = Codes(32, 16, 6), Codes(32, 16, 6)
    for codes in (first, second):
        codes.measure(images(), seed=4)
    assert torch.equal(first.basis, second.basis)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_measuring_returns_the_standardized_components():
    shown = images()
    codes = Codes(32, 16, 5)
    components = codes.measure(shown, seed=1)
    assert components.shape == (50, 5)
    assert np.allclose(components.std(dim=0, correction=0), 1, atol=1e-3)
    found = codes(to_images(shown), torch.zeros(50, 5))
    assert np.allclose(found, 2 * norm.cdf(components) - 1, atol=1e-4)
