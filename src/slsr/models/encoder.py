"""The encoder of persons: a torchvision backbone, global average pooling, and a head over the identities."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from slsr.errors import InputError, first_line
from slsr.models.checkpoint import load_checkpoint, save_checkpoint
from slsr.params.recipe import Backbone, HeadName, Image

FEATURE_WIDTH: dict[str, int] = {"resnet18": 512, "resnet50": 2048, "densenet121": 1024}
BOTTLENECK_WIDTH = 512
SPELLING_OF_0_1 = {"centre-crop": "center-crop"}  # in checkpoints that earlier versions wrote


@dataclass(frozen=True)
class EncoderDescription:
    """Everything that is needed to rebuild an encoder and to prepare images for it as in training."""

    backbone: Backbone
    head: HeadName
    classes: int
    image: Image


class FeatureExtractor(nn.Module):
    """Images to features: a backbone and global average pooling.

    Parameters
    ----------
    backbone : which torchvision network
    image : how an image is resized, cropped and normalized before it goes into the network
    """

    def __init__(self, backbone: Backbone, image: Image) -> None:
        super().__init__()
        self.image = image
        self.dimension = FEATURE_WIDTH[backbone]
        self.backbone = build_backbone(backbone)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.parameters()).device

    def features(self, images: Tensor) -> Tensor:
        """Average the maps of the last convolutional layer: float [B, 3, H, W] to [B, D]."""
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.backbone(images), 1), 1)


class Encoder(FeatureExtractor):
    """Images to features to identity logits.

    Parameters
    ----------
    description : which backbone and head, and for how many identities
    """

    def __init__(self, description: EncoderDescription) -> None:
        super().__init__(description.backbone, description.image)
        self.description = description
        self.head = build_head(description.head, self.dimension, description.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute identity logits, [B, C]."""
        logits: Tensor = self.head(self.features(images))
        return logits


def build_backbone(name: Backbone) -> nn.Module:
    """Build the convolutional part of a torchvision network, with random weights: [B, 3, H, W] to [B, D, h, w]."""
    network = torchvision.models.get_model(name, weights=None)
    return convolutional_part(network, name)


def convolutional_part(network: nn.Module, name: Backbone) -> nn.Module:
    """Take a torchvision network without pooling and classifier, but with DenseNet's last ReLU."""
    if name == "densenet121":
        return nn.Sequential(network.get_submodule("features"), nn.ReLU(inplace=True))
    return nn.Sequential(*[part for key, part in network.named_children() if key not in {"avgpool", "fc"}])


def build_head(name: HeadName, width: int, classes: int) -> nn.Sequential:
    """Build the layers between the pooled feature and the logits.

    - `plain`: one linear layer, y = W f + b.
    - `linear`: a linear layer of the feature's width, then the classifier, y = W (V f + a) + b, as the paper prints it.
    - `bottleneck`: 512-d linear, batch norm, LeakyReLU(0.1), dropout 0.5, classifier,
      y = W dropout(leaky(norm(V f + a))) + b. The released numbers used it (the classifier block of Zheng et al., with
      its initialization).
    """
    if name == "bottleneck":
        reduce, norm = nn.Linear(width, BOTTLENECK_WIDTH), nn.BatchNorm1d(BOTTLENECK_WIDTH)
        nn.init.kaiming_normal_(reduce.weight, mode="fan_out")
        nn.init.zeros_(reduce.bias)
        nn.init.normal_(norm.weight, 1.0, 0.02)
        return nn.Sequential(
            reduce, norm, nn.LeakyReLU(0.1), nn.Dropout(0.5), build_classifier(BOTTLENECK_WIDTH, classes)
        )
    classifier = build_classifier(width, classes)
    return nn.Sequential(nn.Linear(width, width), classifier) if name == "linear" else nn.Sequential(classifier)


def build_classifier(width: int, classes: int) -> nn.Linear:
    """Build the last layer, with small normal weights and a bias of 0."""
    classifier = nn.Linear(width, classes)
    nn.init.normal_(classifier.weight, std=0.001)
    nn.init.zeros_(classifier.bias)
    return classifier


def save_encoder(path: Path, encoder: Encoder, best_epoch: int | None = None) -> None:
    """Write an encoder with its description as safetensors; `best_epoch` is noted if its weights are kept as best."""
    description = asdict(encoder.description) | {"image": encoder.description.image.model_dump(), "kind": "encoder"}
    if best_epoch is not None:
        description["best_epoch"] = best_epoch
    save_checkpoint(path, encoder.state_dict(), description)


def load_encoder(path: Path) -> Encoder:
    """Read an encoder, on the CPU and in evaluation mode.

    Raises
    ------
    InputError
        The file is missing, cannot be read, is no encoder, or comes from a version with other layers.
    """
    tensors, description = load_checkpoint(path)
    if description.pop("kind", None) != "encoder":
        raise InputError(f"{path}: a model, but no encoder; give the model.safetensors of a trained encoder")
    description.pop("best_epoch", None)
    try:
        image = Image(**{key: SPELLING_OF_0_1.get(value, value) for key, value in description["image"].items()})
        encoder = Encoder(EncoderDescription(**(description | {"image": image})))
        encoder.load_state_dict(tensors)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        first = first_line(error)
        raise InputError(f"{path}: an encoder of another version of this project ({first}); train it again") from error
    return encoder.eval()
