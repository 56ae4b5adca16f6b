"""Seeds that follow from several numbers."""

from __future__ import annotations

import numpy as np
import torch


def derived_seed(*numbers: int) -> int:
    """A seed that follows from several numbers and is independent of its neighbors'."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def derived_generator(*numbers: int) -> torch.Generator:
    """A CPU generator with the derived seed."""
    return torch.Generator().manual_seed(derived_seed(*numbers))
