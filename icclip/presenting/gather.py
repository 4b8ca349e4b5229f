"""Read what runs, bundles and files of metrics say about themselves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip.bundles.manifest import is_bundle
from icclip.bundles.parity_record import NAME as PARITY
from icclip.config import ReportConfig
from icclip.config.toml import toml
from icclip.errors import UsageError
from icclip.naming import public_name
from icclip.report.page.subject import Subject
from icclip.runs.directory import RunDirectory
from icclip.runs.ranks import SavedRanks, ranks_path, read_ranks
from icclip.runs.results import metric_path

METRICS = "_metric.json"
ZERO_SHOT = "_zero_shot"
"""Follows the split in the name of a file of zero-shot metrics."""


def gather(model: str, config: ReportConfig) -> Subject:
    """Everything but the images.

    Raises:
        UsageError: there is nothing of the kind, or a file cannot be read.
    """
    path = Path(model)
    directory, split = _place(path, config.split)
    if not path.exists():
        raise UsageError(f"{model}: there is no such run, bundle or file of metrics")
    run = RunDirectory.open(directory)
    metrics, ranks = _json(metric_path(directory, split)), _ranks(directory, split)
    zero_shot = _json(metric_path(directory, f"{split}{ZERO_SHOT}"))
    bundle = is_bundle(directory)
    parity = _json(directory / PARITY) if bundle else {}
    if not (metrics or ranks or parity or zero_shot or run.record):
        raise UsageError(
            f"{model} holds no results: give a run, a bundle, or a file that icclip eval wrote (test{METRICS})"
        )
    return Subject(
        name=public_name(model).removesuffix(METRICS).removesuffix(ZERO_SHOT) or model,
        split=split,
        record=run.record if run.config or bundle else {},
        history=run.history(),
        metrics=metrics,
        zero_shot=zero_shot,
        ranks=ranks,
        parity=parity,
        commands=_commands(path, trained=bool(run.config), bundle=bundle),
        configuration=toml(run.config) if run.config else "",
        note=""
        if ranks or not (metrics or run.record or bundle)
        else f"there are no ranks of the {split} split: run icclip eval, and write the report again",
    )


def _place(path: Path, split: str) -> tuple[Path, str]:
    """The directory of the results, and the split that they are of."""
    if not path.name.endswith(METRICS):
        return path, split
    return path.parent, path.name.removesuffix(METRICS).removesuffix(ZERO_SHOT)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    return content if isinstance(content, dict) else {}


def _ranks(directory: Path, split: str) -> SavedRanks | None:
    path = ranks_path(directory, split)
    return read_ranks(path) if path.exists() else None


def _commands(path: Path, *, trained: bool, bundle: bool) -> list[str]:
    """What to type; names instead of the paths of this machine."""
    here = shlex.quote(public_name(str(path)))
    if not (trained or bundle):
        return []
    first = "icclip train --config run.toml" if trained else f"icclip verify {here}"
    return [first, f"icclip eval {here}", f"icclip report {here} -o report.html"]
