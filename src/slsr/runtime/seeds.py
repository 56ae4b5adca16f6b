"""Seeds that are derived from several numbers."""

from __future__ import annotations

import numpy as np
import torch


def derived_seed(*numbers: int) -> int:
    """Return a seed derived from several numbers, independent of the seeds of neighboring numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def derived_generator(*numbers: int) -> torch.Generator:
    """Return a CPU generator with the derived seed."""
    return torch.Generator().manual_seed(derived_seed(*numbers))
