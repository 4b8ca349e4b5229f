"""Decode images in order and prepare them in batches, with worker processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset

from icclip.data.cores import cores
from icclip.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

WORTH_WORKERS = 256
"""The number of images from which starting worker processes pays off."""
MOST_WORKERS = 8


def prepared_batches(
    images: Sequence[Image] | Sequence[np.ndarray],
    prepare: Callable[[Sequence[Any]], Any],
    *,
    batch_size: int,
    workers: int | None,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Apply `prepare` to each batch of images in turn.

    Args:
        images: images that are decoded when they are accessed.
        prepare: turns a batch of images into what is yielded; it is sent to the workers.
        batch_size: number of images per batch.
        workers: number of processes that decode and prepare; None chooses from the number of cores.
        pin_memory: whether to yield tensors in pinned memory, for faster copies to a GPU.

    Raises:
        DataError: an image cannot be decoded.
    """
    loader = DataLoader(
        _Batches(images, prepare, batch_size),
        batch_size=None,
        num_workers=_workers_for(len(images)) if workers is None else workers,
        pin_memory=pin_memory,
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _workers_for(images: int) -> int:
    return 0 if images < WORTH_WORKERS else min(MOST_WORKERS, cores())


@dataclass(frozen=True)
class _Batches(Dataset[Any]):
    """Item i is the i-th batch, or the error of one of its images.

    The error is returned, because an error raised in a worker would arrive wrapped in a traceback.
    """

    images: Sequence[Any]
    prepare: Callable[[Sequence[Any]], Any]
    batch_size: int

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        # Iteration over a Dataset ends when this raises, as for any sequence.
        if index >= len(self):
            raise IndexError(index)
        first = index * self.batch_size
        try:
            chosen = [self.images[i] for i in range(first, min(first + self.batch_size, len(self.images)))]
        except DataError as error:
            return error
        return self.prepare(chosen)
