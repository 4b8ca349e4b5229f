"""A split without known length: its order, and how processes and workers share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import signature
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from icclip.training.feeding.collate import Example, Undecoded
from icclip.training.feeding.duplicates import Answers, stable_int


class CaptionedStream(IterableDataset[Example | None]):
    """A split without known length, in the order in which it comes after shuffling in a buffer.

    Rows have no number there: the captions stand in for it, so that neither the number of processes
    nor that of workers changes which caption is chosen. What is right for an image is known as far as its own
    row says: its captions. Images are the same where all their captions are.

    The workers of a process divide the shards. Every process reads all of them and keeps its share of each
    batch, so that the batches are the same however many processes there are; it decodes its share alone. What
    is left at the end of a worker's shards and fills no step is left out of that pass.

    A worker that has come to its end goes on with None: torch hands the turns of a worker that stops to the
    others as soon as it notices, and processes that notice at different times would mix their batches.
    `InTurns` ends the pass.

    Args:
        stream: rows with `image` and `captions`.
        seed: decides the order together with the epoch.
        buffer: rows among which the next one is drawn.
    """

    def __init__(self, stream: Any, seed: int, buffer: int = 1000) -> None:
        # Shards that are read at once are one shard to datasets: a single worker would get them all.
        known = signature(stream.shuffle).parameters
        apart = {"max_buffer_input_shards": 1} if "max_buffer_input_shards" in known else {}
        self.stream = stream.shuffle(seed=seed, buffer_size=buffer, **apart)
        self.epoch = 0
        self.step = 1
        """How many images all processes read in a step."""

    @property
    def epoch(self) -> int:
        """Set before each epoch, as EpochSampler's, and not by workers: datasets keeps it in memory that they share."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self.stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[Example | None]:
        batch: list[Example] = []
        for position, item in enumerate(self.stream):
            batch.append(self._example(position, item))
            if len(batch) == self.step:
                yield from batch
                batch = []
        while get_worker_info() is not None:
            yield None

    def _example(self, position: int, item: Any) -> Example:
        captions = item["captions"]
        row = stable_int(*captions)
        image = Undecoded(item["image"], f"row {position} of the shuffled stream")
        return Example(self.epoch, row, image, captions, Answers.of_captions(captions, row))


class InTurns:
    """The batches of a loader over a CaptionedStream: one of each worker in turn, until all have come to their end.

    Args:
        loader: a torch DataLoader, whose attributes this has too.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        ended = 0
        batches: Iterable[Any] = self.loader
        for batch in batches:
            ended = 0 if batch else ended + 1
            if batch:
                yield batch
            elif ended == self.loader.num_workers:
                return
