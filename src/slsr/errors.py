"""The three errors that end a command with a message and an exit code, and without a traceback."""


class InputError(Exception):
    """What the user gave is wrong: exit code 2.

    The message names the file or key, the value found there, and the remedy.
    """


class CheckFailed(Exception):
    """A check failed: exit code 1."""


class Interrupted(Exception):
    """A signal ended a run, and its state is saved: exit code 130."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, or the name of its class if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
