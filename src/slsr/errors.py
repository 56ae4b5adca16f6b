"""The two ways a command ends badly, both without a traceback."""


class InputError(Exception):
    """Something the user gave is wrong: exit code 2.

    The message names the file or key, the value found there, and the remedy.
    """


class CheckFailed(Exception):
    """A check ran and its answer is no: exit code 1."""


class Interrupted(Exception):
    """A signal asked a run to end, and its state is saved: exit code 130."""
