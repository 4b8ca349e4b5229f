"""What `icclip eval` is asked for, completed by what the run directory says about itself.

A run is evaluated as it was trained: on its own data unless the user names another, split by the same
seed and share, so that no image of a made test split was trained on; and in the same batches and
precision, so that the numbers are the same to the last digit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip.bundles.manifest import ParityData, is_bundle, read_manifest
from icclip.config import DatasetConfig, EvalConfig, merged
from icclip.errors import UsageError
from icclip.plugins.registry import Registry
from icclip.runs.directory import RunDirectory

OWN_OPTIONS = ("eval_bs", "precision")
SPLIT_OPTIONS = ("val_fraction", "seed")


def eval_config(
    registry: Registry,
    checkpoint: str,
    dataset: str | None,
    data_options: Mapping[str, Any],
    options: Mapping[str, Any],
) -> EvalConfig:
    """The whole request.

    Args:
        registry: knows the datasets.
        checkpoint: what the user gave.
        dataset: as on the command line, or None for the run's own.
        data_options: fields of DatasetConfig; None means not said.
        options: fields of EvalConfig; None means not said.

    Raises:
        UsageError: no dataset is known, or an option is wrong.
    """
    run = RunDirectory.open(checkpoint)
    trained = run.config
    data = _data(registry, run, checkpoint, dataset, data_options)
    own = {key: trained[key] for key in OWN_OPTIONS if key in trained}
    proven = _proven_on(checkpoint)
    if proven is not None and dataset is None:
        own["split"] = proven.split
    return EvalConfig.from_mapping({**merged(own, options), "checkpoint": checkpoint, "data": data})


def training_data(registry: Registry, run: RunDirectory, data: DatasetConfig | None = None) -> DatasetConfig | None:
    """The data a run was trained on; None where that is unknown, or is not the source that `data` reads."""
    trained = run.config.get("data")
    if trained is None:
        return None
    own = DatasetConfig.from_mapping(trained)
    if data is not None and dataset_identity(registry, own) != dataset_identity(registry, data):
        return None
    return own


def dataset_identity(registry: Registry, config: DatasetConfig) -> str:
    """What a result is about: the name, and the path where the path decides what is read.

    A dataset that takes any path it recognises (a folder, a .jsonl) is that path; one that does not
    (flickr8k) is the same in every local copy.
    """
    if config.path is None or registry.dataset(config.name).recognises is None:
        return config.name
    path = Path(config.path)
    return f"{config.name}@{path.resolve() if path.exists() else path}"


def leaking_options(registry: Registry, run: RunDirectory, config: EvalConfig) -> list[str]:
    """Options that split the run's own data otherwise than training did."""
    own = training_data(registry, run, config.data)
    return [key for key in SPLIT_OPTIONS if own is not None and getattr(own, key) != getattr(config.data, key)]


def _data(
    registry: Registry, run: RunDirectory, checkpoint: str, dataset: str | None, options: Mapping[str, Any]
) -> DatasetConfig:
    from icclip.data.loading import dataset_config

    # Streaming is for training: an evaluation needs every image, in order.
    options = {**options, "streaming": False}
    asked = None if dataset is None else dataset_config(registry, dataset, **options)
    own = training_data(registry, run, asked)
    if own is not None:
        place = {"path": asked.path} if asked else {}
        return DatasetConfig.from_mapping({**merged(own.to_mapping(), options), **place})
    if asked is not None:
        return asked
    proven = _proven_on(checkpoint)
    if proven is None:
        raise UsageError(f"{checkpoint} does not say what it was trained on: give --dataset")
    return dataset_config(registry, proven.dataset, **merged(proven.options, options))


def _proven_on(checkpoint: str) -> ParityData | None:
    """The split that a bundle went through the gate with; None for anything that is no bundle."""
    path = Path(checkpoint)
    return read_manifest(path).data if is_bundle(path) else None
