"""Many inputs on several cores: each thread makes a few inputs ready and runs them alone, beside the others.

The threads of one run wait for each other after every operator. Where there are inputs enough for all cores, it is
faster to give each core inputs of its own: one session without threads of its own, called from as many threads as
there are cores, so that they share its weights (benchmarks/embed_photos.py). The rows are the same either way.
"""

from __future__ import annotations

from dataclasses import dataclass

from icclip.runtime.providers import Provider

IMAGES = 2
"""Images in a run of one core; larger batches leave the core's cache."""
TEXTS = 32
"""Texts in a run of one core."""
RUNS_EACH = 4
"""Runs for each core from which on lanes pay: with fewer, cores would wait for the last one."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """How one call could be divided among cores.

    Args:
        provider: what runs the graph; only the CPU is divided.
        threads: number of cores.
        step: rows that run together in a lane.
    """

    provider: Provider
    threads: int
    step: int

    def pay(self, rows: int | None, group: int | None = None) -> bool:
        """Whether a call is divided.

        Args:
            rows: how many rows it has; None is a stream of unknown length.
            group: the rows that are read at a time; None means all.
        """
        if not self.possible or (group is not None and group < self.threads * self.step):
            return False
        return rows is None or rows >= RUNS_EACH * self.threads * self.step

    @property
    def possible(self) -> bool:
        """Whether there are cores to divide a call among."""
        return self.provider == "cpu" and self.threads > 1

    def group(self, asked: int) -> int:
        """The rows to read at a time where `asked` were asked for: enough for all cores, in whole steps."""
        if not self.possible:
            return asked
        most = max(asked, 2 * self.threads * self.step)
        return most - most % self.step


def lane_step(size: int, usual: int, *, alone: bool) -> int:
    """The rows that run together in a lane.

    Args:
        size: rows that would run together without lanes.
        usual: IMAGES or TEXTS.
        alone: whether rows that run together influence each other (`Encoder.rows_alone`), so that their number stays.
    """
    return size if alone else min(size, usual)
