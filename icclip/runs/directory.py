"""A run directory, opened once: its record, checkpoints, history and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from icclip.runs.checkpoints import CHECKPOINT, checkpoint_steps, last_checkpoint
from icclip.runs.history import HISTORY, evaluations, gains, read_history
from icclip.runs.record import RECORD, read_record
from icclip.runs.results import metric_path, read_metrics


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """What a directory records about its run; `icclip.json` is read once, when it is opened.

    A directory that holds no run has an empty record; everything else about it is then empty as well.
    """

    path: Path
    """The run directory, also when one of its checkpoints was opened."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The content of `icclip.json`."""

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a run directory, or the run that a `checkpoint-N` belongs to.

        Args:
            path: anything that a user may name as a checkpoint; if it is not a run, the record is empty.

        Raises:
            CheckpointError: `icclip.json` exists, but cannot be read as JSON.
        """
        directory = Path(path)
        candidates = [directory, *[directory.parent] * directory.name.startswith(f"{CHECKPOINT}-")]
        for candidate in candidates:
            if (candidate / RECORD).is_file():
                return cls(candidate, read_record(candidate / RECORD))
        return cls(directory)

    @property
    def config(self) -> Mapping[str, Any]:
        """The training configuration as plain values; empty if there is none."""
        config = self.record.get("config")
        return config if isinstance(config, Mapping) else {}

    @property
    def status(self) -> str | None:
        """`running`, `interrupted`, `stopped` (by a failure), `complete` or `blend`; None where there is no run."""
        return self.record.get("status")

    @property
    def processes(self) -> int | None:
        """The number of processes that trained together; None if the record of an older version does not contain it."""
        return self.record.get("processes")

    @property
    def stream(self) -> Mapping[str, int]:
        """How its stream is divided, as fields of `icclip.training.feeding.streams.Turns`; empty if it is whole."""
        found: Mapping[str, int] = self.record.get("stream", {})
        return found

    @property
    def splits(self) -> Mapping[str, Any]:
        """Split's name -> its number of images and captions, and its fingerprint."""
        found: Mapping[str, Any] = self.record.get("data", {}).get("splits", {})
        return found

    @property
    def result(self) -> Mapping[str, Any]:
        """The steps, best step and seconds of a complete run; empty before it is complete."""
        found: Mapping[str, Any] = self.record.get("result", {})
        return found

    @property
    def checkpoint_steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        return checkpoint_steps(self.path)

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        return last_checkpoint(self.path)

    def history(self) -> list[dict[str, Any]]:
        """The log: one mapping for each line of `metrics.jsonl`."""
        return read_history(self.path / HISTORY)

    def evaluations(self) -> dict[int, dict[str, float]]:
        """Step -> the validation metrics measured there."""
        return evaluations(self.path / HISTORY)

    def gains(self) -> dict[int, dict[str, float]]:
        """Step -> by how much rsum differed from that of step 0, with its 95 % interval."""
        return gains(self.path / HISTORY)

    def metrics(self, split: str) -> dict[str, Any]:
        """The final metrics of a split; empty if it was not measured."""
        return read_metrics(metric_path(self.path, split))
