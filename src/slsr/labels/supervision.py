"""What the loss of generated images is computed from during training: labels that follow the network, a noise layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slsr.labels.noise import NoiseLayer


@dataclass(frozen=True)
class Supervision:
    """How the generated images of a training set are supervised, beyond their fixed targets and weights.

    Attributes
    ----------
    first : the generated images are the images from this number on; None if there are none, or nothing applies to them
    pseudo_label : their targets, [B, C] from the logits [B, C] of a batch; None to use the targets of the training set
    start : they count after this share of the run's summed learning rate is spent; until then their weight is 0
    noise : a layer between the network's probabilities and the targets
    noise_learning_rate : learning rate of the noise layer, multiplied by the schedule like the others
    """

    first: int | None = None
    pseudo_label: Callable[[Tensor], Tensor] | None = None
    start: float = 0.0
    noise: NoiseLayer | None = None
    noise_learning_rate: float = 0.0

    def supervise(
        self, logits: Tensor, targets: Tensor, weights: Tensor, images: Tensor, spent: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits, targets and weights that enter the loss of a batch; those of real images do not change.

        A pseudo-label is computed from the logits that the same step trains on, in training mode, as in its authors'
        code. It follows from seed, step and weights, so an interrupted run has nothing to keep. No gradient flows
        through it. All values stay on the device.

        Parameters
        ----------
        logits : [B, C]
        targets : float32 [B, C]
        weights : float32 [B]
        images : int64 [B], their numbers in the training set
        spent : the share of the run's summed learning rate that is spent after the step of this batch
        """
        if self.first is None:
            return logits, targets, weights
        generated = images >= self.first
        if spent <= self.start:
            weights = weights.masked_fill(generated, 0.0)
        if self.pseudo_label is not None:
            targets = torch.where(generated[:, None], self.pseudo_label(logits.detach()), targets)
        if self.noise is not None:
            logits = torch.where(generated[:, None], self.noise(logits), logits.float())
        return logits, targets, weights

    def update_noise(self, factor: float) -> None:
        """Update the noise layer from its gradient, at `factor` times its learning rate."""
        if self.noise is not None:
            self.noise.descend(self.noise_learning_rate * factor)

    def to(self, device: torch.device) -> None:
        """Move the noise layer to a device, in place."""
        if self.noise is not None:
            self.noise.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return what an interrupted training needs to go on."""
        return {} if self.noise is None else self.noise.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state, in place."""
        if self.noise is not None:
            self.noise.load_state_dict(state)


FIXED_LABELS = Supervision()
