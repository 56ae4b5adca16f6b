"""What every discriminator is: a network that judges views of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Discriminator(nn.Module, ABC):
    """Judges images. What it sees of them is computed once, for its own training and for that of the generator.

    Attributes
    ----------
    weights : of its logits in the losses
    """

    weights: Sequence[float] = (1.0,)

    def views(self, images: Tensor) -> list[Tensor]:
        """Return what it judges of images [B, 3, H, W] in [-1, 1]: the images themselves, or their features."""
        return [images]

    @abstractmethod
    def forward(self, views: Sequence[Tensor], clusters: Tensor | None = None) -> list[Tensor]:
        """Return the logits of being real for each view, [B] or [B, n]; int64 [B] if it has clusters."""
