"""A split without known length: its order, and how processes and workers share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from icclip.training.feeding.collate import Example, Undecoded
from icclip.training.feeding.duplicates import Answers, stable_int

FEW = 8
"""With so many shards for each reader, what is left over when the first reader has come to its end is little."""


@dataclass(frozen=True, slots=True)
class Turns:
    """How the images of a step are dealt out: `each` to the first of `several`, as many to the next, and from the first again."""

    several: int = 1
    each: int = 1

    def whose(self, place: int) -> int:
        """To which of `several` the image at a place of the step belongs."""
        return place // self.each % self.several


WHOLE = Turns()
"""Everything belongs to one."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one process takes of each step.

    Args:
        step: the number of images that all processes take in a step.
        turns: how they are dealt out to the processes.
        process: the rank of this one.
    """

    step: int = 1
    turns: Turns = WHOLE
    process: int = 0

    @property
    def places(self) -> list[int]:
        """The places in the step of the images that this process takes."""
        return [place for place in range(self.step) if self.turns.whose(place) == self.process]


def division(stream: Any, processes: int, workers: int, each: int) -> Turns:
    """How the shards of a stream are divided among processes when a run begins.

    Each process reads its own shards where every worker of every process gets as many as the others, or so many that
    one more or less is little. Otherwise, the stream stays whole, and every process reads it.

    Args:
        stream: has `num_shards`.
        processes: number of processes.
        workers: number of workers of each process.
        each: number of images of a process in a batch.
    """
    readers = processes * max(1, workers)
    fair = stream.num_shards % readers == 0 or stream.num_shards >= FEW * readers
    return Turns(processes, each) if fair and processes > 1 else WHOLE


class CaptionedStream(IterableDataset[Example | None]):
    """A split without known length, in the order in which it comes after shuffling in a buffer.

    Rows have no number there: the captions stand in for it, so that neither the number of processes
    nor that of workers changes which caption is chosen. What is right for an image is known as far as its own
    row says: its captions. Images are the same where all their captions are.

    The stream has as many parts as the run had processes when it began, each with shards of its own, if there are
    enough of them (see `division`), and every place of a step is filled from one of the parts. A process reads the parts
    from which its own places are filled. So the batches stay the same if the run goes on with another number of
    processes; some of these then read the same part, or one reads several. The workers of a process divide the shards of
    each part. What is left at the end of a worker's shards and fills no step is left out of that pass.

    A worker that has come to its end goes on with None: torch hands the turns of a worker that stops to the
    others as soon as it notices, and processes that notice at different times would mix their batches.
    `InTurns` ends the pass.

    Args:
        stream: rows with `image` and `captions`.
        seed: decides the order together with the epoch.
        buffer: rows among which the next one of a part is drawn.
        parts: from which part a place of a step is filled.
    """

    def __init__(self, stream: Any, seed: int, buffer: int = 1000, parts: Turns = WHOLE) -> None:
        # Shards that are read at once are one shard to datasets: a single worker would get them all.
        known = signature(stream.shuffle).parameters
        apart = {"max_buffer_input_shards": 1} if "max_buffer_input_shards" in known else {}
        self.turns = parts
        self.parts = [part.shuffle(seed=seed, buffer_size=buffer, **apart) for part in _parts(stream, self.turns)]
        self.epoch = 0
        self.share = Share()
        """Set before the first epoch; a process alone takes everything."""

    @property
    def epoch(self) -> int:
        """Set before each epoch, as EpochSampler's, and not by workers: datasets keeps it in memory that they share."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        for part in self.parts:
            part.set_epoch(epoch)

    def __iter__(self) -> Iterator[Example | None]:
        read = {whose: self._examples(whose) for whose in {self.turns.whose(place) for place in self.share.places}}
        while step := self._step(read):
            yield from step
        while get_worker_info() is not None:
            yield None

    def _step(self, read: dict[int, Iterator[Example]]) -> list[Example | None]:
        """The images of the next step, None where a part is not read here; empty when a part has come to its end."""
        step: list[Example | None] = []
        for place in range(self.share.step):
            part = read.get(self.turns.whose(place))
            example = None if part is None else next(part, None)
            if part is not None and example is None:
                return []
            step.append(example)
        return step

    def _examples(self, whose: int) -> Iterator[Example]:
        of = "the shuffled stream" if len(self.parts) == 1 else f"part {whose} of the shuffled stream"
        for position, item in enumerate(self.parts[whose]):
            captions = item["captions"]
            row = stable_int(*captions)
            image = Undecoded(item["image"], f"row {position} of {of}")
            yield Example(self.epoch, row, image, captions, Answers.of_captions(captions, row))


def _parts(stream: Any, turns: Turns) -> list[Any]:
    if turns.several == 1:
        return [stream]
    return [stream.shard(turns.several, index, contiguous=False) for index in range(turns.several)]


class InTurns:
    """The batches of a loader over a CaptionedStream: one of each worker in turn, until all have come to their end.

    Args:
        loader: a torch DataLoader, whose attributes this has too.
        everywhere: whether something is true on every process. If processes read different shards, a batch is one only if
            all of them have their share of it.
    """

    def __init__(self, loader: Any, everywhere: Callable[[bool], bool] = bool) -> None:
        self.loader, self.everywhere = loader, everywhere

    def __getattr__(self, name: str) -> Any:
        if name in {"loader", "everywhere"}:
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        ended, batches = 0, iter(self.loader)
        while ended < max(1, self.loader.num_workers):
            batch = next(batches, None)
            complete = self.everywhere(bool(batch))
            ended = 0 if complete else ended + 1
            if complete:
                yield batch
