"""A task in two processes that share a process group."""

import multiprocessing
from pathlib import Path

import torch
import torch.distributed as dist


def one_of(rank: int, size: int, folder: Path, task) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    torch.save(task(folder), folder / f"{rank}.pt")
    dist.destroy_process_group()


def in_two_processes(folder: Path, task) -> list:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=one_of, args=(rank, 2, folder, task)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
