"""Put together what is published: the files, the card, and the name of the repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icclip.bundles.manifest import check_files, is_bundle, read_manifest
from icclip.bundles.parity_record import read_parity
from icclip.config import PushConfig
from icclip.console import Reporter
from icclip.errors import CheckpointError, UsageError
from icclip.hub import HUB_ID
from icclip.naming import public_name
from icclip.plugins.registry import Registry
from icclip.publishing.files import CARD, Item, bundle_files, run_files
from icclip.publishing.picture import SECTION, picture_item
from icclip.report.hub_card import SAMPLE, HubFacts, Measured, bundle_card, run_card
from icclip.runs.checkpoints import HALF_WRITTEN
from icclip.runs.directory import RunDirectory

EXAMPLES = "examples"
"""The folder of a repository that the widget's pictures are in."""


@dataclass(frozen=True, slots=True)
class Publication:
    """Everything that will be in the repository."""

    kind: str
    """`run` or `bundle`."""
    items: tuple[Item, ...]


def publication(config: PushConfig, registry: Registry, reporter: Reporter) -> Publication:
    """Collect what belongs on the hub, with the card as it will be there.

    Args:
        config: what is published.
        registry: knows the datasets and models, for a picture of what is found.
        reporter: shows the progress.

    Raises:
        UsageError: the directory is neither a run nor a bundle, is unfinished, or did not pass its gate.
        CheckpointError: a file of the bundle is missing or was changed.
    """
    if not config.source.is_dir():
        raise UsageError(f"{config.source} is not a directory: give a run directory or an exported bundle")
    facts = HubFacts(
        name=config.repository, license=config.license, base_model=_base_model(config), widget=_widget(config)
    )
    found = _bundle(config, facts) if is_bundle(config.source) else _run(config, facts)
    if config.picture:
        found = _illustrated(found, picture_item(config, registry, reporter))
    pictures = [Item(_in_repository(picture), Path(picture)) for picture, _ in _examples(config)]
    return Publication(found.kind, (*found.items, *pictures))


def _illustrated(found: Publication, picture: Item) -> Publication:
    """The publication with a picture, which its card shows."""
    card, *others = found.items
    assert isinstance(card.content, bytes), "the card comes first"
    shown = Item(CARD, card.content.rstrip() + SECTION.encode())
    return Publication(found.kind, (shown, *(item for item in others if item.path != picture.path), picture))


def _run(config: PushConfig, facts: HubFacts) -> Publication:
    run = RunDirectory.open(config.source)
    if (config.source / HALF_WRITTEN).exists() or run.status in ("running", "interrupted", "stopped"):
        raise UsageError(
            f"{config.source} is not finished: resume the run until it is complete, or export one of its checkpoints"
        )
    if not run.record:
        raise UsageError(f"{config.source} has no icclip.json: give a run directory or an exported bundle")
    items = run_files(config.source, logs=config.logs)
    if not any(item.path.endswith(".safetensors") for item in items):
        raise CheckpointError(f"{config.source} has no weights (model.safetensors): there is nothing to publish")
    return Publication("run", _with_card(items, run_card(_card_text(run), facts, _measured(run))))


def _bundle(config: PushConfig, facts: HubFacts) -> Publication:
    manifest, parity = read_manifest(config.source), read_parity(config.source)
    if not parity.passed:
        raise UsageError(
            f"{config.source} did not pass its gate ({parity.failures[0]}): export it again before it is published"
        )
    check_files(config.source, manifest)
    return Publication(
        "bundle", _with_card(bundle_files(config.source, manifest), bundle_card(manifest, parity, facts))
    )


def _with_card(items: list[Item], card: str) -> tuple[Item, ...]:
    return (Item(CARD, card.encode()), *(item for item in items if item.path != CARD))


def _card_text(run: RunDirectory) -> str:
    """The run's own card; mixtures of older versions have none."""
    path = run.path / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else f"# {run.path.resolve().name}\n"


def _measured(run: RunDirectory) -> Measured | None:
    """The metrics of the test split, or else of the validation split."""
    data = run.config.get("data")
    for split in ("test", "validation"):
        if metrics := run.metrics(split):
            return Measured(dataset=_data_name(data if isinstance(data, Mapping) else {}), split=split, metrics=metrics)
    return None


def _data_name(data: Mapping[str, Any]) -> str:
    path = data.get("path")
    return path if isinstance(path, str) and HUB_ID.fullmatch(public_name(path)) else str(data.get("name", "own data"))


def _base_model(config: PushConfig) -> str | None:
    """The base model that the user named, or else the hub id that the run or the bundle records."""
    if config.base_model is not None:
        return config.base_model
    if is_bundle(config.source):
        name = read_manifest(config.source).source.name
    else:
        model = RunDirectory.open(config.source).config.get("model")
        name = str(model.get("name", "")) if isinstance(model, Mapping) else ""
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _examples(config: PushConfig) -> list[tuple[str, str]]:
    return [(picture, labels) for picture, _, labels in (example.partition("=") for example in config.examples)]


def _in_repository(picture: str) -> str:
    return f"{EXAMPLES}/{Path(picture).name}"


def _widget(config: PushConfig) -> tuple[Mapping[str, str], ...]:
    """The pictures that the hub's page offers to try."""
    given = tuple(
        {
            "src": f"https://huggingface.co/{config.repository}/resolve/main/{_in_repository(picture)}",
            "candidate_labels": ", ".join(label.strip() for label in labels.split(",")),
            "example_title": Path(picture).stem,
        }
        for picture, labels in _examples(config)
    )
    return given or (SAMPLE,)
