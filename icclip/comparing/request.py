"""What `icclip compare` is asked for, and where the ranks of each model are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip.config import CompareConfig, EvalConfig
from icclip.console import Reporter
from icclip.evaluating.request import eval_config
from icclip.evaluating.run import evaluate, output_directory
from icclip.plugins.registry import Registry
from icclip.runs.directory import RunDirectory
from icclip.runs.ranks import RANKS, SavedRanks, ranks_path, read_ranks


def compare_config(said: Mapping[str, Any]) -> CompareConfig:
    """The whole request; `data` is completed for each model by `measured_as`, so that it is left as it was said.

    Raises:
        ConfigError: an option is wrong.
    """
    return CompareConfig.from_mapping({name: said[name] for name in said if name != "data"})


def ranks_of(
    model: str, config: CompareConfig, data: Mapping[str, Any], registry: Registry, reporter: Reporter
) -> SavedRanks:
    """The ranks that were saved for a model on the split; it is measured where there are none.

    Raises:
        UsageError: the ranks cannot be read, or the model cannot be measured.
    """
    path = Path(model)
    if path.name.endswith(RANKS):
        return read_ranks(path)
    saved = ranks_path(path, config.split)
    if data.get("name") is None and saved.exists():
        return read_ranks(saved)
    request = measured_as(model, config, data, registry)
    saved = ranks_path(output_directory(registry, RunDirectory.open(model), request), config.split)
    if not saved.exists():
        reporter.note(f"{model} has no saved ranks of the {config.split} split: measuring it")
        evaluate(request, registry, reporter)
    return read_ranks(saved)


def measured_as(model: str, config: CompareConfig, data: Mapping[str, Any], registry: Registry) -> EvalConfig:
    """The evaluation that gives a model's ranks; `data` are fields of DatasetConfig as the user gave them."""
    return eval_config(registry, {"encoder": {"checkpoint": model}, "data": data, "split": config.split})
