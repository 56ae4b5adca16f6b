import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from slsr.gan.projected import FeatureDiscriminator, MapDiscriminator, Projection, resized, with_batch_deviation
from slsr.models.imagenet import DEFAULT_NETWORK, imagenet_network

CPU = torch.device("cpu")


def discriminator(pixel_weight=2.0, clusters=0, size=(64, 32)) -> FeatureDiscriminator:
    torch.manual_seed(1)
    return FeatureDiscriminator(*size, 8, 2, pixel_weight, clusters)


@pytest.mark.parametrize(("old", "new"), [((5, 3), (10, 6)), ((4, 2), (8, 4)), ((8, 4), (7, 3)), ((1, 1), (4, 2))])
def test_resizing_is_bilinear(old, new):
    maps = torch.rand(2, 3, *old, dtype=torch.float64, requires_grad=True)
    plain = interpolate(maps, new, mode="bilinear")
    found = resized(maps, *new)
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-6)
    towards = torch.rand_like(plain)
    gradients = [torch.autograd.grad(one, maps, towards)[0] for one in (found, plain)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-6)


def test_maps_are_mixed_from_coarse_to_fine():
    """Against the same sums, written out."""
    torch.manual_seed(2)
    mixing = Projection([3, 5], 4)
    fine, coarse = torch.randn(2, 3, 8, 4), torch.randn(2, 5, 4, 2)
    mixing.measure([7 * fine, 0.1 * coarse])
    found = mixing([7 * fine, 0.1 * coarse])
    below = conv2d(conv2d(coarse / coarse.std(), mixing.across_1), mixing.around_1, padding=1)
    across = conv2d(fine / fine.std(), mixing.across_0)
    above = conv2d((across + interpolate(below, (8, 4), mode="bilinear")) / 2**0.5, mixing.around_0, padding=1)
    torch.testing.assert_close(found, [above, below], atol=1e-5, rtol=1e-4)


def test_mixing_keeps_the_scale():
    torch.manual_seed(5)
    mixed = Projection([24, 40, 112, 320], 64)(
        [torch.randn(4, c, s, s) for c, s in zip([24, 40, 112, 320], [32, 16, 8, 4], strict=True)]
    )
    assert all(0.5 < one[:, :, 2:-2, 2:-2].std() < 1.5 for one in mixed[:3])


def test_it_sees_the_frozen_maps_of_enlarged_images():
    judge, images = discriminator(pixel_weight=0), torch.rand(2, 3, 64, 32) * 2 - 1
    enlarged = interpolate(images, (128, 64), mode="bilinear")
    maps = imagenet_network(DEFAULT_NETWORK, CPU).maps(enlarged)
    for found, expected in zip(judge.views(images), judge.projection(maps), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_random_weights_are_saved_not_trained_and_the_network_is_neither():
    judge = discriminator()
    trained, saved = dict(judge.named_parameters()), judge.state_dict()
    assert not any("projection.a" in name for name in trained)
    assert {"projection.across_0", "projection.around_3", "projection.deviations"} <= saved.keys()
    assert sum(tensor.numel() for tensor in saved.values()) < 200_000, "the network has millions"


def test_gradients_reach_the_images_through_every_view():
    judge, images = discriminator(), (torch.rand(2, 3, 64, 32) * 2 - 1).requires_grad_()
    views = judge.views(images)
    assert len(views) == len(judge.weights) == 5
    for view in views:
        (gradient,) = torch.autograd.grad(view.square().sum(), images, retain_graph=True)
        assert gradient.abs().sum() > 0
    frozen = imagenet_network(DEFAULT_NETWORK, CPU)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128), (32, 32), (96, 48), (48, 32)])
@pytest.mark.parametrize("clusters", [0, 3])
def test_any_size_has_logits(size, clusters):
    judge = discriminator(clusters=clusters, size=size).eval()
    known = torch.tensor([0, 2]) if clusters else None
    logits = judge(judge.views(torch.rand(2, 3, *size)), known)
    assert [each.shape[0] for each in logits] == [2] * 5
    assert all(torch.isfinite(each).all() for each in logits)


def test_layers_are_bounded():
    judge = discriminator()
    for _ in range(30):
        judge(judge.views(torch.rand(4, 3, 64, 32)))
    for module in judge.judges.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.05)


def test_a_batch_of_equal_images_is_told_by_its_deviation():
    maps = torch.randn(6, 4, 3, 2)
    deviation = with_batch_deviation(maps)[:, -1]
    expected = sum(maps[:, c, y, x].std(correction=0) for c in range(4) for y in range(3) for x in range(2)) / 24
    torch.testing.assert_close(deviation, expected.expand(6, 3, 2), atol=1e-4, rtol=1e-3)
    alike = with_batch_deviation(maps[:1].expand(6, -1, -1, -1))[:, -1]
    assert alike.max() < 0.01


def test_a_cluster_adds_the_product_of_its_vector_with_the_mean_map():
    torch.manual_seed(4)
    judge = MapDiscriminator(5, 6, (16, 8), clusters=3).eval()
    maps, clusters = torch.randn(2, 5, 16, 8), torch.tensor([2, 0])
    found = judge.layers(maps)
    plain = judge.judge(with_batch_deviation(found)).flatten(1)
    for row, cluster in enumerate(clusters.tolist()):
        own = sum(found[row, c].mean() * judge.projection.weight[cluster, c] for c in range(6))
        torch.testing.assert_close(judge(maps, clusters)[row], plain[row] + own)
    with pytest.raises(ValueError, match="cluster of each image"):
        judge(maps)
