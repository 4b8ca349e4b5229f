"""The probe set: images and texts of our own that exercise what a dataset may not.

A split of small square pictures and short lower-case captions cannot tell one resampling filter from another, a
crop from a squeeze, or one way of cutting long texts from the other. The gate therefore always adds these inputs,
whatever the split. They are drawn from formulas and fixed seeds, so that every machine makes the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag that says which way up a picture is; 1 to 8."""
LARGEST = 640
"""Pixels of the longest side: golden inputs travel with the bundle."""
WORDS = ("a", "cat", "photo", "of", "the", "1", ".")
"""Words that common vocabularies hold as one token, for texts of an exact number of tokens."""


def probe_images(side: int) -> dict[str, Image.Image]:
    """Images of many sizes, shapes, modes and orientations.

    Args:
        side: the model's image size in pixels, to which "larger" and "smaller" refer.

    Returns:
        What is special about each -> the image, undecoded orientation included, in a fixed order.
    """
    unit = min(side, LARGEST // 3)
    shapes = {
        "exactly the model's size": (side, side),
        "larger": (2 * unit + 61, 2 * unit + 17),
        "smaller": (max(1, side // 3), max(1, side // 4)),
        "one to three": (unit // 2 + 1, 3 * (unit // 2 + 1)),
        "three to one": (3 * unit, unit),
        "odd": (unit + 1, unit + 14),
        "a little larger": (side + 2, side + 1),
        "one pixel": (1, 1),
        "a line": (unit, 1),
    }
    found = {name: _texture(*size, seed) for seed, (name, size) in enumerate(shapes.items())}
    base = _texture(unit + 33, unit + 10, 101)
    found |= {f"mode {mode}": _as_mode(base, mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")}
    turned = _texture(unit // 2 + 9, unit // 2 + 30, 102)
    return found | {f"orientation {number}": _turned(turned, number) for number in range(2, 9)}


def probe_texts(count: Callable[[str], int], limit: int, special: Sequence[str] = ()) -> dict[str, str]:
    """Texts of every kind that people write and that pipelines treat differently.

    Args:
        count: tokens of a text before it is cut, special tokens included.
        limit: tokens that the text tower reads.
        special: the tokenizer's special tokens, which appear as if somebody had typed them.

    Returns:
        What is special about each -> the text, in a fixed order.
    """
    plain = {
        "lower case": "two dogs run across a field of snow",
        "upper case": "TWO DOGS Run Across A Field Of SNOW",
        "accents, composed": "caf\u00e9 cr\u00e8me, na\u00efve fa\u00e7ade, \u00fcber \u00c5ngstr\u00f6m",
        "accents, decomposed": "cafe\u0301 cre\u0300me, nai\u0308ve fac\u0327ade, u\u0308ber A\u030angstro\u0308m",
        "compatibility forms": "\ufb01ne \u2460 \uff21\uff22\uff23 \u00bd \u2122 \u212b",
        "runs of spaces": "a   red \t circle \n\n over   blue",
        "space at both ends": "   a red circle   ",
        "punctuation": "\"Hello,\" it's a well-known fact: 50% (or so) of #tags; end... !?",
        "digits": "1234567890 3.14 1,000,000 24/7 2026-11-26",
        "quotes and dashes": "\u201cquoted\u201d \u2018text\u2019 \u2013 and \u2014 dashes\u2026",
        "emoji": "a \U0001f436 and a \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
        "chinese and japanese": "\u4e24\u53ea\u72d7\u5728\u96ea\u5730\u91cc\u5954\u8dd1 \u96ea\u306e\u4e2d\u306e\u72ac",
        "right to left": "\u05db\u05dc\u05d1 \u05d1\u05e9\u05dc\u05d2 \u0643\u0644\u0628 \u0641\u064a \u0627\u0644\u062b\u0644\u062c",
        "turkish and german case": "\u0130stanbul I\u015fIK stra\u00dfe STRASSE",
        "empty": "",
        "a space": " ",
        "a full stop": ".",
        "markup": "<b>bold</b> &amp; [link](url) \\n",
    }  # fmt: skip
    written = {f"{token} written out": f"a {token} b {token}" for token in special}
    return plain | written | _lengths(count, limit)


def _lengths(count: Callable[[str], int], limit: int) -> dict[str, str]:
    exact = _of_length(count, limit)
    return {
        "exactly the limit": exact,
        "one over the limit": _of_length(count, limit + 1),
        "far over the limit": " ".join(
            f"{word} {number}" for number in range(limit) for word in ("dog", "tree", "red")
        ),
        "one very long word": "pneumono" * limit,
    }


def _of_length(count: Callable[[str], int], limit: int) -> str:
    """A text of exactly `limit` tokens, or of as many as the vocabulary allows below that."""
    words: list[str] = []
    while True:
        length = count(" ".join(words))
        fitting = [word for word in WORDS if count(" ".join([*words, word])) <= limit]
        if length >= limit or not fitting:
            return " ".join(words)
        # In turn, so that the text is no single word over and over.
        words.append(fitting[len(words) % len(fitting)])


def _texture(width: int, height: int, seed: int) -> Image.Image:
    """RGB with detail at every scale: rings that alias differently under each filter, dots, a slope."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    longest = max(width, height, 2)
    rings = 127.5 * (1 + np.sin(2.2 * (x**2 + y**2) / longest))
    dots = np.random.default_rng(seed).integers(0, 2, (height, width)) * 255.0
    slope = 255 * (x / max(1, width - 1) + y / max(1, height - 1)) / 2
    return Image.fromarray(np.stack([rings, dots, slope], axis=-1).round().astype(np.uint8))


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        image = image.copy()
        image.putalpha(image.getchannel("R"))
    return image.convert(mode)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """The same pixels with a note that they are to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = image.copy()
    # Where a file's reader leaves it: a copy of the image keeps it there.
    turned.info["exif"] = exif.tobytes()
    return turned
