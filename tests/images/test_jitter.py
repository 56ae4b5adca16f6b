"""Color jitter against torchvision's functions and transform, with the same factors."""

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import noise
from torchvision import transforms
from torchvision.transforms import functional

from slsr.images.jitter import draw_factors, jitter_in_place

CHANGES = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
LEVEL = 0.001  # each statistical test fails by chance so rarely, and never twice: the seeds are fixed


def batch(count=4):
    """Noise whose channels have different means, float32 [count, 24, 12, 3] in 0..255."""
    return torch.from_numpy(noise(count, 24, 12)).float() * torch.tensor([1.0, 0.7, 0.3])


def torchvisions(images, factors):
    """The three changes of each image, in 0..1 as torchvision has float images, and back to 0..255."""
    result = []
    for image, row in zip(images.permute(0, 3, 1, 2) / 255, factors.tolist(), strict=True):
        for change, factor in zip(CHANGES, row, strict=True):
            image = change(image, factor)
        result.append(255 * image)
    return torch.stack(result).permute(0, 2, 3, 1)


@pytest.mark.parametrize("change", range(3), ids=["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.8, 1.2, 1.9])
def test_a_change_is_torchvisions(change, factor):
    factors = torch.ones(4, 3)
    factors[:, change] = factor
    found = jitter_in_place(batch(), factors)
    torch.testing.assert_close(found, torchvisions(batch(), factors), rtol=0, atol=1e-3)
    assert (found - batch()).abs().max() > 10


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.95])
def test_all_three_changes_are_torchvisions_one_after_the_other(strength):
    factors = draw_factors(20, strength, torch.Generator().manual_seed(1))
    found = jitter_in_place(batch(20), factors)
    torch.testing.assert_close(found, torchvisions(batch(20), factors), rtol=0, atol=1e-3)
    assert found.min() >= 0
    assert found.max() <= 255


def test_each_image_has_its_own_factors():
    """Its neighbors in the batch do not matter."""
    factors = draw_factors(4, 0.5, torch.Generator().manual_seed(2))
    alone = [jitter_in_place(batch()[row : row + 1], factors[row : row + 1]) for row in range(4)]
    torch.testing.assert_close(jitter_in_place(batch(), factors), torch.cat(alone), rtol=0, atol=1e-3)


def test_factors_of_one_change_nothing():
    assert torch.equal(jitter_in_place(batch(), torch.ones(4, 3)), batch())


@pytest.mark.parametrize("strength", [0.1, 0.6])
def test_factors_are_distributed_as_color_jitters(strength):
    factors = draw_factors(6000, strength, torch.Generator().manual_seed(3)).double().numpy()
    torch.manual_seed(4)
    limits = [[1 - strength, 1 + strength]] * 3
    theirs = np.array([transforms.ColorJitter.get_params(*limits, None)[1:4] for _ in range(6000)], dtype=float)
    for ours, others in zip(factors.T, theirs.T, strict=True):
        assert 1 - strength - 1e-6 <= ours.min()
        assert ours.max() <= 1 + strength + 1e-6
        assert stats.kstest(ours, "uniform", (1 - strength, 2 * strength)).pvalue > LEVEL
        assert stats.ks_2samp(ours, others).pvalue > LEVEL
    correlation = np.corrcoef(np.concatenate([factors[1:], factors[:-1]], axis=1).T)
    assert np.abs(correlation[~np.eye(6, dtype=bool)]).max() < 4.5 / 6000**0.5
