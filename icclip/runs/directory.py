"""The output directory before a run: empty, one to go on with, or one to clear."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip.config import TrainConfig
from icclip.errors import UsageError
from icclip.files import readable_os_errors
from icclip.runs.checkpoints import HALF_WRITTEN, PARTIAL, last_checkpoint
from icclip.runs.history import HISTORY
from icclip.runs.record import RECORD, without_secrets

SIGNS = (RECORD, "checkpoint-*", HISTORY, "config.json")
"""Any of these, and a directory is somebody's result."""

PARTS = (
    *SIGNS, PARTIAL, HALF_WRITTEN, "logs", "README.md", "*_metric.json", "model*.safetensors*", "generation_config.json",
    "preprocessor_config.json", "processor_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "spiece.model", "chat_template*",
)  # fmt: skip
"""All that a run writes, and so all that --overwrite deletes."""

WHAT_TRAINS = ("gentle", "lora")
"""Tables of the configuration that the optimizer's state and the weights in training depend on."""

CLEARING = ".clearing"
"""There while `clear` deletes: what a kill then leaves is of no run that anybody wants to go on with."""

LENGTH = ("epochs", "max_steps", "guard", "patience")
"""Settings that let a complete run go on."""
OF_THE_SESSION = ("output_dir", "resume", "overwrite", "workers", "device", "report_to", "fsdp")
"""Settings that may be others after a resume."""


def checkpoint_to_resume(config: TrainConfig) -> Path | None:
    """Where to go on; None for a start.

    Raises:
        UsageError: the directory holds a run and neither resume nor overwrite is asked for, or it is
            another model's or dataset's run that is to be resumed.
    """
    root = config.output_dir
    found = sorted(path.name for sign in SIGNS for path in root.glob(sign))
    if config.resume:
        if (root / CLEARING).exists():
            return None
        _refuse_other_run(config)
        return last_checkpoint(root)
    # The other processes may come here after the first has begun to write.
    first_process = os.environ.get("RANK", "0") == "0"
    if found and first_process and not config.overwrite:
        raise UsageError(
            f"{root} already holds a run ({found[0]}): give another --output-dir, --resume to go on with it, "
            "or --overwrite to replace it"
        )
    return None


def clear(root: Path) -> None:
    """Delete what an earlier run has left, and nothing else; make the directory."""
    with readable_os_errors("the run", root):
        root.mkdir(parents=True, exist_ok=True)
        (root / CLEARING).touch()
        for path in (path for part in PARTS for path in root.glob(part)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        (root / CLEARING).unlink()


def outcome_of_complete_run(config: TrainConfig) -> Mapping[str, Any] | None:
    """What `icclip.json` says about the result, where the run is complete and is asked for no more.

    Raises:
        UsageError: as `checkpoint_to_resume`.
    """
    _refuse_other_run(config)
    record = _record_of(config.output_dir)
    complete = record.get("status") == "complete"
    if not complete or any(record["config"].get(name) != getattr(config, name) for name in LENGTH):
        return None
    outcome: Mapping[str, Any] = record["result"]
    return outcome


def changed_settings(config: TrainConfig) -> list[str]:
    """`name before -> now` of each setting that is not as the run had it, and that decides its weights."""
    before = _flat(_record_of(config.output_dir).get("config", {}))
    now = _flat(without_secrets(config.to_mapping()))
    return [
        f"{name} {before[name]} -> {now.get(name)}"
        for name in sorted(before.keys() - set(OF_THE_SESSION))
        if before[name] != now.get(name)
    ]


def refuse_other_data(config: TrainConfig, splits: Mapping[str, Any]) -> None:
    """A run can only go on with the rows that it began with; `splits` as `icclip.json` describes them.

    Raises:
        UsageError: a split has changed since.
    """
    before = _record_of(config.output_dir).get("data", {}).get("splits", {})
    for name in before.keys() & splits.keys():
        if before[name] != splits[name]:
            images = [split[name]["images"] for split in (before, splits)]
            raise UsageError(
                f"the {name} split is not the one that {config.output_dir} began with ({images[0]} images then, "
                f"{images[1]} now): resume with the same data, or give another --output-dir"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return flat


def _refuse_other_run(config: TrainConfig) -> None:
    before = _record_of(config.output_dir).get("config", {})
    now = config.to_mapping()
    for table in ("model", "data"):
        names = [run.get(table, {}).get("name") for run in (before, now)]
        if before and names[0] != names[1]:
            raise UsageError(
                f"{config.output_dir} was trained with {table} {names[0]!r}, not {names[1]!r}: "
                "resume with the same, or give another --output-dir"
            )
    for table in WHAT_TRAINS:
        if before and before.get(table, now[table]) != now[table]:
            raise UsageError(
                f"{config.output_dir} was trained with other options of [{table}], as its {RECORD} has them: "
                "resume with those, or give another --output-dir"
            )


def _record_of(root: Path) -> Mapping[str, Any]:
    path = root / RECORD
    try:
        record: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; --overwrite starts anew") from error
    return record
