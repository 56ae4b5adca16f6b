"""torch.compile where it pays; what cannot be compiled runs as it is, and the log says so."""

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
    """Whether to compile: `auto` does on one GPU.

    On a CPU the minutes that compiling takes do not come back in a run of this size. With several processes the batch
    norms' exchange cuts the network into pieces of a layer each.
    """
    return choice == "auto" and device.type == "cuda" and rank_and_size()[1] == 1


def compiled(function: Function, network: nn.Module, example: Tensor) -> Function:
    """A function of a network, compiled for inputs of the example's shape; others go through it as it is.

    It is tried out at once, forwards and backwards, under the precision of the caller; where that fails, the function
    comes back as it was given, with a warning. The network's weights and buffers stay as they are.

    Parameters
    ----------
    network : to whose weights the function gives gradients
    example : [B, ...], on the device and in the memory order of the batches to come
    """
    if torch.are_deterministic_algorithms_enabled():
        _fix_choices()
    fast: Function = torch.compile(function, dynamic=False)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        fast(example).float().sum().backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers, drivers and headers fail in ways of their own
        log.warning("not compiled, the network runs as it is: %s", _first_line(error))
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
