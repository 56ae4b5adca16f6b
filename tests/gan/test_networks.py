import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate

from slsr.errors import InputError
from slsr.gan.dcgan import DcganGenerator, NearestConvolution, PixelDiscriminator, bound_layers, initialize
from slsr.gan.generator import ConditionalBatchNorm, GeneratorDescription
from slsr.gan.networks import (
    SAMPLING_BATCH,
    draw_images,
    draw_noise,
    load_generator,
    measure_batch_norm,
    save_generator,
    to_images,
    to_pixels,
)
from slsr.models.checkpoint import save_checkpoint

TINY = GeneratorDescription(height=32, width=48, latent=10, channels=4)


def tiny_generator(seed: int = 0) -> DcganGenerator:
    generator = DcganGenerator(TINY)
    initialize(generator, torch.Generator().manual_seed(seed))
    return generator


def sound_generator(seed: int = 0) -> DcganGenerator:
    generator = tiny_generator(seed)
    measure_batch_norm(generator, draw_noise((seed,), 64, TINY.latent), 16)
    return generator


def output_shapes(network: nn.Module, kind: type[nn.Module], inputs: torch.Tensor) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape[1:])))
    network(inputs if not isinstance(network, PixelDiscriminator) else [inputs])
    return shapes


def test_generator_has_the_published_maps():
    generator = DcganGenerator(GeneratorDescription(128, 128, 100, 64)).eval()
    noise = torch.zeros(1, 100)
    assert generator.start(noise).shape[1:] == (512, 8, 8)
    maps = output_shapes(generator, nn.ConvTranspose2d, noise)
    assert maps == [(256, 16, 16), (128, 32, 32), (64, 64, 64), (3, 128, 128)]
    kernels = {module.kernel_size for module in generator.modules() if isinstance(module, nn.ConvTranspose2d)}
    assert kernels == {(5, 5)}


def test_nearest_upsampling_has_the_same_maps():
    generator = DcganGenerator(GeneratorDescription(128, 64, 100, 8, upsampling="nearest")).eval()
    maps = output_shapes(generator, NearestConvolution, torch.zeros(1, 100))
    assert maps == [(32, 16, 8), (16, 32, 16), (8, 64, 32), (3, 128, 64)]


@pytest.mark.parametrize("bias", [False, True])
def test_nearest_convolution_is_repeating_and_convolving(bias):
    """Values and gradients against the two steps that it folds into one."""
    torch.manual_seed(4)
    layer = NearestConvolution(3, 5, bias).double()
    maps = torch.randn(2, 3, 6, 4, dtype=torch.float64, requires_grad=True)
    plain = conv2d(interpolate(maps, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=1)
    folded = layer(maps)
    torch.testing.assert_close(folded, plain)
    towards = torch.randn_like(plain)
    wanted = [maps, *layer.parameters()]
    for found, expected in zip(
        torch.autograd.grad(folded, wanted, towards), torch.autograd.grad(plain, wanted, towards), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_nearest_upsampling_alone_keeps_even_maps_even():
    """Where all positions hold the same, a checkerboard can only come from the layer."""
    torch.manual_seed(2)
    spreads = []
    for upsampling in ("transposed", "nearest"):
        generator = DcganGenerator(GeneratorDescription(64, 64, 5, 8, upsampling=upsampling))
        doubled = generator.layers[1][2](torch.ones(1, 32, 8, 8))[..., 4:-4, 4:-4]
        spreads.append((doubled.amax(dim=(2, 3)) - doubled.amin(dim=(2, 3))).max().item())
    assert spreads[0] > 0.05
    assert spreads[1] < 1e-5


def test_discriminator_has_the_published_maps():
    discriminator = PixelDiscriminator(128, 128, 64).eval()
    maps = output_shapes(discriminator, nn.Conv2d, torch.zeros(1, 3, 128, 128))
    assert maps == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8)]
    assert discriminator([torch.zeros(5, 3, 128, 128)])[0].shape == (5,)


@pytest.mark.parametrize(("batch_norm", "norms"), [("all-but-first", 3), ("all", 4), ("none", 0)])
@pytest.mark.parametrize(("activation", "kind"), [("leaky-relu", nn.LeakyReLU), ("relu", nn.ReLU)])
def test_discriminator_options(batch_norm, norms, activation, kind):
    discriminator = PixelDiscriminator(32, 48, 4, activation, batch_norm)
    modules = list(discriminator.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in modules) == norms
    assert sum(isinstance(module, kind) for module in modules) == 4
    assert discriminator([torch.rand(2, 3, 32, 48)])[0].shape == (2,)


def test_rectangular_images_within_the_range_of_tanh():
    images = tiny_generator()(draw_noise((1,), 6, TINY.latent))
    assert images.shape == (6, 3, 32, 48)
    assert images.abs().max() < 1


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_initial_weights_are_those_of_the_publication(upsampling):
    generator = DcganGenerator(GeneratorDescription(64, 64, 100, 16, upsampling=upsampling))
    initialize(generator, torch.Generator().manual_seed(3))
    for module in generator.modules():
        if isinstance(module, nn.ConvTranspose2d | nn.Conv2d | nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02)


def test_spectral_norm_bounds_every_layer_and_leaves_the_global_random_state():
    discriminator = PixelDiscriminator(32, 48, 4, batch_norm="none")
    initialize(discriminator, torch.Generator().manual_seed(1))
    before = torch.random.get_rng_state()
    bound_layers(discriminator, 5)
    assert torch.equal(before, torch.random.get_rng_state())
    discriminator([torch.rand(4, 3, 32, 48)])
    for module in discriminator.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            largest = torch.linalg.matrix_norm(module.weight.flatten(1), 2).item()
            assert largest == pytest.approx(1, rel=0.1)


def test_noise_is_uniform_and_each_row_depends_on_seed_and_number_alone():
    many = draw_noise((7, 2), 5000, 20)
    assert torch.equal(draw_noise((7, 2), 13, 20), many[:13])
    assert many.min() >= -1
    assert many.max() <= 1
    assert many.mean().item() == pytest.approx(0, abs=0.01)
    assert many.var().item() == pytest.approx(1 / 3, rel=0.02)
    for other in [(7, 3), (8, 2)]:
        correlation = np.corrcoef(many.flatten(), draw_noise(other, 5000, 20).flatten())[0, 1]
        assert abs(correlation) < 0.02


def test_an_image_is_the_same_however_many_are_drawn():
    generator = sound_generator()
    noise = draw_noise((1,), SAMPLING_BATCH + 9, TINY.latent)
    together = draw_images(generator, noise)
    assert together.shape == (SAMPLING_BATCH + 9, 32, 48, 3)
    for count in (1, 5, SAMPLING_BATCH):
        assert np.array_equal(draw_images(generator, noise[:count]), together[:count])
    with torch.no_grad():
        alone = np.concatenate([to_pixels(generator(row[None])) for row in noise])
    assert np.abs(alone.astype(int) - together).max() <= 1
    assert draw_images(generator, noise[:0]).shape == (0, 32, 48, 3)


def test_measured_batch_norm_is_the_mean_of_the_batches_statistics():
    generator, noise = tiny_generator(), draw_noise((4,), 48, TINY.latent)
    measure_batch_norm(generator, noise, 16)
    first = next(module for module in generator.modules() if isinstance(module, nn.BatchNorm2d))
    inputs = [generator.start(batch) for batch in noise.split(16)]
    mean = torch.stack([part.mean(dim=(0, 2, 3)) for part in inputs]).mean(dim=0)
    variance = torch.stack([part.var(dim=(0, 2, 3)) for part in inputs]).mean(dim=0)
    torch.testing.assert_close(first.running_mean, mean)
    torch.testing.assert_close(first.running_var, variance)
    assert first.momentum == 0.1
    assert not generator.training


def test_evaluation_draws_what_training_saw():
    """Also for a generator whose running averages know nothing of its weights."""
    generator, noise = tiny_generator(2), draw_noise((5,), 64, TINY.latent)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(3)
        generator.train()
        seen = generator(noise)
        stale = generator.eval()(noise)
        measure_batch_norm(generator, draw_noise((6,), 1024, TINY.latent), 64)
        drawn = generator(noise)
    assert (drawn - seen).abs().mean() < 0.1 * seen.std()
    assert (stale - seen).abs().mean() > 0.3 * seen.std()


def test_pixels_and_images_invert_each_other():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = to_images(torch.from_numpy(levels))
    assert images.min() == -1
    assert images.max() == 1
    assert np.array_equal(to_pixels(images), levels)


def test_a_stored_generator_draws_the_same_images(tmp_path):
    generator, noise = sound_generator(), draw_noise((1,), 5, TINY.latent)
    for name in ("a.safetensors", "b.safetensors"):
        save_generator(tmp_path / name, generator, {"cluster": 2})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_generator(tmp_path / "a.safetensors")
    assert loaded.description == TINY
    assert np.array_equal(draw_images(loaded, noise), draw_images(generator, noise))


def test_a_stored_generator_keeps_its_upsampling_and_one_without_a_word_of_it_is_a_transposed_one(tmp_path):
    nearest, noise = (
        DcganGenerator(GeneratorDescription(32, 32, 5, 4, upsampling="nearest")).eval(),
        draw_noise((1,), 3, 5),
    )
    save_generator(tmp_path / "nearest.safetensors", nearest, {})
    loaded = load_generator(tmp_path / "nearest.safetensors")
    assert np.array_equal(draw_images(loaded, noise), draw_images(nearest, noise))
    older = {"height": 32, "width": 48, "latent": 10, "channels": 4, "kind": "dcgan", "extra": {}}
    save_checkpoint(tmp_path / "older.safetensors", tiny_generator().state_dict(), older)
    assert load_generator(tmp_path / "older.safetensors").description == TINY


def test_a_file_that_holds_no_generator_is_refused(tmp_path):
    other, broken = tmp_path / "encoder.safetensors", tmp_path / "broken.safetensors"
    save_checkpoint(other, {"weight": torch.zeros(2)}, {"kind": "encoder"})
    with pytest.raises(InputError, match=r"encoder\.safetensors: a model, but not a generator"):
        load_generator(other)
    description = {"height": 32, "width": 48, "latent": 10, "channels": 8, "kind": "dcgan", "extra": {}}
    save_checkpoint(broken, tiny_generator().state_dict(), description)
    with pytest.raises(InputError, match=r"broken\.safetensors: its tensors do not fit"):
        load_generator(broken)
    with pytest.raises(InputError, match=r"missing\.safetensors: no such model"):
        load_generator(tmp_path / "missing.safetensors")


def test_conditional_batch_norm_is_batch_norm_with_the_clusters_own_scale_and_shift():
    norm, plain = ConditionalBatchNorm(3, 4), nn.BatchNorm2d(3, affine=False)
    torch.manual_seed(1)
    maps, clusters = torch.randn(6, 3, 2, 5) * 2 + 1, torch.tensor([0, 3, 3, 1, 0, 2])
    found, normalized = norm(maps, clusters), plain(maps)
    for row, cluster in enumerate(clusters.tolist()):
        for channel in range(3):
            scale, shift = norm.scale.weight[cluster, channel], norm.shift.weight[cluster, channel]
            torch.testing.assert_close(found[row, channel], scale * normalized[row, channel] + shift)
    torch.testing.assert_close(norm.running_var, plain.running_var)


def test_projection_adds_the_product_of_the_summed_maps_with_the_clusters_vector():
    discriminator = PixelDiscriminator(32, 48, 4, clusters=3).eval()
    images = torch.rand(2, 3, 32, 48)
    maps = discriminator.layers(images)
    expected = torch.zeros(2)
    for row, cluster in enumerate((2, 0)):
        for channel in range(32):
            expected[row] += maps[row, channel].sum() * discriminator.projection.weight[cluster, channel]
    found = discriminator([images], torch.tensor([2, 0]))[0] - discriminator.judge(maps).squeeze(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_conditional_networks_want_clusters():
    conditional = DcganGenerator(GeneratorDescription(32, 32, 5, 4, clusters=2))
    with pytest.raises(ValueError, match="cluster of each image"):
        conditional(torch.rand(2, 5))
    with pytest.raises(ValueError, match="cluster of each image"):
        PixelDiscriminator(32, 32, 4, clusters=2)([torch.rand(2, 3, 32, 32)])


def test_a_cluster_costs_a_conditional_generator_few_numbers():
    sizes = [
        sum(
            parameter.numel() for parameter in DcganGenerator(GeneratorDescription(32, 32, 5, 4, clusters)).parameters()
        )
        for clusters in (100, 101)
    ]
    assert sizes[1] - sizes[0] == 2 * 15 * 4


def test_a_stored_conditional_generator_draws_the_same_images(tmp_path):
    generator, noise = DcganGenerator(GeneratorDescription(32, 32, 5, 4, clusters=3)), draw_noise((1,), 6, 5)
    initialize(generator, torch.Generator().manual_seed(1))
    measure_batch_norm(generator, draw_noise((2,), 32, 5), 8, torch.arange(32) % 3)
    save_generator(tmp_path / "a.safetensors", generator, {})
    loaded = load_generator(tmp_path / "a.safetensors")
    for cluster in range(3):
        assert np.array_equal(draw_images(loaded, noise, cluster), draw_images(generator, noise, cluster))


@pytest.mark.parametrize("size", [(128, 128), (128, 64)])
@pytest.mark.parametrize("clusters", [0, 2])
def test_squares_and_pedestrians_pass_through_both_networks(size, clusters):
    generator = DcganGenerator(GeneratorDescription(*size, 100, 4, clusters)).eval()
    known = torch.tensor([1, 0]) if clusters else None
    images = generator(torch.rand(2, 100), known)
    assert images.shape == (2, 3, *size)
    assert PixelDiscriminator(*size, 4, clusters=clusters)([images], known)[0].shape == (2,)
