"""The configuration of `icclip verify`, completed from the bundle."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip.bundles.manifest import ParityData, is_bundle, read_manifest
from icclip.bundles.parity_record import ParityRecord, read_parity
from icclip.config import RelevanceProtocol, VerifyConfig, overlaid
from icclip.errors import UsageError
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
        counted = _counted(parity, options.get("qrels"))
        values |= {
            "data": dataset_asked(registry, dataset, overlaid(own.options, counted, options)),
            "split": said.get("split") or own.split,
        }
    return VerifyConfig.from_mapping(values)


def _counted(parity: ParityRecord, qrels: Path | None) -> dict[str, Any]:
    """The option that counts right answers as the gate did. Raises UsageError if other judgements are given, or none."""
    judged = parity.relevance not in typing.get_args(RelevanceProtocol)
    if judged and (qrels is None or Path(qrels).name != parity.relevance):
        raise UsageError(f"the parity gate counted right answers as judged in {parity.relevance}: give it with --qrels")
    if not judged and qrels is not None:
        raise UsageError(
            f"the parity gate counted right answers by the protocol {parity.relevance}, without judgements: leave out --qrels"
        )
    return {} if judged else {"relevance": parity.relevance}
