"""Flags of three stripes, drawn on the fly: a complete dataset plugin to copy."""

from __future__ import annotations

import io
import itertools
import random
from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.plugins import DatasetSpec

if TYPE_CHECKING:
    from datasets import DatasetDict

    from icclip.config import DatasetConfig

COLOURS = ("black", "blue", "green", "red", "white", "yellow")


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """What this plugin offers: one dataset."""
    return [DatasetSpec(name="flags", summary="300 drawn flags of three stripes", load=load)]


def load(config: DatasetConfig) -> DatasetDict:
    """240 flags to train on, 30 to validate and 30 to test, chosen by `config.seed`."""
    # Imported here, so that other commands do not wait for it.
    from datasets import Dataset, DatasetDict, Image

    triples = [t for t in itertools.product(COLOURS, repeat=3) if t[0] != t[1] != t[2]]
    flags = [(vertical, triple) for vertical in (False, True) for triple in triples]
    random.Random(config.seed).shuffle(flags)  # noqa: S311 - a split, not a secret
    parts = {"train": flags[:240], "validation": flags[240:270], "test": flags[270:]}
    rows = {
        name: [{"image": {"bytes": draw(*f)}, "captions": captions(*f)} for f in part] for name, part in parts.items()
    }
    return DatasetDict({name: Dataset.from_list(part).cast_column("image", Image()) for name, part in rows.items()})


def captions(vertical: bool, colours: tuple[str, ...]) -> list[str]:  # noqa: FBT001
    """Two ways to say what is on a flag."""
    first, middle, last = colours
    direction = "vertical" if vertical else "horizontal"
    return [f"a flag with {direction} stripes in {first}, {middle} and {last}", f"{direction}: {first} {middle} {last}"]


def draw(vertical: bool, colours: tuple[str, ...]) -> bytes:  # noqa: FBT001
    """The flag as a PNG of 48 x 48 pixels."""
    from PIL import Image, ImageColor

    stripes = Image.new("RGB", (3, 1) if vertical else (1, 3))
    stripes.putdata([ImageColor.getrgb(colour) for colour in colours])
    file = io.BytesIO()
    stripes.resize((48, 48), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
