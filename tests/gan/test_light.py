import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate, sigmoid

from slsr.gan.generator import GeneratorDescription
from slsr.gan.light import LightGenerator
from slsr.gan.networks import draw_images, draw_noise, load_generator, measure_batch_norm, save_generator


def light(height=64, width=32, channels=4, clusters=0, latent=6) -> LightGenerator:
    torch.manual_seed(3)
    return LightGenerator(GeneratorDescription(height, width, latent, channels, clusters, kind="light"))


@pytest.mark.parametrize(
    ("size", "start", "doublings"),
    [
        ((64, 32), (4, 2), 4),
        ((128, 64), (4, 2), 5),
        ((256, 128), (4, 2), 6),
        ((128, 128), (4, 4), 5),
        ((96, 48), (6, 3), 4),
        ((32, 32), (2, 2), 4),
        ((80, 48), (5, 3), 4),
    ],
)
def test_any_size_that_is_a_multiple_of_16(size, start, doublings):
    generator = light(*size)
    assert generator.start[1].unflattened_size[1:] == start
    assert len(generator.layers) == doublings
    images = generator(torch.rand(2, 6))
    assert images.shape == (2, 3, *size)
    assert images.abs().max() < 1


def test_channels_double_towards_the_start_up_to_eight_times():
    widths = [layer.norm.num_features // 2 for layer in light(256, 128).layers]
    assert widths == [32, 32, 16, 8, 4] if len(widths) == 5 else widths == [32, 32, 32, 16, 8, 4]


def test_images_are_those_of_a_plain_loop():
    """Repeat, convolve, normalize, gate, excite: written out once more with torch's plain functions."""
    generator = light().double().eval()
    noise = torch.rand(3, 6, dtype=torch.float64) * 2 - 1

    def gated(maps: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
        normed = torch.stack([norm.weight[c] * maps[:, c] + norm.bias[c] for c in range(maps.shape[1])], dim=1)
        normed = normed / (1 + norm.eps) ** 0.5 + (1 - 1 / (1 + norm.eps) ** 0.5) * norm.bias[:, None, None]
        half = maps.shape[1] // 2
        return normed[:, :half] * sigmoid(normed[:, half:])

    maps = [gated((noise @ generator.start[0].weight.T).view(3, -1, 4, 2), generator.norm)]
    for number, layer in enumerate(generator.layers, 1):
        repeated = interpolate(maps[-1], scale_factor=2, mode="nearest")
        made = gated(conv2d(repeated, layer.convolution.weight, padding=1), layer.norm)
        if number >= 3:
            squeeze, _, widen = generator.excitations[number - 3][1:4]
            small = maps[number - 3]
            block = small.shape[2] // 4
            pooled = small.unflatten(2, (4, block)).unflatten(4, (2, block)).mean(dim=(3, 5))
            hidden = torch.einsum("bchw,ochw->bo", pooled, squeeze.weight) + squeeze.bias
            hidden = hidden * sigmoid(hidden)
            made = made * sigmoid(hidden @ widen.weight[:, :, 0, 0].T + widen.bias)[:, :, None, None]
        maps.append(made)
    expected = torch.tanh(conv2d(maps[-1], generator.image[0].weight, generator.image[0].bias, padding=1))
    torch.testing.assert_close(generator(noise), expected)


def test_a_small_map_excites_the_large_one():
    generator = light().eval()
    noise = torch.rand(1, 6)
    before = generator(noise)
    for excitation in generator.excitations:
        nn.init.constant_(excitation[3].bias, -30)  # all factors 0
    assert not torch.equal(generator(noise), before)
    assert torch.equal(generator(noise), generator(torch.rand(1, 6))), "nothing passes the last map but its factors"


def test_a_stored_generator_draws_the_same_images(tmp_path):
    generator, noise = light(clusters=3), draw_noise((1,), 5, 6)
    measure_batch_norm(generator, draw_noise((2,), 32, 6), 8, torch.arange(32) % 3)
    save_generator(tmp_path / "light.safetensors", generator, {"cluster": None})
    loaded = load_generator(tmp_path / "light.safetensors")
    assert isinstance(loaded, LightGenerator)
    drawn = [draw_images(loaded, noise, cluster) for cluster in range(3)]
    for cluster, images in enumerate(drawn):
        assert np.array_equal(images, draw_images(generator, noise, cluster))
    assert not np.array_equal(drawn[0], drawn[1])


def test_it_wants_clusters_if_it_knows_some():
    with pytest.raises(ValueError, match="cluster of each image"):
        light(clusters=2)(torch.rand(2, 6))
