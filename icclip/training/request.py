"""The configuration of `icclip train`, put together; nothing heavy is imported before the data is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icclip.config import DatasetConfig, ModelConfig, TrainConfig, overlaid, read_toml
from icclip.config.recipes import recipe_options
from icclip.errors import ConfigError, MissingExtraError, UsageError
from icclip.plugins.registry import Registry
from icclip.runs.record import LOCAL, RECORD, with_local_paths
from icclip.training.trackers import check_trackers


def train_config(
    registry: Registry, file: Path | None, model: str | None, dataset: str | None, options: Mapping[str, Any]
) -> TrainConfig:
    """Build the complete configuration: options win over the file, the file over the recipe, the recipe over the preset.

    Args:
        registry: knows the presets and the datasets.
        file: TOML with the fields of TrainConfig, or the run (its directory or `icclip.json`) to repeat.
        model: a preset, directory or hub id; None means the one in the file.
        dataset: a dataset as `dataset_config` takes it; None means the one in the file.
        options: fields of TrainConfig, nested; None means that the user did not give it.

    Raises:
        UsageError: no model or no dataset is named, or something named is unknown or wrong.
        MissingExtraError: peft or the package of a tracker is needed, but not installed.
    """
    said = overlaid(
        {} if file is None else _read(file),
        {"model": {"name": model}, "data": _dataset(registry, dataset, options.get("data", {}))},
        options,
    )
    names = {table: said.get(table, {}).get("name") or "" for table in ("model", "data")}
    problems = [
        f"no {table} is named: give {option}, or `name` in the table [{table}] of --config"
        for table, option in (("model", "--model"), ("data", "--dataset"))
        if not names[table]
    ]
    found = registry.preset(names["model"])
    values = overlaid(
        {table: {"name": name} for table, name in names.items()},
        {} if found is None else found[1].defaults,
        recipe_options(said.get("recipe")),
        said,
    )
    if values.get("resume") and file is not None and _is_run(file):
        values.setdefault("output_dir", file if file.is_dir() else file.parent)
    values.setdefault("output_dir", _default_directory(names["model"], values["data"]))
    config = _built(values, problems)
    check_trackers(config.report_to)
    if config.lora.rank is not None and find_spec("peft") is None:
        raise MissingExtraError("--lora-rank", ["peft"], "pip install 'icclip[lora]'")
    return config


def asked(registry: Registry, said: Mapping[str, Any], file: Path | None = None) -> TrainConfig:
    """Like `train_config`, but `said` also holds the names of the model and the dataset as the user wrote them."""
    model, data = dict(said.get("model", {})), dict(said.get("data", {}))
    names = model.pop("name", None), data.pop("name", None)
    return train_config(registry, file, *names, {**said, "model": model, "data": data})


def checked(registry: Registry, file: Path) -> TrainConfig:
    """Check the configuration in a file as far as possible without data, weights and network.

    Raises:
        ConfigError: everything that is wrong, at once.
        UsageError: the file cannot be read.
    """
    said = _read(file)
    names = {table: said[table].get("name") for table in ("model", "data") if isinstance(said.get(table), Mapping)}
    asked = said.get("training_args")
    looks: list[Callable[[], Any]] = [
        lambda: train_config(registry, file, None, None, {}),
        lambda: _know_model(registry, names.get("model")),
        lambda: registry.dataset(names["data"]) if isinstance(names.get("data"), str) else None,
        *(partial(_know_setting, *item) for item in (asked.items() if isinstance(asked, Mapping) else ())),
    ]
    problems: list[str] = []
    for look in looks:
        try:
            look()
        except ConfigError as error:
            problems += error.problems
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    return train_config(registry, file, None, None, {})


def _know_model(registry: Registry, name: Any) -> None:
    """Check the name of a model; a hub id may be anything, because the hub is not asked."""
    from icclip.hub import HUB_ID
    from icclip.models.opening import resolve

    if isinstance(name, str) and registry.preset(name) is None and not HUB_ID.fullmatch(name):
        resolve(ModelConfig(name=name), registry.preset_names())


def _know_setting(name: str, value: Any) -> None:
    from icclip.training.step.arguments import converted

    converted({name: value})


def _built(values: Mapping[str, Any], problems: list[str]) -> TrainConfig:
    """Build the config, or raise ConfigError with its problems and those found before."""
    try:
        config = TrainConfig.from_mapping(values)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    return config


def _is_run(file: Path) -> bool:
    """Whether the file is a run or its record; a run that is resumed by its own record stays where it is."""
    return file.is_dir() or file.name == RECORD


def _read(file: Path) -> Mapping[str, Any]:
    if file.is_dir():
        file /= RECORD
    if file.suffix != ".json":
        return read_toml(file)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        content: Mapping[str, Any] = with_local_paths(record, file.with_name(LOCAL))["config"]
    except OSError as error:
        raise UsageError(f"cannot read the configuration {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is not the icclip.json of a run: give that, or a TOML file") from error
    # The directory of the earlier run, and how it was started, are not repeated.
    return {name: content[name] for name in content if name not in ("output_dir", "resume", "overwrite")}


def _dataset(registry: Registry, value: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The name and path that a value stands for; the other fields stay as the file has them."""
    if value is None:
        return {}
    from icclip.data.loading import dataset_config

    config: DatasetConfig = dataset_config(registry, value, **options)
    return {"name": config.name, "path": config.path}


def _default_directory(model: str, data: Mapping[str, Any]) -> Path:
    return Path("runs") / f"{Path(model).name}-{data['name']}"
