"""What generated images are told while training goes: labels that follow the network, and a noise layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slsr.labels.noise import NoiseLayer


@dataclass(frozen=True)
class GeneratedImages:
    """How the generated images of a training set take part in it, beyond fixed targets and weights.

    Attributes
    ----------
    first : they are the images from this number on; None: there are none, or nothing is to be said of them
    pseudo_label : their targets, [B, C] of the logits [B, C] of a batch; None: those of the training set
    first_epoch : the epoch, 0-based, from which they count; in those before they weigh nothing
    noise : stands between the network's probabilities and their targets
    noise_learning_rate : of the noise layer, moved by the schedule as the others are
    """

    first: int | None = None
    pseudo_label: Callable[[Tensor], Tensor] | None = None
    first_epoch: int = 0
    noise: NoiseLayer | None = None
    noise_learning_rate: float = 0.0

    def supervise(
        self, logits: Tensor, targets: Tensor, weights: Tensor, images: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, targets and weights of a batch as its loss takes them; real images keep theirs.

        A pseudo-label is computed from the logits that the same step trains on, in training mode, as its authors'
        code does: it follows from seed, step and weights, and there is nothing to keep when a run is interrupted.
        No gradient flows through it. All of it stays on the device.

        Parameters
        ----------
        logits : [B, C]
        targets : float32 [B, C]
        weights : float32 [B]
        images : int64 [B], their numbers in the training set
        epoch : 0-based
        """
        if self.first is None:
            return logits, targets, weights
        generated = images >= self.first
        if epoch < self.first_epoch:
            weights = weights.masked_fill(generated, 0.0)
        if self.pseudo_label is not None:
            targets = torch.where(generated[:, None], self.pseudo_label(logits.detach()), targets)
        if self.noise is not None:
            logits = torch.where(generated[:, None], self.noise(logits), logits.float())
        return logits, targets, weights

    def learn(self, factor: float) -> None:
        """Move the noise layer down its gradient, at `factor` times its rate."""
        if self.noise is not None:
            self.noise.descend(self.noise_learning_rate * factor)

    def to(self, device: torch.device) -> None:
        """Move the noise layer to a device, in place."""
        if self.noise is not None:
            self.noise.to(device)

    def state(self) -> dict[str, Any]:
        """What an interrupted run has to keep."""
        return {} if self.noise is None else self.noise.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a kept state, in place."""
        if self.noise is not None:
            self.noise.load_state_dict(state)


AS_LABELED = GeneratedImages()
