"""The device a run uses and how exactly it computes there."""

from __future__ import annotations

import logging
import os

import torch

from slsr.params import Precision

log = logging.getLogger(__name__)


def prepare_device(precision: Precision, deterministic: bool) -> torch.device:
    """Choose the GPU where there is one, else the CPU, and set precision and determinism for this process.

    `fp32` switches TensorFloat-32 off, `tf32` on; `bf16` is autocast, which the loops do themselves.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    log.info("device: %s, precision %s", name, precision)
    return device


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Mixed precision for `bf16`, nothing otherwise; no gradient scaling is needed for bfloat16."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
