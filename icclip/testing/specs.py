"""The checks of one spec, by its kind."""

from __future__ import annotations

from pathlib import Path

from icclip.config import DatasetConfig
from icclip.plugins.loading import KINDS
from icclip.plugins.registry import missing_requirements
from icclip.plugins.specs import (
    BackendSpec,
    DatasetSpec,
    ExportTargetSpec,
    IndexTargetSpec,
    MetricSpec,
    Spec,
    spec_problems,
)
from icclip.testing.backends import backend_checks
from icclip.testing.datasets import dataset_checks
from icclip.testing.index_targets import index_target_checks
from icclip.testing.metrics import metric_checks
from icclip.testing.record import Check, Recorder, no_problems, passed
from icclip.testing.targets import target_checks


def check_dataset(spec: DatasetSpec, config: DatasetConfig | None = None) -> tuple[Check, ...]:
    """Load a dataset twice and look at its splits, columns, captions and images.

    Args:
        spec: a spec that the plugin's `icclip_datasets` returns.
        config: the dataset to load; by default, the one without a path.

    Raises:
        ConformanceError: one or more checks failed; the message names each of them.
    """
    return passed(spec_checks(spec, config=config))


def check_backend(spec: BackendSpec, checkpoint: str | None = None) -> tuple[Check, ...]:
    """Build every preset, encode with it, save and reload it; load `checkpoint` if one is given.

    Raises:
        ConformanceError: one or more checks failed; the message names each of them.
    """
    return passed(spec_checks(spec, checkpoint=checkpoint))


def check_metric(spec: MetricSpec) -> tuple[Check, ...]:
    """Compute a metric on small hand-made rankings.

    Raises:
        ConformanceError: one or more checks failed; the message names each of them.
    """
    return passed(spec_checks(spec))


def check_export_target(spec: ExportTargetSpec, exported: Path | None = None) -> tuple[Check, ...]:
    """Ask a target what it recognises; open `exported`, something that it wrote, and encode with it.

    Raises:
        ConformanceError: one or more checks failed; the message names each of them.
    """
    return passed(spec_checks(spec, exported))


def check_index_target(spec: IndexTargetSpec, address: Path | None = None) -> tuple[Check, ...]:
    """Write some items to a target, find them, and search with another encoder.

    Args:
        spec: what the plugin's `icclip_index_targets` returns.
        address: a place that may be written over; by default a temporary directory.

    Raises:
        ConformanceError: one or more checks failed; the message names each of them.
    """
    return passed(spec_checks(spec, address))


def spec_checks(
    spec: Spec, path: Path | None = None, *, config: DatasetConfig | None = None, checkpoint: str | None = None
) -> list[Check]:
    """All checks of one spec; `path` is the path that it should load."""
    recorder = Recorder(f"{KINDS[type(spec)][0]} {spec.name}")
    fields_good = recorder.run("fields", lambda: no_problems(spec_problems(spec)))
    recorder.run("summary is one line", lambda: no_problems(_summary_problems(spec.summary)))
    if not fields_good:
        return recorder.checks
    missing = missing_requirements(spec)
    if missing:
        recorder.skip("works", f"needs {', '.join(missing)}: {spec.install}")
    elif isinstance(spec, DatasetSpec):
        dataset_checks(recorder, spec, config or DatasetConfig(name=spec.name, path=str(path) if path else None))
    elif isinstance(spec, BackendSpec):
        backend_checks(recorder, spec, checkpoint or (str(path) if path else None))
    elif isinstance(spec, MetricSpec):
        metric_checks(recorder, spec)
    elif isinstance(spec, IndexTargetSpec):
        index_target_checks(recorder, spec, None if path is None else str(path))
    else:
        target_checks(recorder, spec, path)
    return recorder.checks


def _summary_problems(summary: object) -> list[str]:
    good = isinstance(summary, str) and summary.strip() and "\n" not in summary
    return [] if good else [f"summary is {summary!r}: say in one line what it is"]
