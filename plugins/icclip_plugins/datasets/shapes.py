"""Pictures of two coloured shapes: the embedded default dataset.

Every image is one pair of things, described in three ways. The pairs of the validation and test
splits never occur in training, although each of their things does: only a model that reads the colour
and shape of both things, and binds them, can find them.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from PIL import Image, ImageDraw

    from icclip.config import DatasetConfig

SIDE = 64
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (160, 60, 200),
    "white": (245, 245, 245),
    "orange": (250, 140, 20),
    "cyan": (60, 220, 220),
}
SHAPES = ("circle", "square", "triangle", "cross")
TEMPLATES = ("{first} and {second}", "{second} next to {first}", "a picture of {first} with {second}")
HELD_OUT = {"test": 4, "validation": 2}
"""Number of diagonals of the table of pairs; 32 things x 4 gives 128 test images, one for each pair."""
TRAIN_IMAGES = 10
"""Number of renderings of each training pair; held-out pairs are rendered once."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A coloured shape."""

    colour: str
    shape: str

    def __str__(self) -> str:
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Pair:
    """The two things in an image; their order here says nothing about their positions in the image."""

    first: Thing
    second: Thing

    @property
    def captions(self) -> list[str]:
        """Three sentences, each true of this pair alone."""
        return [template.format(first=self.first, second=self.second) for template in TEMPLATES]


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `shapes`."""
    return [DatasetSpec(name="shapes", summary="rendered pictures of two shapes each; needs no files", load=load)]


def load(config: DatasetConfig) -> DatasetDict:
    """Render all splits in memory. The pixels and captions depend on `config.seed` alone.

    Raises:
        DataError: streaming was asked for.
    """
    from datasets import DatasetDict

    if config.streaming:
        raise DataError("dataset 'shapes' is rendered in memory: leave out --streaming")
    chance = Chance(config.seed)
    splits = split_pairs(chance)
    splits["train"] = [pair for pair in splits["train"] for _ in range(TRAIN_IMAGES)]
    return DatasetDict({name: _rendered(pairs, chance) for name, pairs in splits.items()})


class Chance:
    """Seeded numbers that are the same on every machine and in every version of Python.

    Python only guarantees the sequence of `random.Random.random`, not those of choosing and shuffling.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - pictures, not secrets

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + math.floor(self._random.random() * (high - low + 1))

    def shuffled(self, items: Iterable[Thing]) -> list[Thing]:
        """The same items in another order."""
        return sorted(items, key=lambda _: self._random.random())


def split_pairs(chance: Chance) -> dict[str, list[Pair]]:
    """All pairs of two different things, divided between the splits.

    Whole diagonals of the square table of pairs are held out. Each has every thing twice, so that
    training sees all things equally often. A pair and its mirror image are one: the table's upper
    half, which is where the distance from the first to the second is at most half of the things.
    """
    splits: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    things = chance.shuffled(Thing(*both) for both in product(COLOURS, SHAPES))
    half = len(things) // 2
    for distance in range(1, half + 1):
        # Half-way round, the second half of the diagonal mirrors the first.
        for number in range(len(things) if distance < half else half):
            pair = Pair(things[number], things[(number + distance) % len(things)])
            splits[_split_of(distance)].append(pair)
    return splits


def _split_of(distance: int) -> str:
    if distance <= HELD_OUT["test"]:
        return "test"
    return "validation" if distance <= sum(HELD_OUT.values()) else "train"


# Drawing ----------------------------------------------------------------------------------------


def _rendered(pairs: list[Pair], chance: Chance) -> Dataset:
    from icclip.data.columns import dataset_of

    images = [_png(render(pair, chance)) for pair in pairs]
    return dataset_of(images, [pair.captions for pair in pairs])


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def render(pair: Pair, chance: Chance) -> Image.Image:
    """Render 64 x 64 pixels with both things on grey, side by side or one above the other, in either order."""
    from PIL import Image, ImageDraw

    grey = chance.between(10, 60)
    image = Image.new("RGB", (SIDE, SIDE), (grey, grey, grey))
    draw = ImageDraw.Draw(image)
    beside, mirrored = chance.between(0, 1), chance.between(0, 1)
    things = (pair.second, pair.first) if mirrored else (pair.first, pair.second)
    for thing, centre in zip(things, (SIDE // 4, 3 * SIDE // 4), strict=True):
        along, across = centre + chance.between(-2, 2), SIDE // 2 + chance.between(-4, 4)
        x, y = (along, across) if beside else (across, along)
        _draw(draw, thing, x, y, chance.between(11, 13))
    return image


def _draw(draw: ImageDraw.ImageDraw, thing: Thing, x: int, y: int, radius: int) -> None:
    fill = COLOURS[thing.colour]
    box = (x - radius, y - radius, x + radius, y + radius)
    if thing.shape == "circle":
        draw.ellipse(box, fill)
    elif thing.shape == "square":
        draw.rectangle(box, fill)
    elif thing.shape == "triangle":
        draw.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill)
    else:
        third = radius // 3
        draw.rectangle((x - radius, y - third, x + radius, y + third), fill)
        draw.rectangle((x - third, y - radius, x + third, y + radius), fill)
