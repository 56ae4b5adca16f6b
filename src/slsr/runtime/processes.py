"""Several processes that train one network: which images each takes, and how they agree.

Each process takes its share of every global batch. What a step draws at random follows from its number. So every
process draws the same numbers for the whole batch and uses its share. The results depend on the number of processes
only by rounding.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slsr.errors import InputError


def rank_and_size() -> tuple[int, int]:
    """Return the number of this process and the number of processes; (0, 1) outside a launch."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_first() -> bool:
    """Tell whether this process is the one that writes the outputs."""
    return rank_and_size()[0] == 0


def share_of(count: int) -> slice:
    """Return which of `count` items are this process's: consecutive ones, as many as any other process's within one."""
    rank, size = rank_and_size()
    return slice(count * rank // size, count * (rank + 1) // size)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of every process's tensor, on all processes; its gradient is the sum of all their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradients[0].contiguous())


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of every process's tensor, on all processes; gradients flow back to each."""
    total: Tensor = _SumOverProcesses.apply(tensor)
    return total


def gather_rows(rows: Tensor, count: int) -> Tensor:
    """Put every process's share of `count` rows together, [count, ...], on every process; gradients flow back.

    Each process gets the sum of all processes' gradients. So the gradients of a loss that all processes compute alike
    must be averaged over them, as `DistributedDataParallel` does.
    """
    if rank_and_size()[1] == 1:
        return rows
    whole = rows.new_zeros(count, *rows.shape[1:])
    whole[share_of(count)] = rows
    return sum_over_processes(whole)


def any_process(flag: bool, device: torch.device) -> bool:
    """Tell whether the flag is set on any process; every process has to call this."""
    if rank_and_size()[1] == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value)


def agreed(value: Any) -> Any:
    """Return the first process's value, on every process."""
    if rank_and_size()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait_for_all() -> None:
    """Wait until every process has called this."""
    if rank_and_size()[1] > 1:
        dist.barrier()


def share_network(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with gradients averaged over the processes; the network itself if there is one process."""
    if rank_and_size()[1] == 1:
        return network
    with warnings.catch_warnings():  # newer releases of torch rename broadcast_buffers
        warnings.simplefilter("ignore", FutureWarning)
        return nn.parallel.DistributedDataParallel(
            network, device_ids=[device.index] if device.type == "cuda" else None, broadcast_buffers=False
        )


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over the batch of all processes, for devices that torch's SyncBatchNorm does not support.

    Those of timm end in dropout and an activation, `drop` and `act`.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, dtype=norm.weight.dtype)
        self.drop, self.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
        self.load_state_dict(norm.state_dict())

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize by mean and variance over all processes' rows while training, by the running ones otherwise."""
        normalized = self._globally_normalized(input) if self.training else super().forward(input)
        ended: Tensor = self.act(self.drop(normalized))
        return ended

    def _globally_normalized(self, input: Tensor) -> Tensor:
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        over = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = torch.tensor(float(input.numel() // max(input.shape[1], 1)), device=input.device)
        dist.all_reduce(count)
        mean = sum_over_processes(wide.sum(over)) / count
        centered = wide - mean.view(shape)
        variance = sum_over_processes(centered.square().sum(over)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centered * torch.rsqrt(variance + self.eps).view(shape)
        shifted: Tensor = scaled * self.weight.view(shape) + self.bias.view(shape)
        return shifted.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance, self.momentum or 0.0)


def synchronize_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Make a network's 2-d batch norms use the batch of all processes, in place, under the same parameter names."""
    if rank_and_size()[1] == 1:
        return
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, synchronized_norm(child, device))


def synchronized_norm(norm: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    """Return the norm over all processes that takes the place of a batch norm.

    Raises
    ------
    InputError
        It is a kind of batch norm that is neither torch's nor timm's.
    """
    plain = type(norm) is nn.BatchNorm2d
    if not plain and not (hasattr(norm, "drop") and hasattr(norm, "act")):
        raise InputError(
            f"the backbone has batch norms of the kind {type(norm).__name__}, which cannot be synchronized; train it "
            "in one process (SLSR_PROCESSES=1), or choose another backbone"
        )
    if device.type != "cuda":
        return GlobalBatchNorm(norm)
    if plain:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        return converted
    from timm.layers.norm_act import convert_sync_batchnorm

    with_activation: nn.Module = convert_sync_batchnorm(norm)
    return with_activation
