"""The configuration of `icclip verify`, completed from the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip.bundles.manifest import ParityData, is_bundle, read_manifest
from icclip.bundles.parity_record import read_parity
from icclip.config import VerifyConfig, overlaid
from icclip.hub import bundle_or_record
from icclip.plugins.registry import Registry


def verify_config(registry: Registry, said: Mapping[str, Any]) -> VerifyConfig:
    """Build the complete configuration; the dataset is read as the parity gate read it, unless an option differs.

    Args:
        registry: knows the datasets.
        said: fields of VerifyConfig, nested; `bundle` may be a bundle on the hub; `data.name` is what the user wrote after `--dataset`.

    Raises:
        CheckpointError: a dataset is given, but the bundle does not record what it was proven on.
        UsageError: the dataset is unknown, or an option is wrong.
        MissingExtraError: a dataset is given, but the package `datasets` is not installed.
    """
    bundle = bundle_or_record(str(said["bundle"])) or Path(said["bundle"])
    options = dict(said.get("data", {}))
    dataset = options.pop("name", None)
    encoder = {**said.get("encoder", {}), "checkpoint": str(bundle)}
    values = {**overlaid(said), "bundle": bundle, "encoder": encoder, "data": None}
    if dataset is not None:
        from icclip.data.gallery import dataset_asked

        parity = read_parity(bundle)
        recorded = read_manifest(bundle).data if is_bundle(bundle) else None
        own = recorded or ParityData(dataset=parity.dataset, split=parity.split)
        values |= {
            "data": dataset_asked(registry, dataset, overlaid(own.options, {"relevance": parity.relevance}, options)),
            "split": said.get("split") or own.split,
        }
    return VerifyConfig.from_mapping(values)
