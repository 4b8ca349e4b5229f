"""Light augmentation: slightly different pictures of a scene, for which its captions stay true."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

SMALLEST_AREA = 0.8
WIDEST_RATIO = 10 / 9
JITTER = 0.1
SIDES = re.compile(r"\b(left|right)(most|ward|wards|hand|handed|side)?\b", re.IGNORECASE)
"""Words that a mirrored picture would make untrue. `right` as in `correct` is among them, to be safe."""


def light(image: Image.Image, captions: Sequence[str], seed: int) -> Image.Image:
    """Crop at least 80 % of the area, and change brightness, contrast and colour by up to 10 %.

    Half of the images are also mirrored, except those with a caption that says left or right.

    Args:
        image: RGB.
        captions: all captions of the image.
        seed: decides every random choice.

    Returns:
        RGB, of the same size.
    """
    draw = np.random.default_rng(seed)
    result = image.resize(image.size, Image.Resampling.BICUBIC, box=crop_box(image.size, draw))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        result = enhance(result).enhance(draw.uniform(1 - JITTER, 1 + JITTER))
    # Drawn for every image: what the others get does not depend on words.
    wanted = draw.random() < 0.5  # noqa: PLR2004 # half of them
    return ImageOps.mirror(result) if wanted and may_mirror(captions) else result


def may_mirror(captions: Sequence[str]) -> bool:
    """Whether no caption mentions left or right."""
    return not any(SIDES.search(caption) for caption in captions)


def crop_box(size: tuple[int, int], draw: np.random.Generator) -> tuple[float, float, float, float]:
    """A random crop (left, upper, right, lower) of an image of (width, height), with nearly the same aspect ratio."""
    area = draw.uniform(SMALLEST_AREA, 1)
    # A side longer than the image would have to be cut, and the area with it.
    limit = min(math.log(WIDEST_RATIO), -math.log(area))
    ratio = math.exp(draw.uniform(-limit, limit))
    left, right = _span(size[0], math.sqrt(area * ratio), draw)
    upper, lower = _span(size[1], math.sqrt(area / ratio), draw)
    return left, upper, right, lower


def _span(whole: int, share: float, draw: np.random.Generator) -> tuple[float, float]:
    """Where a part of a side begins and ends. What rounding adds to a share of 1 is taken off."""
    length = min(whole, whole * share)
    start = draw.uniform(0, whole - length)
    return start, min(whole, start + length)
