"""Which queries a ranking can be judged by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slsr.datasets.collection import DISTRACTOR, JUNK


def can_be_judged(identity: int, query_identities: NDArray[np.int64] | None) -> bool:
    """Whether a gallery image of this identity can be a labeled query.

    Junk cannot. Identity 0 cannot if no query has it: it then means distractors, which are many people.

    Parameters
    ----------
    query_identities : [Q], of the queries of the data set; None if they are unknown
    """
    if identity == JUNK:
        return False
    return identity != DISTRACTOR or (query_identities is not None and bool((query_identities == DISTRACTOR).any()))
