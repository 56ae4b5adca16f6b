import numpy as np
import pytest
import torch
from scipy.stats import norm

from slsr.gan.generator import GeneratorDescription
from slsr.gan.networks import (
    build_generator,
    draw_images,
    draw_noise,
    load_generator,
    measure_batch_norm,
    save_generator,
)
from slsr.gan.placement import Placement


def normal_numbers(codes: torch.Tensor) -> np.ndarray:
    return norm.ppf((codes.double().numpy() + 1) / 2)


def test_noise_of_a_cluster_gets_the_mean_and_covariance_of_its_images():
    randomness = np.random.default_rng(1)
    mixing, shift = randomness.normal(size=(3, 3)) * 0.5, np.array([0.5, -1.0, 0.0])
    own = randomness.normal(size=(4000, 3)) @ mixing + shift
    components = torch.from_numpy(np.concatenate([own, randomness.normal(size=(4000, 3))])).float()
    placement = Placement(2, 3)
    placement.measure(components, torch.arange(8000) // 4000)
    placed = placement(draw_noise((1,), 50_000, 3), torch.zeros(50_000, dtype=torch.int64))
    found = normal_numbers(placed)
    np.testing.assert_allclose(found.mean(axis=0), own.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(found.T), np.cov(own.T), atol=0.05)


def test_noise_of_a_standard_cluster_stays():
    placement = Placement(1, 4)
    noise = draw_noise((2,), 100, 4)
    torch.testing.assert_close(placement(noise, torch.zeros(100, dtype=torch.int64)), noise, atol=1e-5, rtol=1e-4)


def test_a_cluster_of_one_image_is_its_code_and_an_empty_one_changes_nothing():
    placement = Placement(3, 4)
    placement.measure(torch.tensor([[0.3, -0.2]]), torch.tensor([1]))
    noise = draw_noise((2,), 5, 4)
    alone = placement(noise, torch.ones(5, dtype=torch.int64))
    expected = torch.tensor(2 * norm.cdf([0.3, -0.2]) - 1).float().expand(5, 2)
    torch.testing.assert_close(alone[:, :2], expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(alone[:, 2:], noise[:, 2:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(placement(noise, torch.zeros(5, dtype=torch.int64)), noise, atol=1e-5, rtol=1e-4)


def test_the_ends_of_the_interval_are_finite():
    ends = torch.tensor([[-1.0, 1.0]])
    assert torch.isfinite(Placement(1, 2)(ends, torch.zeros(1, dtype=torch.int64))).all()


@pytest.mark.parametrize("kind", ["dcgan", "light"])
def test_a_stored_placed_generator_draws_the_same_images(tmp_path, kind):
    generator = build_generator(GeneratorDescription(32, 32, 6, 4, clusters=2, kind=kind, placed=True))
    generator.placement.measure(torch.tensor([[2.0] * 6, [-2.0] * 6]), torch.tensor([0, 1]))
    measure_batch_norm(generator, draw_noise((2,), 32, 6), 8, torch.arange(32) % 2)
    noise = draw_noise((1,), 5, 6)
    save_generator(tmp_path / "placed.safetensors", generator, {"cluster": None})
    loaded = load_generator(tmp_path / "placed.safetensors")
    drawn = [draw_images(loaded, noise, cluster) for cluster in range(2)]
    for cluster, images in enumerate(drawn):
        assert np.array_equal(images, draw_images(generator, noise, cluster))
    assert not np.array_equal(*drawn), "only the placement can tell them apart"
    with pytest.raises(ValueError, match="cluster of each image"):
        loaded(noise)
