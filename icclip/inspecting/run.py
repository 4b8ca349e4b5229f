"""`icclip data inspect`: read a dataset as training would, and say what is in it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.loading import read_splits
from icclip.data.split import caption_lists
from icclip.errors import UsageError
from icclip.inspecting.images import ImageFindings, look_at_images
from icclip.inspecting.sheet import write_sheet
from icclip.inspecting.texts import TextLengths, caption_findings
from icclip.plugins.registry import Registry

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectRequest:
    """What to look at."""

    data: DatasetConfig
    model: str | None = None
    """Whose limit the captions' lengths are compared with."""
    picture: Path | None = None
    """Where a contact sheet goes."""


def inspect(request: InspectRequest, registry: Registry, reporter: Reporter) -> dict[str, Any]:
    """Look at every image and caption of every split.

    Returns:
        `dataset`, `reader`, `splits` (a mapping of findings for each) and `leakage` (for each pair of splits).

    Raises:
        UsageError: the dataset or the model cannot be read, or the picture cannot be written.
    """
    config = request.data
    if request.picture is not None and request.picture.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise UsageError(f"--picture {request.picture}: give a name that ends in .png or .jpg")
    # Images that cannot be read are what one wants to be told of here, not what stops the telling.
    splits = read_splits(registry, DatasetConfig.from_mapping({**config.to_mapping(), **TOLERANT}), reporter)
    lengths = None if request.model is None else TextLengths(registry, request.model)
    captions = {name: caption_lists(split) for name, split in splits.items()}
    images = {name: _images(split, name, reporter) for name, split in splits.items()}
    found = {name: {**caption_findings(captions[name]), **images[name].to_mapping()} for name in splits}
    if lengths is not None:
        for name, own in captions.items():
            found[name]["model"] = lengths.findings([text for texts in own for text in texts])
    pictured = {}
    if request.picture is not None:
        write_sheet(request.picture, splits)
        reporter.note(f"wrote {request.picture}")
        pictured = {"picture": str(request.picture)}
    leakage = leaks(captions, images)
    return {"dataset": config.label, "reader": config.name, "splits": found, "leakage": leakage, **pictured}


TOLERANT = {"streaming": False, "on_bad_image": "skip"}


def _images(split: Dataset, name: str, reporter: Reporter) -> ImageFindings:
    with reporter.progress(f"looking at the images of {name}", total=len(split)) as advance:
        return look_at_images(split, name, advance)


def leaks(
    captions: Mapping[str, Sequence[Sequence[str]]], images: Mapping[str, ImageFindings]
) -> list[dict[str, Any]]:
    """What two splits have in common, for each pair: byte-identical images and identical captions.

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


