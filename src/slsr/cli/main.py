"""The command `slsr`: one subcommand a pipeline stage, and the tools around it.

Every command imports what it needs when it runs, so that `slsr --help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings

import typer

from slsr.cli import data, explore, project, score, stages, studies, use
from slsr.cli.stages import AllEnded
from slsr.errors import CheckFailed, InputError, Interrupted

# What a path that the user named can run into; anything else is our fault, or the machine's, and is shown whole.
REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EFBIG,
}


MEMORY_KNOBS = {
    "cluster": "cluster.minibatch_above",
    "train-encoder": "encoder.batch_size",
    "extract-features": "evaluate.batch_size",
    "train-gan": "gan.batch_size",
    "generate": "generate.images",
    "floors": "evaluate.batch_size",
    "train": "train.batch_size",
    "evaluate": "evaluate.batch_size",
    "embed": "--batch-size",
    "search": "--batch-size",
}


app = typer.Typer(
    help="Person re-identification with sparse label smoothing: the stages of the pipeline and the tools around it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


for group in (stages, project, data, score, use, explore, studies):
    app.add_typer(group.app)


def main() -> None:
    """Run a command; end with 2 on bad input, 1 on a failed check, and a message instead of a traceback."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("slsr").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about images that slsr itself refuses, or reads all the same
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
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        sys.exit(_say(_explain(error), 2))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        knob = MEMORY_KNOBS.get(next(iter(sys.argv[1:]), ""), "batch_size")
        remedy = f"lower {knob} or the image size in params.yaml, or use precision: bf16"
        remedy += "; `nvidia-smi` shows what else uses a GPU" if "CUDA" in str(error) else ""
        if knob == "--batch-size":
            remedy = "give a smaller --batch-size"
        elif knob == "cluster.minibatch_above":
            remedy = f"lower {knob} below the number of training images, or try fewer k in cluster.sweep"
        sys.exit(_say(f"out of memory ({str(error).splitlines()[0] if str(error) else 'host'}); {remedy}", 2))


def _explain(error: OSError) -> str:
    """One line on what the file system refused."""
    if error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}; free some (`dvc gc -w` drops unused cache) and run again"
    path = error.filename2 or error.filename  # of a rename, what the temporary file was to become
    name = _shortened(os.fsdecode(path)) if isinstance(path, str | bytes) else "a file"
    return f"{name}: {(error.strerror or str(error)).lower()}; name another file or folder, or mend its permissions"


def _shortened(text: str, longest: int = 200) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _out_of_memory(error: Exception) -> bool:
    """Whether the host's memory or a GPU's is exhausted; asks torch only where it is loaded already."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    signs = ("can't allocate memory", "_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "HIP error: out of memory")
    return any(sign in str(error) for sign in signs)


def _run_app() -> None:
    """Typer turns Ctrl-C into an exit with 130, which says nothing."""
    try:
        app()
    except SystemExit as end:
        if end.code == 130 and not isinstance(end, AllEnded):
            raise KeyboardInterrupt from end
        raise


def _say(message: object, code: int) -> int:
    rank = os.environ.get("RANK")
    print(f"slsr: {message}" if rank is None else f"slsr, process {rank}: {message}", file=sys.stderr)
    if rank is not None:
        from slsr.runtime.launch import write_status

        write_status(code)
    return code


if __name__ == "__main__":
    main()
