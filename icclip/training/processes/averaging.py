"""Gradients averaged over the processes in one order, so that a resumed run adds the same numbers in the same way."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import DistributedDataParallelKwargs
from torch import Tensor, distributed
from torch.futures import Future
from typing_extensions import override

ORDER_MATTERS_FROM = 3
"""Two numbers have the same sum in either order."""


class InOrderOfRanks(DistributedDataParallelKwargs):  # type: ignore[misc] # accelerate is not typed
    """Settings of DistributedDataParallel under which each gradient is the sum over the ranks 0, 1, 2..., divided.

    The plain all-reduce adds in an order that depends on where in a bucket a gradient lies, and torch lays out its buckets
    anew after the first step of each process: a run that was resumed in between would differ in the last bits.
    """

    @override
    def register_comm_hook(self, model: Any) -> None:
        """Called by accelerate with the wrapped model."""
        # torch wants no annotations but its own, and these as objects.
        model.register_comm_hook(None, lambda _state, bucket: _averaged(bucket))


def _averaged(bucket: Any) -> Future[Tensor]:
    own: Tensor = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own)
    done: Future[Tensor] = Future()
    done.set_result(sum(parts[1:], start=parts[0]).div_(len(parts)))
    return done
