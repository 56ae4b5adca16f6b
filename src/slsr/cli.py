"""The command `slsr`: one subcommand a pipeline stage, and the tools around it.

Every command imports what it needs when it runs, so that `slsr --help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import sys

import typer

from slsr.errors import CheckFailed, InputError

app = typer.Typer(
    help="Person re-identification with sparse label smoothing: the stages of the pipeline and the tools around it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run a command; end with 2 on bad input, 1 on a failed check, and a message instead of a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except InputError as error:
        sys.exit(_say(error, 2))
    except CheckFailed as error:
        sys.exit(_say(error, 1))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; nothing half-written was left behind", 130))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        sys.exit(_say(f"no space left on the disk{where}; free some (`dvc gc -w` drops unused cache) and run again", 2))


def _say(message: object, code: int) -> int:
    print(f"slsr: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
