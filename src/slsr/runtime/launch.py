"""Several processes for one command: how many, how they are started, and how they meet."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from slsr.errors import InputError
from slsr.runtime.processes import is_first

log = logging.getLogger(__name__)

STATUS_FILE = "SLSR_STATUS_FILE"
LAUNCHER = "SLSR_LAUNCHER"
SECONDS_BETWEEN_LOOKS = 0.5
TORCHRUN = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def processes_wanted(environment: Mapping[str, str]) -> int:
    """Return how many processes to start on this machine: `SLSR_PROCESSES`, else one per visible GPU, at least one.

    Raises
    ------
    InputError
        SLSR_PROCESSES is not a whole number of at least 1, or larger than the number of visible GPUs.
    """
    gpus = torch.cuda.device_count()
    text = environment.get("SLSR_PROCESSES", "")
    if not text:
        return max(gpus, 1)
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"SLSR_PROCESSES: {text!r}; give a whole number of at least 1, or unset it")
    if gpus and int(text) > gpus:
        raise InputError(f"SLSR_PROCESSES: {text}, but {gpus} GPUs are visible; give at most that, one process per GPU")
    return int(text)


def launched(environment: Mapping[str, str]) -> bool:
    """Tell whether this process is one of several that torchrun or Slurm's srun started.

    A batch script of several tasks has SLURM_NTASKS and SLURM_PROCID too, but runs once; only the tasks of a job step
    have SLURM_STEP_NUM_TASKS.
    """
    return "RANK" in environment or (
        int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment
    )


def start_processes(count: int, arguments: Sequence[str]) -> int:
    """Run `slsr ARGUMENTS` in several processes on this machine through torch's launcher; return the exit status.

    When one process fails, the launcher ends the others. Messages appear as they are written, so the message of the
    first failure comes first. The status is the status of the process that failed first.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    with tempfile.TemporaryDirectory() as folder:
        status = os.environ[STATUS_FILE] = str(Path(folder) / "status")
        os.environ[LAUNCHER] = str(os.getpid())
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=folder,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "slsr", *arguments)
        except ChildFailedError as error:
            if error.get_first_failure()[1].exitcode < 0 or not Path(status).is_file():
                _explain(error)  # a killed process could not say so, and the others say only that it is gone
            return read_status(Path(status))
        except SignalException:
            return read_status(Path(status))
    return 0


def _explain(error: ChildFailedError) -> None:
    """Log which process failed first, if it could not say so itself."""
    rank, failure = error.get_first_failure()
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
    remedy = "; if the machine ran out of memory, lower batch_size in params.yaml" if failure.exitcode == -9 else ""
    log.error("process %d %s%s", rank, how, remedy)


def end_with_launcher(environment: Mapping[str, str]) -> None:
    """End this process when the launcher that started it is killed, because a killed launcher cannot end it.

    Otherwise it would go on beside the processes of the next start.
    """
    launcher = environment.get(LAUNCHER, "")
    if launcher.isdecimal():
        threading.Thread(target=_end_without, args=(int(launcher),), daemon=True).start()


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(128 + signal.SIGKILL)


def write_status(code: int) -> None:
    """Tell the launcher how this process ends, unless another one already has."""
    if STATUS_FILE in os.environ:
        with suppress(OSError), Path(os.environ[STATUS_FILE]).open("x") as file:
            file.write(str(code))


def read_status(path: Path) -> int:
    """Return the status of the process that failed first; 1 if it could not write it."""
    return int(path.read_text()) if path.is_file() else 1


def join_processes(environment: Mapping[str, str]) -> None:
    """Connect to the other processes of this launch, if there are any.

    torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; under Slurm the first three are taken
    from SLURM_PROCID, SLURM_STEP_NUM_TASKS and SLURM_LOCALID, and the last two must be set.
    """
    if not launched(environment) or dist.is_initialized():
        return
    end_with_launcher(environment)
    if "RANK" not in environment:
        _adopt_slurm(environment)
    elif missing := [name for name in TORCHRUN if name not in environment]:
        raise InputError(
            f"RANK is set, but {' and '.join(missing)} not; set all the variables that torchrun sets, or unset RANK"
        )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local % torch.cuda.device_count())  # a Slurm task may see no GPU but its own
    dist.init_process_group(backend)
    if not is_first():
        logging.getLogger("slsr").setLevel(logging.WARNING)


def leave_processes() -> None:
    """Disconnect from the other processes at the end of a stage that went well, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _adopt_slurm(environment: Mapping[str, str]) -> None:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        tasks = environment["SLURM_STEP_NUM_TASKS"]
        raise InputError(
            f"{' and '.join(missing)} not set: Slurm started {tasks} tasks, which need to find each other; in the job "
            "script: export MASTER_ADDR=$(scontrol show hostnames | head -n 1) MASTER_PORT=29500"
        )
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    os.environ.update({name: environment[slurm] for name, slurm in names.items()})
