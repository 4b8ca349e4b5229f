"""The configuration of `icclip eval`, completed with what the run directory records.

A run is evaluated as it was trained: on its own data unless the user names another, split by the same
seed and fraction, so that no image of a test split that icclip made was trained on; and in the same batches and
precision, so that the numbers are the same to the last digit. Other data without splits is measured as a
whole, because splits are only made for training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip.bundles.manifest import ParityData, is_bundle, read_manifest
from icclip.config import DatasetConfig, EvalConfig, overlaid
from icclip.console import Reporter
from icclip.data.gallery import dataset_asked
from icclip.errors import CheckpointError, ConfigError, MissingExtraError, UsageError
from icclip.hub import bundle_or_record
from icclip.naming import public_name
from icclip.plugins.registry import Registry
from icclip.runs.directory import RunDirectory
from icclip.runs.record import RECORD

SPLIT_OPTIONS = {"val_fraction": "--val-fraction", "seed": "--split-seed"}


def eval_config(registry: Registry, said: Mapping[str, Any]) -> EvalConfig:
    """Build the complete configuration of an evaluation.

    Args:
        registry: knows the datasets.
        said: fields of EvalConfig, nested; `data.name` is what the user wrote after `--dataset`. None, or a
            missing key, means that the user did not give it; only `encoder.checkpoint` is required.

    Raises:
        UsageError: no dataset is named or recorded, or an option is wrong.
    """
    checkpoint, revision = str(said["encoder"]["checkpoint"]), said["encoder"].get("revision")
    trained = recorded(checkpoint, revision).config
    own = {"eval_bs": trained.get("eval_bs"), "encoder": {"precision": trained.get("precision")}}
    proven = _proven_on(local_path(checkpoint, revision))
    if proven is not None and said.get("data", {}).get("name") is None:
        own["split"] = proven.split
    data = evaluation_data(registry, checkpoint, said.get("data", {}), revision)
    return EvalConfig.from_mapping({**overlaid(own, said), "data": data})


def local_path(checkpoint: str, revision: str | None = None) -> Path:
    """The path of a checkpoint; for one that icclip published on the hub, its directory in the hub's cache."""
    return bundle_or_record(checkpoint, revision) or Path(checkpoint)


def recorded(checkpoint: str, revision: str | None = None) -> RunDirectory:
    """The run that a checkpoint belongs to, here or as published on the hub; an empty one if there is none."""
    return RunDirectory.open(local_path(checkpoint, revision))


def training_data(registry: Registry, run: RunDirectory, data: DatasetConfig | None = None) -> DatasetConfig | None:
    """The data that a run was trained on; None if it is unknown or differs from the source that `data` reads."""
    trained = run.config.get("data")
    if trained is None:
        return None
    try:
        own = DatasetConfig.from_mapping(trained)
    except ConfigError as error:
        raise CheckpointError(f"{run.path / RECORD} is damaged: config.data: {error.problems[0]}") from error
    return own if data is None or _same_source(registry, own, data) else None


def _same_source(registry: Registry, own: DatasetConfig, asked: DatasetConfig) -> bool:
    """Whether two configurations read the same source.

    What travels names its data without the path of the machine that it was made on: a name that leads nowhere
    here stands for a source of that name.
    """
    names = [dataset_identity(registry, one) for one in (own, asked)]
    elsewhere = own.path is not None and not Path(own.path).exists()
    return names[0] == names[1] or (elsewhere and public_name(names[0]) == public_name(names[1]))


def dataset_identity(registry: Registry, config: DatasetConfig) -> str:
    """What a result is about: the name of the dataset, and its path if the path decides what is read.

    A dataset that reads any path of its kind (a folder, a .jsonl file) is identified by that path. A named
    dataset such as flickr8k is the same in every local copy.
    """
    if config.path is None or registry.dataset(config.name).recognises is None:
        return config.name
    path = Path(config.path)
    return f"{config.name}@{path.resolve() if path.exists() else path}"


def leaking_options(registry: Registry, run: RunDirectory, data: DatasetConfig) -> list[str]:
    """The flags of options that split the run's own data differently than training did."""
    own = training_data(registry, run, data)
    return [flag for key, flag in SPLIT_OPTIONS.items() if own is not None and getattr(own, key) != getattr(data, key)]


def warn_of_leaks(registry: Registry, run: RunDirectory, data: DatasetConfig, reporter: Reporter) -> None:
    """Say which options split the run's own data differently than training did."""
    for option in leaking_options(registry, run, data):
        reporter.warn(
            f"{option} differs from training: a split that icclip makes may contain images that the model was trained on"
        )


def step_zero(registry: Registry, checkpoint: str, flag: str) -> Mapping[str, Any]:
    """The model that a run began with, as its `icclip.json` names it: fields of ModelConfig.

    Args:
        registry: knows the presets.
        checkpoint: the run, or one of its checkpoints.
        flag: the option that names another model, for messages.

    Raises:
        UsageError: the run does not record it, or began with random weights.
    """
    model = recorded(checkpoint).config.get("model")
    if not isinstance(model, Mapping):
        raise UsageError(
            f"{checkpoint} does not record which model it was trained from: check the path, or give {flag}"
        )
    if registry.preset(model["name"]) is not None:
        raise UsageError(
            f"{checkpoint} was trained from scratch ({model['name']}), so it did not begin with pretrained weights: "
            f"give another checkpoint with {flag}"
        )
    return model


def evaluation_data(
    registry: Registry, checkpoint: str, said: Mapping[str, Any], revision: str | None = None
) -> DatasetConfig:
    """The data to measure a checkpoint on: what was asked for, else what it was trained or proven on.

    A source without splits is used as a whole, unless it is the very one that the run was trained on, which is
    split as it was then, or the user asks for a made split by its share or seed.

    Args:
        registry: knows the datasets.
        checkpoint: the checkpoint, as the user named it.
        said: fields of DatasetConfig; `name` is what the user wrote after `--dataset`.
        revision: of a checkpoint on the hub.

    Raises:
        UsageError: no dataset is named or recorded, or an option is wrong.
    """
    # Streaming is for training: an evaluation needs every image, in order.
    options = {**said, "streaming": False}
    dataset = options.pop("name", None)
    whole = all(options.get(option) is None for option in SPLIT_OPTIONS)
    asked = None if dataset is None else dataset_asked(registry, dataset, {**options, "whole": whole})
    found = local_path(checkpoint, revision)
    own = training_data(registry, RunDirectory.open(found), asked) or _proven_data(registry, found, asked)
    if own is not None:
        path = {"path": asked.path} if asked else {}
        # Who asks for a protocol does not want the judgements that the run was measured by.
        path |= {"qrels": None} if options.get("relevance") and not options.get("qrels") else {}
        return DatasetConfig.from_mapping({**overlaid(own.to_mapping(), options), **path})
    if asked is not None:
        return asked
    if not found.exists():
        raise UsageError(
            f"there is no directory {checkpoint}: check the path; if it is a model on the hub, say with --dataset what to "
            "measure it on"
        )
    raise UsageError(f"{checkpoint} does not say what it was trained on: give --dataset")


def _proven_data(registry: Registry, checkpoint: Path, asked: DatasetConfig | None) -> DatasetConfig | None:
    """The data that the gate measured a bundle on; None if it is unknown or differs from the source that `asked` reads.

    It is split as in the run that the bundle was made from, so that no training image is measured.
    """
    proven = _proven_on(checkpoint)
    if proven is None:
        return None
    try:
        own = dataset_asked(registry, proven.dataset, proven.options)
    except MissingExtraError:
        raise
    except UsageError:
        if asked is None:
            raise
        # A dataset that cannot be read here is not the one that was asked for.
        return None
    if asked is None:
        return own
    return own if _same_source(registry, own, asked) else None


def _proven_on(checkpoint: Path) -> ParityData | None:
    """The split that a bundle went through the gate with; None for anything that is no bundle."""
    return read_manifest(checkpoint).data if is_bundle(checkpoint) else None
