"""Check the output directory before a run: whether it is free, resumed or cleared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from icclip.config import TrainConfig
from icclip.config.declare import declared, fields_that
from icclip.config.problems import Key, Problem
from icclip.errors import CheckpointError, ConfigError, UsageError
from icclip.files import readable_os_errors
from icclip.identity import identity
from icclip.runs.baseline import BASELINE
from icclip.runs.checkpoints import HALF_WRITTEN, PARTIAL, newest_whole, remove
from icclip.runs.directory import RunDirectory
from icclip.runs.history import HISTORY
from icclip.runs.record import LOCAL, RECORD, without_secrets

SIGNS = (RECORD, "checkpoint-*", HISTORY, "config.json")
"""If a directory holds any of these files, it is the result of a run."""

PARTS = (
    *SIGNS, LOCAL, PARTIAL, HALF_WRITTEN, BASELINE, "logs", "costs.jsonl", "trace.json", "README.md", "*_metric.json", "model*.safetensors*", "generation_config.json",
    "preprocessor_config.json", "processor_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "spiece.model", "chat_template*",
)  # fmt: skip
"""Everything that a run writes, which is what --overwrite deletes."""

FIXED = fields_that(TrainConfig, "fixed")
"""Settings on which the optimizer state, the weights in training or the order of the data depend."""

CLEARING = ".clearing"
"""A marker that exists while `clear` deletes, so that the remains of an interrupted deletion are not resumed."""

LENGTH = fields_that(TrainConfig, "extends")
"""Settings that can make a complete run train further."""
OF_THE_SESSION = fields_that(TrainConfig, "free")
"""Settings that may differ when a run is resumed."""


def run_to_resume(config: TrainConfig) -> RunDirectory:
    """The run in the output directory if `config` asks to resume it; otherwise an empty one.

    Raises:
        UsageError: its `icclip.json` cannot be read, or it was trained with another model or dataset.
        ConfigError: settings that a resumed run cannot change differ.
    """
    if not config.resume:
        return RunDirectory(config.output_dir)
    try:
        run = RunDirectory.open(config.output_dir)
    except CheckpointError as error:
        raise UsageError(f"{error}; start from the beginning with --overwrite") from error
    _refuse_other_run(config, run)
    return run


def checkpoint_to_resume(config: TrainConfig, run: RunDirectory, warn: Callable[[str], None]) -> Path | None:
    """The checkpoint to continue from, which is the newest undamaged one; None to start from the beginning.

    Args:
        config: the configuration of the run that is about to start.
        run: the result of `run_to_resume`.
        warn: called with a line about each damaged checkpoint.

    Raises:
        CheckpointError: all checkpoints are damaged.
        UsageError: the directory already holds a run, and neither --resume nor --overwrite was given.
    """
    root = config.output_dir
    found = sorted(path.name for sign in SIGNS for path in root.glob(sign))
    if config.resume:
        return None if (root / CLEARING).exists() else newest_whole(run.path, warn)
    # The other processes may get here after the first one has begun to write.
    if found and identity().first and not config.overwrite:
        raise UsageError(
            f"{root} already holds a run ({found[0]}): give another --output-dir, --resume to continue it, "
            "or --overwrite to replace it"
        )
    return None


def clear(root: Path) -> None:
    """Delete the files of an earlier run and nothing else; create the directory if needed."""
    with readable_os_errors("the run", root):
        root.mkdir(parents=True, exist_ok=True)
        (root / CLEARING).touch()
        for path in (path for part in PARTS for path in root.glob(part)):
            remove(path)
        (root / CLEARING).unlink()


def nothing_left_to_do(config: TrainConfig, run: RunDirectory) -> bool:
    """Whether `run` is complete and `config` asks for no more training than it had."""
    return run.status == "complete" and all(run.config.get(name) == getattr(config, name) for name in LENGTH)


def changed_settings(config: TrainConfig, run: RunDirectory) -> list[str]:
    """`name before -> now` for each setting that affects the weights and differs from that of the run."""
    before = _flat(run.config)
    now = _flat(without_secrets(config.to_mapping()))
    return [
        f"{name} {before[name]} -> {now.get(name)}"
        for name in sorted(before.keys() - set(OF_THE_SESSION))
        if before[name] != now.get(name)
    ]


def refuse_other_data(run: RunDirectory, splits: Mapping[str, Any]) -> None:
    """Check that a resumed run has the rows that it began with; `splits` has the form of `RunDirectory.splits`.

    Raises:
        UsageError: a split has changed since.
    """
    before = run.splits
    for name in before.keys() & splits.keys():
        if before[name] != splits[name]:
            images = [split[name]["images"] for split in (before, splits)]
            raise UsageError(
                f"the {name} split has changed since {run.path} began ({images[0]} images then, "
                f"{images[1]} now): resume with the same data, or give another --output-dir"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return flat


def _refuse_other_run(config: TrainConfig, run: RunDirectory) -> None:
    before, now = run.config, config.to_mapping()
    for table in ("model", "data"):
        names = [one.get(table, {}).get("name") for one in (before, now)]
        if before and names[0] != names[1]:
            raise UsageError(
                f"{config.output_dir} was trained with {table} {names[0]!r}, not {names[1]!r}: "
                "resume with the same, or give another --output-dir"
            )
    if changed := [*_changed(before, without_secrets(now))]:
        raise ConfigError(changed)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Problem]:
    """One line for each setting that a resumed run cannot change, but that differs from the run's."""
    owners = {".".join(one.path): one.owner for one in declared(TrainConfig)}
    flat_before, flat_now = _flat(before), _flat(now)
    for name in sorted(flat_before.keys() | flat_now.keys()):
        top = name.split(".")[0]
        # Older versions did not have all settings of today.
        if top in FIXED and top in before and flat_before.get(name) != flat_now.get(name):
            key = Key(name, owners.get(name, owners.get(top, name)))
            yield Problem(
                key,
                f" is {flat_now.get(name)}, and the run began with {flat_before.get(name)}: a resumed run keeps it; "
                "give the same, or start a new run from its weights with --model",
            )


def refuse_other_workers(run: RunDirectory, config: TrainConfig) -> None:
    """Check that a stream comes in the order in which it began: its workers divide its shards among themselves.

    Raises:
        UsageError: there were more workers, or fewer.
    """
    if run.config.get("data", {}).get("streaming") and (before := run.config.get("workers") or 0) != (
        config.workers or 0
    ):
        raise UsageError(
            f"{run.path} began with {before} workers, which divide the stream among themselves, and not with "
            f"{config.workers or 0}: give --workers {before}"
        )


def refuse_other_batch(run: RunDirectory, config: TrainConfig, processes: int) -> None:
    """Check that all processes together make batches of the size that the run began with.

    How a batch is divided among processes and micro-batches changes nothing, since the loss is exact.

    Args:
        run: the run that is resumed.
        config: the configuration now.
        processes: the number of processes now.

    Raises:
        UsageError: the global batch size differs.
    """
    if run.processes is None:
        return
    size, before = run.config["train_bs"], run.config["train_bs"] * run.processes
    now = config.train_bs * processes
    if now == before:
        return
    micro = f" --micro-batch {size}" if before // processes > size else ""
    way_out = (
        f"give --train-bs {before // processes}{micro}"
        if before % processes == 0
        else f"start a number of processes that divides {before}"
    )
    raise UsageError(
        f"{run.path} began with batches of {before} images ({run.processes} processes x {size}), and these would be of "
        f"{now} ({processes} x {config.train_bs}): {way_out}"
    )
