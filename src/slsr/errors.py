"""The three errors that end a command with a message and an exit code, and without a traceback."""


class InputError(Exception):
    """What the user gave is wrong: exit code 2.

    The message names the file or key, the value found there, and the remedy.
    """


class CheckFailed(Exception):
    """A check failed: exit code 1."""


class Interrupted(Exception):
    """A signal ended a run, and its state is saved: exit code 130."""
