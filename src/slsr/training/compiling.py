"""torch.compile where it saves time; if a network cannot be compiled, it runs without, and the log says so."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from slsr.params.recipe import Compile
from slsr.runtime.processes import rank_and_size

log = logging.getLogger(__name__)

Function = Callable[[Tensor], Tensor]


def compiling_pays(choice: Compile, device: torch.device) -> bool:
    """Tell whether to compile: `auto` compiles on one GPU.

    On a CPU compiling takes minutes, more than it saves in a run of this size. With several processes the batch norms
    exchange their statistics, which cuts the network into pieces of one layer.
    """
    return choice == "auto" and device.type == "cuda" and rank_and_size()[1] == 1


def compiled(function: Function, network: nn.Module, example: Tensor) -> Function:
    """Compile a function of a network for inputs of the example's shape; inputs of other shapes use it uncompiled.

    It is tried at once, forwards and backwards, in the precision of the caller; if that fails, the function is returned
    uncompiled, with a warning. The network's weights and buffers do not change.

    Parameters
    ----------
    network : whose weights get gradients through the function
    example : [B, ...], on the device and in the memory order of later batches
    """
    if torch.are_deterministic_algorithms_enabled():
        _fix_choices()
    fast: Function = torch.compile(function, dynamic=False)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        fast(example).float().sum().backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers, drivers and headers raise errors of any type
        log.warning("not compiled, the network runs uncompiled: %s", _first_line(error))
        return function
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])
        network.zero_grad(set_to_none=True)
    log.info("compiled for batches of %d", len(example))

    def by_shape(images: Tensor) -> Tensor:
        return fast(images) if images.shape == example.shape else function(images)

    return by_shape


def _fix_choices() -> None:
    """Let the compiler choose its kernels without timing them, so that a second run chooses the same."""
    import torch._inductor.config as settings

    if hasattr(settings, "deterministic"):  # since torch 2.9
        settings.deterministic = True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
