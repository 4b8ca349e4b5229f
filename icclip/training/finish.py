"""The end of a run after its last step: the test split, the results and the model card."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from icclip import __version__
from icclip.console import Reporter
from icclip.data.gallery import Gallery, gallery_of
from icclip.evaluating.keeping import keep_ranks
from icclip.evaluating.request import dataset_identity
from icclip.evaluating.run import evaluate_split
from icclip.files import atomic_write_text
from icclip.models.encoder import TorchEncoder
from icclip.naming import public_name
from icclip.plugins.registry import Registry
from icclip.report.curves import CURVES, curves_svg, panels_of
from icclip.report.model_card import model_card
from icclip.runs.history import HISTORY, evaluations, gains, read_history
from icclip.runs.ranks import ranks_path
from icclip.runs.record import write_record
from icclip.runs.results import metric_path, write_metrics
from icclip.training.prepare import Run, in_memory
from icclip.training.result import TrainResult
from icclip.training.step.cost import cost_line

MEASURED = frozenset({"validation", "test"})


def finish(run: Run, best_step: int | None, registry: Registry, reporter: Reporter, started: float) -> TrainResult:
    """Measure the best model on the test split, and write the results and the model card. For the first process.

    Args:
        run: the run, whose steps are all done.
        best_step: the step whose checkpoint was copied to the root.
        registry: knows the metrics.
        reporter: shows the progress.
        started: the `time.monotonic()` at which the run began.
    """
    assert best_step is not None, "a run that ends has saved a checkpoint"
    measured = evaluations(run.root / HISTORY)
    galleries = _galleries(run, registry)
    result = TrainResult(
        output_dir=run.root,
        steps=run.trainer.state.global_step,
        best_step=best_step,
        baseline=measured.get(0, {}),
        best=measured[best_step],
        test=_test(run, galleries, registry, reporter),
        seconds=time.monotonic() - started,
        gain=gains(run.root / HISTORY).get(best_step, {}),
        guarded=run.config.guard == "on",
    )
    cost = _cost(run)
    _write_metrics(run, galleries, registry, result)
    _write_card(run, registry, result, cost)
    outcome = {"steps": result.steps, "best_step": result.best_step, "seconds": round(result.seconds, 1)}
    write_record(run.root, {**run.record, **({"cost": cost} if cost else {}), "status": "complete", "result": outcome})
    if cost:
        reporter.note(cost_line(cost))
    reporter.note(f"wrote {result.output_dir}: the model of step {result.best_step} of {result.steps}")
    return result


def _galleries(run: Run, registry: Registry) -> dict[str, Gallery]:
    """The splits that are measured; a streamed one is brought into memory."""
    found = {}
    for name in MEASURED & run.splits.keys():
        split = run.splits[name]
        if not isinstance(split, Gallery):
            streams = {other: one for other, one in run.splits.items() if not isinstance(one, Gallery)}
            split = gallery_of(registry, run.config.data, {**streams, name: in_memory(split)}, name, several=True)
        found[name] = split
    return found


def _test(run: Run, galleries: Mapping[str, Gallery], registry: Registry, reporter: Reporter) -> dict[str, Any]:
    """Measure the test split once with the best weights, in the batches and with the metrics of `icclip eval`."""
    if "test" not in galleries:
        return {}
    gallery, config = galleries["test"], run.config
    encoder = TorchEncoder(
        run.trainer.loaded,
        device=str(run.trainer.args.device),
        precision=config.precision,
        workers=config.workers,
        reporter=reporter,
    )
    return evaluate_split(
        encoder,
        run.sources.measured_once(gallery),
        *gallery.relevances(),
        image_batch=config.eval_bs,
        metrics=registry.default_metrics(),
        reporter=reporter,
        keep=keep_ranks(ranks_path(run.root, "test"), gallery, _about(run, registry, "test", gallery)),
    )


def _write_metrics(run: Run, galleries: Mapping[str, Gallery], registry: Registry, result: TrainResult) -> None:
    for split, metrics in (("validation", result.best), ("test", result.test)):
        if metrics:
            path = metric_path(run.root, split)
            path.unlink(missing_ok=True)
            write_metrics(path, metrics, {**_about(run, registry, split, galleries[split]), "icclip": __version__})


def _about(run: Run, registry: Registry, split: str, gallery: Gallery) -> dict[str, Any]:
    return {
        "checkpoint": ".",
        "dataset": dataset_identity(registry, run.config.data),
        "split": split,
        "relevance": gallery.counted_as,
    }


def _cost(run: Run) -> dict[str, Any]:
    """The cost of the steps that this process has made."""
    args = run.trainer.args
    return run.trainer.costs.summary(
        processes=args.world_size,
        accumulated=args.gradient_accumulation_steps,
        half=run.config.precision != "fp32",
    )


def _write_card(run: Run, registry: Registry, result: TrainResult, cost: Mapping[str, Any]) -> None:
    card = model_card(
        model=run.record["model"],
        config=run.config,
        splits=run.record["data"]["splits"],
        step0=result.baseline,
        validation=result.best,
        test=result.test or None,
        text_policy=run.record["text_policy"],
        own_data=bool(run.config.data.path) and registry.dataset(run.config.data.name).recognises is not None,
        cost=cost,
        curves=_draw_curves(run),
    )
    atomic_write_text(run.root / "README.md", card)


def _draw_curves(run: Run) -> str | None:
    """The name of the picture in the run directory; None where nothing was logged."""
    panels = panels_of({public_name(str(run.root)): read_history(run.root / HISTORY)})
    if not panels:
        return None
    atomic_write_text(run.root / CURVES, curves_svg(panels))
    return CURVES
