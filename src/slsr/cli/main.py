"""The command `slsr`: one subcommand per stage of the pipeline, and the tools around it.

Every command imports what it needs when it runs, so that `slsr --help` answers at once. It checks paths, names and
output files first, and loads torch, or anything else that is large, only when it has accepted them.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from slsr.cli import data, explore, project, results, score, stages, studies, use
from slsr.cli.commands import Commands
from slsr.cli.extras import describe_missing
from slsr.errors import CheckFailed, InputError, Interrupted

BROKEN_PIPE = 128 + 13  # what a shell says of a program that SIGPIPE ended
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_IS_GONE = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT)

app = Commands(
    help="Train, evaluate and use networks for person re-identification, with sparse labels for generated images.",
    epilog="Begin with `slsr doctor`, `dvc repro` and `slsr explore`. See `slsr COMMAND -h`, and the manual in docs/.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (data, project, explore, use, score, studies, results, stages):  # the order of `slsr --help`
    app.add_typer(group.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        import slsr

        typer.echo(f"slsr {slsr.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options of `slsr` itself; each one acts in its callback."""


def main() -> None:
    """Run a command; exit with 2 after bad input and 1 after a failed check, with a message and no traceback."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or log that is not UTF-8, or a file name that is not
            stream.reconfigure(errors="replace")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("slsr").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # slsr itself reports what is wrong with an image
    try:
        with logging_redirect_tqdm():
            _run_app()
    except InputError as error:
        sys.exit(_say(error, 2))
    except CheckFailed as error:
        sys.exit(_say(error, 1))
    except Interrupted as error:
        sys.exit(_say(error, 130))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; nothing half-written was left behind", 130))
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "slsr"):
            raise
        sys.exit(_say(describe_missing(module, next(iter(sys.argv[1:]), "")), 2))
    except OSError as error:
        if error.filename is None and error.errno not in DISK_IS_FULL:
            raise
        sys.exit(_say(_explain(error), 2))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        remedy = stages.memory_remedy(next(iter(sys.argv[1:]), ""))
        remedy += "; `nvidia-smi` shows what else uses a GPU" if "CUDA" in str(error) else ""
        sys.exit(_say(f"out of memory ({str(error).splitlines()[0] if str(error) else 'host'}); {remedy}", 2))


def _explain(error: OSError) -> str:
    """Say in one line what the file system refused."""
    path = error.filename2 or error.filename  # after a failed rename, the second one is the file that the user knows
    name = _shortened(os.fsdecode(path)) if isinstance(path, str | bytes) else str(path)
    if error.errno in DISK_IS_FULL:
        where = "" if path is None else f" while writing {name}"
        return f"no space left on the disk{where}; free some (`dvc gc -w` removes unused cache) and run again"
    reason = (error.strerror or str(error)).lower()
    if error.errno in DISK_IS_GONE:
        return f"{name}: {reason}; its disk or network share does not answer: mount it again, and run again"
    return f"{name}: {reason}; name another file or folder, or change its permissions"


def _shortened(text: str, longest: int = 200) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _out_of_memory(error: Exception) -> bool:
    """Tell whether the memory of the host or of a GPU is full; this asks torch only if it is loaded already."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    signs = ("can't allocate memory", "_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "HIP error: out of memory")
    return any(sign in str(error) for sign in signs)


def _run_app() -> None:
    """Run the command; Typer turns Ctrl-C into an exit with 130 without a message, which is undone here.

    It also turns a reader that went away (`| head`) into an exit with 1, which means a failed check here.
    """
    try:
        app()
    except SystemExit as end:
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # Typer puts it there after a broken pipe
            sys.exit(BROKEN_PIPE)
        if end.code == 130 and not isinstance(end, stages.ProcessesEnded):
            raise KeyboardInterrupt from end
        raise


def _say(message: object, code: int) -> int:
    """Print a message, tell it to the process that started this one, and return the exit code."""
    rank = os.environ.get("RANK")
    print(f"slsr: {message}" if rank is None else f"slsr, process {rank}: {message}", file=sys.stderr)
    if rank is not None:
        from slsr.runtime.launch import write_status

        write_status(code)
    return code


if __name__ == "__main__":
    main()
