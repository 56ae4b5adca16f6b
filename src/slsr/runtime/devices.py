"""The device of a process, and the precision it computes in."""

from __future__ import annotations

import logging
import os

import torch
from torch import Tensor

from slsr.errors import InputError
from slsr.params.base import Precision
from slsr.runtime.processes import rank_and_size

log = logging.getLogger(__name__)


def prepare_device(precision: Precision, deterministic: bool) -> torch.device:
    """Choose this process's GPU if there is one, else the CPU, and set precision and determinism for this process.

    `fp32` switches TensorFloat-32 off, `tf32` switches it on. `bf16` is autocast, which the training loops use.

    Raises
    ------
    InputError
        The GPU does not support the precision.
    """
    if torch.cuda.is_available():
        check_precision(precision, torch.cuda.get_device_capability(), torch.cuda.get_device_name())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # filling new memory only helps code that reads memory before writing it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        name = torch.cuda.get_device_name()
    else:
        device, name = torch.device("cpu"), f"CPU, {torch.get_num_threads()} threads"
    size = rank_and_size()[1]
    log.info("device: %s%s, precision %s", f"{size} processes, each on " if size > 1 else "", name, precision)
    return device


def check_precision(precision: Precision, capability: tuple[int, int], name: str) -> None:
    """Refuse `tf32` and `bf16` below compute capability 8.0 (NVIDIA); AMD's GPUs, which count from 9, have bfloat16."""
    if precision != "fp32" and capability < (8, 0):
        raise InputError(f"precision: {precision}: {name} does not support it; set precision: fp32 in params.yaml")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a context of mixed precision for `bf16`, else of none; bfloat16 needs no gradient scaling."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to a device; a GPU fetches it from pinned memory while the host goes on."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)
