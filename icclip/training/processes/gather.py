"""Exchange rows and values between processes, including their gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed
from torch.nn import functional

T = TypeVar("T")

Exchanging = Callable[[], AbstractContextManager[None]]
"""A function that makes a context for the time in which processes communicate."""


class _Gather(torch.autograd.Function):
    """Concatenate the rows of all processes; the gradient of a row is summed over all processes that used it."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, exchanging: Exchanging) -> Tensor:
        ctx.rows, ctx.exchanging = len(local), exchanging
        with exchanging():
            return _all_gather(local)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        with ctx.exchanging():
            total = gradients[0].contiguous().clone()
            distributed.all_reduce(total)
        start = distributed.get_rank() * ctx.rows
        return total[start : start + ctx.rows], None


def wait_for_all() -> None:
    """Return once every process has called this; immediately if there is only one."""
    if is_distributed():
        distributed.barrier()


def is_distributed() -> bool:
    """Whether there are other processes to communicate with."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def everywhere(value: bool, device: torch.device) -> bool:  # noqa: FBT001  the question is about one value
    """Whether `value` is true on every process; every process must call this."""
    if not is_distributed():
        return value
    lowest = torch.tensor(int(value), device=device)
    distributed.all_reduce(lowest, op=distributed.ReduceOp.MIN)
    return bool(lowest)


def gather_rows(local: Tensor, exchanging: Exchanging = nullcontext) -> Tensor:
    """The rows [b, ...] of all processes, in the order of their ranks: [processes * b, ...].

    Every process must bring the same number of rows. Differentiable for floating tensors: with DDP's
    averaging of the parameters' gradients, a mean loss per process gives the gradient of the mean
    loss over the whole batch. Without a process group it returns its argument.

    Args:
        local: [b, ...].
        exchanging: makes a context that is entered while processes communicate, in the forward and backward pass.
    """
    if not is_distributed():
        return local
    if local.is_floating_point():
        gathered: Tensor = _Gather.apply(local, exchanging)  # type: ignore[no-untyped-call] # torch leaves `apply` untyped
        return gathered
    with exchanging():
        return _all_gather(local)


def of_one_width(local: Tensor, filling: int, exchanging: Exchanging = nullcontext) -> Tensor:
    """Rows [b, k] of which k differs between processes -> [b, the largest k], filled up at their ends.

    Args:
        local: [b, k].
        filling: the value of what is added.
        exchanging: makes a context that is entered while processes talk.
    """
    if not is_distributed():
        return local
    width = torch.tensor(local.shape[1], device=local.device)
    with exchanging():
        distributed.all_reduce(width, op=distributed.ReduceOp.MAX)
    return functional.pad(local, (0, int(width) - local.shape[1]), value=filling)


def to_first_process(value: T) -> list[T] | None:
    """The values of all processes in the order of their ranks, on the first; None on the others."""
    if not is_distributed():
        return [value]
    values: list[Any] | None = [None] * distributed.get_world_size() if distributed.get_rank() == 0 else None
    distributed.gather_object(value, values)
    return values


def from_first_process(value: T | None) -> T:
    """The first process's value, on every process; the values of the others are ignored."""
    box = [value]
    if is_distributed():
        distributed.broadcast_object_list(box)
    return cast("T", box[0])


def on_first_process(make: Callable[[], T]) -> T:
    """Call `make` on the first process, and return its result on every process."""
    first = not is_distributed() or distributed.get_rank() == 0
    return from_first_process(make() if first else None)


def own_columns(rows: int, device: torch.device) -> Tensor:
    """The positions of the local rows after `gather_rows`, int64 [rows]."""
    start = distributed.get_rank() * rows if is_distributed() else 0
    return torch.arange(start, start + rows, device=device)


def _all_gather(local: Tensor) -> Tensor:
    parts = [torch.empty_like(local) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, local.contiguous())
    return torch.cat(parts)
