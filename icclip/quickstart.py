"""The whole job on the embedded dataset: train, evaluate, draw what the model finds, export, and prove the export."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import EvalConfig, QuickstartConfig
from icclip.console import Reporter
from icclip.evaluating.request import eval_config
from icclip.evaluating.run import evaluate
from icclip.exporting.request import ExportResult, export_config
from icclip.exporting.run import export
from icclip.files import atomic_write_bytes
from icclip.plugins.registry import Registry
from icclip.report.tables import metrics_table

if TYPE_CHECKING:
    from rich.console import RenderableType

MODEL, DATASET, SPLIT = "clip-tiny", "shapes", "test"
TARGET, PRECISIONS = "onnx", ("fp32", "int8")

NEXT = """
The model, its processor and its records: {run}
What it finds, as a picture:              {pictures}
The encoders that run without PyTorch:    {bundle}
How they compare with the model:          {bundle}/parity.json
What to try next:
  icclip verify {bundle} --dataset shapes
  icclip eval {run} --split validation
  icclip train --model siglip-tiny --dataset shapes --output-dir runs/siglip
  icclip train --model openai/clip-vit-base-patch16 --dataset my-captions.jsonl --output-dir runs/mine
  tensorboard --logdir {run}/logs"""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartResult:
    """The results of the quickstart and their paths."""

    run: Path
    """The trained model and its records."""
    pictures: Path
    """A PNG with test captions and the images that they find."""
    metrics: Mapping[str, Any]
    """The metrics on the test split, whose pairs never occur in training."""
    exported: ExportResult
    """The bundle, and its comparison with the model."""
    seconds: float

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        results = {"seconds": self.seconds, "metrics": self.metrics, "export": self.exported.to_mapping()}
        return {**self._paths(), **results}

    def renderables(self) -> Iterator[RenderableType]:
        """The metrics, the comparison of the encoders, and what to try next."""
        yield metrics_table(self.metrics, f"{DATASET}, {SPLIT} (unseen pairs)")
        yield from self.exported.renderables()
        yield NEXT.format(**self._paths())

    def verdict(self) -> None:
        """Always succeeds; encoders that did not pass the gate have already raised GateError."""

    def _paths(self) -> dict[str, str]:
        return {"run": str(self.run), "pictures": str(self.pictures), "bundle": str(self.exported.bundle)}


def quickstart(config: QuickstartConfig, registry: Registry, reporter: Reporter) -> QuickstartResult:
    """Train, evaluate, picture and export in one directory.

    Args:
        config: its directory gets `run/`, `retrieval.png` and `bundle/`.
        registry: knows the model, the dataset and the export target.
        reporter: shows what is going on.

    Raises:
        UsageError: the directory already holds a quickstart, the disk is full, and the like.
        MissingExtraError: the packages that export are not installed.
        GateError: the exported encoders do not retrieve what the model retrieves.
    """
    # A missing package is reported before the work, not after it.
    registry.export_target(TARGET)
    from icclip.training.request import train_config
    from icclip.training.run import train

    started = time.monotonic()
    run, pictures = config.output_dir / "run", config.output_dir / "retrieval.png"
    options = {"epochs": config.epochs, "device": config.device, "overwrite": config.overwrite}
    reporter.note(f"1/4 train {MODEL} on {DATASET}")
    train(train_config(registry, None, MODEL, DATASET, {**options, "output_dir": run}), registry, reporter)
    reporter.note("2/4 evaluate what was saved")
    encoder = {"checkpoint": str(run), "device": config.device}
    measured = eval_config(registry, {"encoder": encoder, "split": SPLIT})
    metrics = evaluate(measured, registry, reporter).metrics
    reporter.note("3/4 look at what it finds")
    atomic_write_bytes(pictures, _picture(measured, registry))
    reporter.note(f"4/4 export it ({', '.join(PRECISIONS)}), and compare what the exported encoders find")
    exported = _export(run, config, registry, reporter)
    return QuickstartResult(
        run=run, pictures=pictures, metrics=metrics, exported=exported, seconds=time.monotonic() - started
    )


def _export(run: Path, config: QuickstartConfig, registry: Registry, reporter: Reporter) -> ExportResult:
    said = {
        "output_dir": config.output_dir / "bundle", "target": TARGET, "precisions": PRECISIONS, "split": SPLIT,
        "encoder": {"checkpoint": str(run), "device": config.device}, "overwrite": config.overwrite,
    }  # fmt: skip
    result = export(export_config(registry, said), registry, reporter)
    result.verdict()
    return result


def _picture(config: EvalConfig, registry: Registry) -> bytes:
    from icclip.evaluating.picture import retrieval_picture

    title = f"{config.data.label}, {config.split}: captions and the five images that {MODEL} finds first"
    # The evaluation has already reported what there is to say about the data.
    return retrieval_picture(config, registry, Reporter(silent=True), title)
