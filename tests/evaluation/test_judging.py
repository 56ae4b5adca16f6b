"""Which queries can be judged."""

import numpy as np

from slsr.evaluation.judging import can_be_judged


def test_junk_and_distractors_are_no_labeled_queries():
    assert can_be_judged(7, None)
    assert not can_be_judged(-1, np.array([-1, 7]))
    assert not can_be_judged(0, np.array([7]))
    assert can_be_judged(0, np.array([0, 7]))
