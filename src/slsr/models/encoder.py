"""The encoder of persons: a backbone, pooling of its last maps, and a head over the identities."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from slsr.errors import InputError, first_line
from slsr.models.backbones import build_backbone, class_token_of, feature_width, has_class_token, maps_of
from slsr.models.checkpoint import load_checkpoint, save_checkpoint
from slsr.params.recipe import HeadName, Image, Pooling

BOTTLENECK_WIDTH = 512
SMALLEST_IN_MEAN = 1e-6
SPELLING_OF_0_1 = {"centre-crop": "center-crop"}  # in checkpoints that earlier versions wrote


@dataclass(frozen=True)
class EncoderDescription:
    """Everything that is needed to rebuild an encoder and to prepare images for it as in training.

    `last_relu` says whether a ReLU follows the last maps, which changes those of DenseNet: checkpoints of earlier
    versions have one, as torchvision's classifier does; the released code of the paper has none.
    """

    backbone: str
    head: HeadName
    classes: int
    image: Image
    last_relu: bool = False
    last_stride: int = 2
    pooling: Pooling = "average"


class FeatureExtractor(nn.Module):
    """Images to features: a backbone, and pooling of its last maps.

    Attributes
    ----------
    image : how an image is resized, cropped and normalized before it goes into the network
    dimension : D, the number of values in a feature

    Raises
    ------
    InputError
        There is no such backbone, or it does not fit the images, the last stride or the pooling.
    """

    def __init__(
        self,
        backbone: str,
        image: Image,
        last_relu: bool = False,
        last_stride: int = 2,
        pooling: Pooling = "average",
    ) -> None:
        super().__init__()
        self.image = image
        self.backbone = build_backbone(backbone, image, last_stride)
        self.dimension = feature_width(self.backbone, backbone, image)
        if pooling == "class-token" and not has_class_token(self.backbone):
            raise InputError(f"pooling: class-token: backbone {backbone} has no class token; choose average or gem")
        self.pooling = pooling
        self.pool = GeneralizedMean() if pooling == "gem" else Mean()
        if last_relu and isinstance(self.backbone, nn.Sequential):
            self.backbone.append(nn.ReLU(inplace=True))

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.parameters()).device

    def maps(self, images: Tensor) -> Tensor:
        """Compute the last maps: float [B, 3, H, W] to [B, D, h, w]."""
        return maps_of(self.backbone, self.backbone(images))

    def added_by_places(self, images: Tensor) -> Tensor:
        """Compute what each place of the last maps adds to the feature: [B, D, h, w], whose mean over places is it.

        With `class-token` these are the patches of the last layer, whose mean is another feature.
        """
        return self.pool.added_by_places(self.maps(images))

    def pooled(self, images: Tensor) -> Tensor:
        """Pool the last maps: float [B, 3, H, W] to [B, D]."""
        if self.pooling == "class-token":
            return class_token_of(self.backbone(images))
        pooled: Tensor = self.pool(self.maps(images))
        return pooled

    def features(self, images: Tensor) -> Tensor:
        """Compute what tests compare: float [B, 3, H, W] to [B, D]."""
        return self.pooled(images)


class Encoder(FeatureExtractor):
    """Images to features to identity logits.

    The head `bnneck` has a neck, a batch norm between the pooled feature and the classifier; then tests compare its
    output (Luo et al., CVPR workshops 2019). The other heads have none.

    Parameters
    ----------
    description : which backbone and head, and for how many identities; errors as `FeatureExtractor`
    """

    def __init__(self, description: EncoderDescription) -> None:
        super().__init__(
            description.backbone,
            description.image,
            description.last_relu,
            description.last_stride,
            description.pooling,
        )
        self.description = description
        self.neck = build_neck(description.head, self.dimension)
        self.head = build_head(description.head, self.dimension, description.classes)

    def features(self, images: Tensor) -> Tensor:
        """Compute what tests compare: float [B, 3, H, W] to [B, D]."""
        features: Tensor = self.neck(self.pooled(images))
        return features

    def added_by_places(self, images: Tensor) -> Tensor:
        """Compute what each place of the last maps adds to the feature, as `FeatureExtractor` does: [B, D, h, w]."""
        added = super().added_by_places(images)
        count, width, rows, columns = added.shape
        through_neck: Tensor = self.neck(added.permute(0, 2, 3, 1).reshape(-1, width))
        return through_neck.view(count, rows, columns, width).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Compute identity logits, [B, C]."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Mean(nn.Module):
    """Pooling by the mean over places."""

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps: [B, D, h, w] to [B, D]."""
        return torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 1), 1)

    def added_by_places(self, maps: Tensor) -> Tensor:
        """Share the mean among the places: [B, D, h, w], whose mean over places is the pooled feature."""
        return maps


class GeneralizedMean(nn.Module):
    """Pooling by a generalized mean, `(mean over places of x^p)^(1/p)`, with a learned p that begins at 3.

    Radenovic, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019. Values below
    1e-6 are raised to that, as in its code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps: [B, D, h, w] to [B, D]."""
        return self._powers(maps).mean(dim=(2, 3)).pow(1 / self.p)

    def added_by_places(self, maps: Tensor) -> Tensor:
        """Share the mean among the places by x^p: [B, D, h, w], whose mean over places is the pooled feature."""
        powers = self._powers(maps)
        mean = powers.mean(dim=(2, 3), keepdim=True)
        return mean.pow(1 / self.p) * powers / mean

    def _powers(self, maps: Tensor) -> Tensor:
        """Raise values to the power of p, in float32 or, if these are, float64."""
        wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
        return wide.clamp_min(SMALLEST_IN_MEAN).pow(self.p)


def build_neck(head: HeadName, width: int) -> nn.Module:
    """Build what is between the pooled feature and the head: for `bnneck` a batch norm whose bias stays 0."""
    if head != "bnneck":
        return nn.Identity()
    neck = nn.BatchNorm1d(width)
    neck.bias.requires_grad_(False)
    return neck


def build_head(name: HeadName, width: int, classes: int) -> nn.Sequential:
    """Build the layers between the pooled feature and the logits.

    - `plain`: one linear layer, y = W f + b.
    - `linear`: a linear layer of the feature's width, then the classifier, y = W (V f + a) + b, as the paper prints it.
    - `bottleneck`: 512-d linear, batch norm, LeakyReLU(0.1), dropout 0.5, classifier,
      y = W dropout(leaky(norm(V f + a))) + b. The released numbers used it (the classifier block of Zheng et al., with
      its initialization).
    - `bnneck`: a linear layer without bias, y = W g, on the output g of the neck (Luo et al., CVPR workshops 2019).
    """
    if name == "bottleneck":
        reduce, norm = nn.Linear(width, BOTTLENECK_WIDTH), nn.BatchNorm1d(BOTTLENECK_WIDTH)
        nn.init.kaiming_normal_(reduce.weight, mode="fan_out")
        nn.init.zeros_(reduce.bias)
        nn.init.normal_(norm.weight, 1.0, 0.02)
        return nn.Sequential(
            reduce, norm, nn.LeakyReLU(0.1), nn.Dropout(0.5), build_classifier(BOTTLENECK_WIDTH, classes)
        )
    classifier = build_classifier(width, classes, bias=name != "bnneck")
    return nn.Sequential(nn.Linear(width, width), classifier) if name == "linear" else nn.Sequential(classifier)


def build_classifier(width: int, classes: int, bias: bool = True) -> nn.Linear:
    """Build the last layer, with small normal weights and, if it has one, a bias of 0."""
    classifier = nn.Linear(width, classes, bias)
    nn.init.normal_(classifier.weight, std=0.001)
    if bias:
        nn.init.zeros_(classifier.bias)
    return classifier


def save_encoder(path: Path, encoder: Encoder, best_epoch: int | None = None) -> None:
    """Write an encoder with its description as safetensors; `best_epoch`: its weights are those of this epoch."""
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
        encoder = Encoder(EncoderDescription(**({"last_relu": True} | description | {"image": image})))
        encoder.load_state_dict(tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        first = first_line(error)
        raise InputError(f"{path}: an encoder of another version of this project ({first}); train it again") from error
    return encoder.eval()
