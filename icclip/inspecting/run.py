"""Run `icclip data inspect`: read a dataset as training would, and report what is in it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import InspectConfig
from icclip.console import Reporter
from icclip.data.loading import read_splits
from icclip.data.split import caption_lists
from icclip.inspecting.images import ImageFindings, look_at_images
from icclip.inspecting.sheet import write_sheet
from icclip.inspecting.texts import TextLengths, caption_findings
from icclip.plugins.registry import Registry
from icclip.report.inspection import inspection

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What `icclip data inspect` found."""

    dataset: str
    reader: str
    """The dataset plugin that reads it."""
    splits: Mapping[str, Mapping[str, Any]]
    """For each split, counts of its captions and images, and the images that cannot be read."""
    leakage: Sequence[Mapping[str, Any]]
    """What each pair of splits has in common."""
    picture: Path | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "picture": None if self.picture is None else str(self.picture)}

    def renderables(self) -> Iterable[RenderableType]:
        """A table with a column for each split, and remarks."""
        return inspection(self.to_mapping())

    def verdict(self) -> None:
        """Inspecting always succeeds, because it has no threshold to miss."""


def inspect(config: InspectConfig, registry: Registry, reporter: Reporter) -> Inspection:
    """Inspect every image and caption of every split.

    Raises:
        UsageError: the dataset or the model cannot be read, or the picture cannot be written.
    """
    data = config.data
    # Unreadable images are reported here, so they must not end the inspection.
    splits = read_splits(registry, dataclasses.replace(data, streaming=False, on_bad_image="skip"), reporter)
    lengths = None if config.model is None else TextLengths(registry, config.model)
    captions = {name: caption_lists(split) for name, split in splits.items()}
    images = {name: _images(split, name, reporter) for name, split in splits.items()}
    found = {name: {**caption_findings(captions[name]), **images[name].to_mapping()} for name in splits}
    if lengths is not None:
        for name, own in captions.items():
            found[name]["model"] = lengths.findings([text for texts in own for text in texts])
    if config.picture is not None:
        write_sheet(config.picture, splits)
        reporter.note(f"wrote {config.picture}")
    return Inspection(
        dataset=data.label, reader=data.name, splits=found, leakage=leaks(captions, images), picture=config.picture
    )


def _images(split: Dataset, name: str, reporter: Reporter) -> ImageFindings:
    with reporter.progress(f"looking at the images of {name}", total=len(split)) as advance:
        return look_at_images(split, name, advance)


def leaks(captions: Mapping[str, Sequence[Sequence[str]]], images: Mapping[str, ImageFindings]) -> list[dict[str, Any]]:
    """Count what each pair of splits has in common: byte-identical images and identical captions.

    A row counts in the second split of a pair: with `train` and `test`, the test images that are
    also trained on.
    """
    found = []
    for first, second in itertools.combinations(captions, 2):
        known = set(images[first].digests) - {b""}
        texts = {text for own in captions[first] for text in own}
        found.append(
            {
                "of": second,
                "in": first,
                "images": sum(digest in known for digest in images[second].digests),
                "captions": sum(text in texts for own in captions[second] for text in own),
            }
        )
    return found
