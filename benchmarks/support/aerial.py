"""Drawn pictures from above, in the manner of UC Merced's land-use captions: few classes, whose captions repeat."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 128
GREEN, SAND, WATER, ASPHALT, ROOF, WHITE = "#4f7d3a", "#d8c28a", "#2f6f9f", "#6b6b6b", "#a5553f", "#f2f2f2"
FULL = 0.8
"""The share of places that are taken."""
SPLITS = (("train", 0.7), ("validation", 0.85), ("test", 1.0))

Draw = Callable[[ImageDraw.ImageDraw, random.Random], None]


def runway(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """A grey strip with a dashed line."""
    middle = chance.randint(40, 88)
    draw.rectangle((0, middle - 18, SIDE, middle + 18), fill=ASPHALT)
    for left in range(chance.randint(0, 10), SIDE, 20):
        draw.rectangle((left, middle - 1, left + 10, middle + 1), fill=WHITE)


def river(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """A band of water that winds."""
    points = [(x, 64 + chance.randint(-28, 28)) for x in range(-16, SIDE + 32, 24)]
    draw.line(points, fill=WATER, width=chance.randint(12, 24), joint="curve")


def tanks(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """White circles in rows."""
    size = chance.randint(14, 22)
    for x in range(10, SIDE - size, size + 8):
        for y in range(chance.randint(8, 40), SIDE - size, size + 8):
            draw.ellipse((x, y, x + size, y + size), fill=WHITE, outline=ASPHALT)


def parking(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Cars in rows."""
    draw.rectangle((0, 0, SIDE, SIDE), fill=ASPHALT)
    for y in range(6, SIDE - 10, 20):
        for x in range(4, SIDE - 6, 10):
            if chance.random() < FULL:
                draw.rectangle((x, y, x + 6, y + 11), fill=chance.choice(("#b03030", "#303080", WHITE, "#202020")))


def farmland(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Fields in stripes."""
    width = chance.randint(5, 12)
    for x in range(0, SIDE, 2 * width):
        draw.rectangle((x, 0, x + width, SIDE), fill="#9fae4f")


def forest(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Crowns of trees, close together."""
    for _ in range(260):
        x, y, size = chance.randint(-6, SIDE), chance.randint(-6, SIDE), chance.randint(6, 13)
        draw.ellipse((x, y, x + size, y + size), fill=chance.choice(("#1f4a1f", "#2c5f2a", "#173a18")))


def beach(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Sand beside water."""
    draw.rectangle((0, 0, SIDE, SIDE), fill=SAND)
    draw.polygon([(0, chance.randint(40, 80)), (SIDE, chance.randint(40, 80)), (SIDE, SIDE), (0, SIDE)], fill=WATER)


def houses(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Roofs side by side, along a road."""
    draw.rectangle((0, 58, SIDE, 70), fill=ASPHALT)
    for y in (6, 32, 76, 102):
        for x in range(4, SIDE - 16, 22):
            draw.rectangle((x, y, x + chance.randint(12, 17), y + chance.randint(12, 18)), fill=ROOF)


def court(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """A tennis court."""
    x, y = chance.randint(20, 44), chance.randint(8, 30)
    draw.rectangle((x, y, x + 44, y + 84), fill="#2f6a4f", outline=WHITE, width=2)
    draw.line((x, y + 42, x + 44, y + 42), fill=WHITE, width=2)
    draw.rectangle((x + 6, y + 20, x + 38, y + 64), outline=WHITE)


def diamond(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """A baseball field."""
    x, y = chance.randint(10, 34), chance.randint(86, 112)
    draw.pieslice((x - 70, y - 70, x + 70, y + 70), 270, 360, fill=SAND)
    draw.polygon([(x + 8, y - 8), (x + 34, y - 8), (x + 34, y - 34), (x + 8, y - 34)], fill=GREEN)


def harbour(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Boats at a pier."""
    draw.rectangle((0, 0, SIDE, SIDE), fill=WATER)
    draw.rectangle((58, 0, 68, SIDE), fill="#8a7a63")
    for y in range(6, SIDE - 12, 16):
        for x in (22, 74):
            if chance.random() < FULL:
                draw.ellipse((x, y, x + 32, y + 9), fill=WHITE)


def crossing(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    """Two roads that meet."""
    x, y = chance.randint(50, 76), chance.randint(50, 76)
    draw.rectangle((0, y - 11, SIDE, y + 11), fill=ASPHALT)
    draw.rectangle((x - 11, 0, x + 11, SIDE), fill=ASPHALT)
    draw.line((0, y, SIDE, y), fill=WHITE)
    draw.line((x, 0, x, SIDE), fill=WHITE)


CLASSES: Mapping[Draw, tuple[str, ...]] = {
    runway: ("a runway with a dashed white line", "there is a runway", "a grey runway in the grass"),
    river: ("a river winds through the grass", "there is a river", "a blue river between green fields"),
    tanks: ("many white storage tanks in rows", "there are storage tanks", "round white tanks on the grass"),
    parking: ("lots of cars in a parking lot", "there is a parking lot", "cars are parked neatly in rows"),
    farmland: ("fields in green stripes", "there is farmland", "a piece of farmland with straight rows"),
    forest: ("a dense forest", "there are many green trees", "the trees stand close together"),
    beach: ("a beach beside the blue sea", "there is a beach", "waves come to a sandy beach"),
    houses: ("many houses side by side along a road", "there are houses with red roofs", "a dense residential area"),
    court: ("a tennis court with white lines", "there is a tennis court", "one tennis court on the grass"),
    diamond: ("a baseball field", "there is a baseball diamond", "a baseball diamond with sand and grass"),
    harbour: ("boats neatly at a pier", "there is a harbour", "lots of white boats in the harbour"),
    crossing: ("an intersection of two roads", "there is an intersection", "two grey roads cross each other"),
}
"""What is drawn, and what is said about it."""


def write_aerial(folder: Path, each: int = 40, seed: int = 0) -> Path:
    """Draw `each` pictures of every class, with all captions of the class, shared out to the three splits.

    Returns:
        The JSONL file: `image`, `captions` and `split`, one picture a line.
    """
    chance, lines = random.Random(seed), []
    (folder / "images").mkdir(parents=True)
    for draw, captions in CLASSES.items():
        for number in range(each):
            image = Image.new("RGB", (SIDE, SIDE), GREEN)
            draw(ImageDraw.Draw(image), chance)
            name = f"images/{draw.__name__}-{number:03}.png"
            image.rotate(90 * chance.randrange(4)).save(folder / name)
            split = next(split for split, end in SPLITS if number < end * each)
            lines.append(json.dumps({"image": name, "captions": list(captions), "split": split}))
    target = folder / "aerial.jsonl"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target
