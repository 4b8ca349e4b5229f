"""The result of a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from icclip.errors import GateError
from icclip.report.tables import metrics_table
from icclip.runs.directory import RunDirectory

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The outcome of a run; metrics are named as in `icclip.retrieval.metrics.retrieval_metrics`."""

    output_dir: Path
    steps: int
    """Number of optimizer steps that were made."""
    best_step: int
    """The step whose checkpoint is the directory's root."""
    baseline: dict[str, float]
    """Metrics on the validation split before the first step."""
    best: dict[str, float]
    """Metrics on the validation split after the best step."""
    test: dict[str, Any]
    """Metrics on the test split; empty if there is none."""
    seconds: float
    gain: Mapping[str, float] = field(default_factory=dict)
    """rsum after the best step minus that before the first, and its 95 % interval (`icclip.runs.history.GAIN`).

    Empty where the two could not be compared image by image.
    """
    guarded: bool = True
    """Whether a model that is not proven better than before is a failure (`--guard`)."""

    @classmethod
    def of_complete_run(cls, run: RunDirectory, *, guarded: bool = True) -> Self:
        """The result that a complete run had when it ended."""
        measured = run.evaluations()
        return cls(
            output_dir=run.path,
            baseline=measured.get(0, {}),
            best=measured[run.result["best_step"]],
            test=run.metrics("test"),
            gain=run.gains().get(run.result["best_step"], {}),
            guarded=guarded,
            **run.result,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {**dataclasses.asdict(self), "output_dir": str(self.output_dir)}
        del values["guarded"]
        return values

    def verdict(self) -> None:
        """Raise GateError if nothing shows that the best checkpoint is better than the model before the first step."""
        before, after = self.baseline.get("rsum"), self.best["rsum"]
        if not self.guarded or before is None:
            return
        measured = (
            f"its best checkpoint, from step {self.best_step}, has an rsum of {after:.1f} on the validation split"
        )
        if after <= before:
            raise GateError(
                f"training did not improve the model: {measured}, and step 0 had {before:.1f}; "
                f"{self.output_dir} keeps it anyway; try a smaller --lr, or accept the result with --guard off"
            )
        if self.gain and not self.gain["rsum_gain_low"] > 0:
            raise GateError(
                f"there is no evidence that training improved the model: {measured} and step 0 had {before:.1f}, but the "
                f"95 % interval of the difference, {self.gain['rsum_gain_low']:+.1f} to {self.gain['rsum_gain_high']:+.1f}, "
                f"includes 0; {self.output_dir} keeps it anyway; train longer, give a larger validation split, or accept "
                "the result with --guard off"
            )

    def renderables(self) -> Iterable[Table]:
        """The metrics of the test split, or of the validation split if there is no test split."""
        split, metrics = ("test", self.test) if self.test else ("validation", self.best)
        return [metrics_table(metrics, f"{self.output_dir}, {split}")]
