"""Two coloured shapes side by side or one above the other: the embedded default.

Every image is one combination (first object, relation, second object), described in three ways.
The combinations of the validation and test splits never occur in training, though each of their
objects does, in either place: only a model that reads colour, shape and relation finds them.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from icclip import hookimpl
from icclip.errors import DataError
from icclip.specs import DatasetSpec

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from icclip.config import DatasetConfig

SIDE = 64
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (160, 60, 200),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
TEMPLATES = {
    "beside": (
        "a {first} to the left of a {second}",
        "a {second} to the right of a {first}",
        "a {first} on the left and a {second} on the right",
    ),
    "above": (
        "a {first} above a {second}",
        "a {second} below a {first}",
        "a {first} at the top and a {second} at the bottom",
    ),
}
HELD_OUT = {"test": 3, "validation": 2}
"""Diagonals of the table of pairs: 24 objects x 2 relations x 3 = 144 test images."""
TRAIN_IMAGES = 4
"""Renderings of each combination that is trained on; the held-out ones are rendered once."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A coloured shape."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Combination:
    """What an image shows."""

    first: Thing
    relation: str
    second: Thing

    @property
    def captions(self) -> list[str]:
        """Three sentences, each true of this combination alone."""
        return [template.format(first=self.first, second=self.second) for template in TEMPLATES[self.relation]]


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """`shapes`."""
    return [DatasetSpec(name="shapes", summary="two rendered shapes and their relation; needs no files", load=load)]


def load(config: DatasetConfig) -> DatasetDict:
    """Render all splits in memory. The pixels and captions depend on `config.seed` alone.

    Raises:
        DataError: streaming was asked for.
    """
    from datasets import DatasetDict

    if config.streaming:
        raise DataError("dataset 'shapes' is rendered in memory: leave out --streaming")
    chance = Chance(config.seed)
    splits = split_combinations(chance)
    splits["train"] = [combination for combination in splits["train"] for _ in range(TRAIN_IMAGES)]
    return DatasetDict({name: _rendered(combinations, chance) for name, combinations in splits.items()})


class Chance:
    """Seeded numbers that are the same on every machine and in every version of Python.

    Only the sequence of `random.Random.random` is promised to stay; choosing and shuffling are not.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - pictures, not secrets

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + math.floor(self._random.random() * (high - low + 1))

    def shuffled(self, items: Iterable[Thing]) -> list[Thing]:
        """The same items in another order."""
        return sorted(items, key=lambda _: self._random.random())


def split_combinations(chance: Chance) -> dict[str, list[Combination]]:
    """All combinations of two different things, divided between the splits.

    Whole diagonals of the square table of (first, second) are held out. Each diagonal has every
    thing once in each place, so that training sees all things in both places equally often.
    """
    splits: dict[str, list[Combination]] = {"train": [], "validation": [], "test": []}
    for relation in TEMPLATES:
        things = chance.shuffled(Thing(*both) for both in product(COLOURS, SHAPES))
        for offset in range(1, len(things)):
            split = _split_of(offset)
            for place, first in enumerate(things):
                splits[split].append(Combination(first, relation, things[(place + offset) % len(things)]))
    return splits


def _split_of(offset: int) -> str:
    if offset <= HELD_OUT["test"]:
        return "test"
    return "validation" if offset <= sum(HELD_OUT.values()) else "train"


# Drawing ----------------------------------------------------------------------------------------


def _rendered(combinations: list[Combination], chance: Chance) -> Dataset:
    from icclip.data.columns import dataset_of

    images = [_png(render(combination, chance)) for combination in combinations]
    return dataset_of(images, [combination.captions for combination in combinations])


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def render(combination: Combination, chance: Chance) -> Image.Image:
    """64 x 64 pixels: both things on grey, at slightly varying places and sizes."""
    grey = chance.between(10, 60)
    image = Image.new("RGB", (SIDE, SIDE), (grey, grey, grey))
    draw = ImageDraw.Draw(image)
    for thing, centre in ((combination.first, SIDE // 4), (combination.second, 3 * SIDE // 4)):
        along, across = centre + chance.between(-4, 4), SIDE // 2 + chance.between(-8, 8)
        x, y = (along, across) if combination.relation == "beside" else (across, along)
        _draw(draw, thing, x, y, chance.between(8, 11))
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
