"""The captions of a split, and which image each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np


@dataclass(frozen=True, slots=True)
class CaptionMap:
    """The captions of n images as one flat list of m texts, in the order of the images.

    `offsets` is int64 [n + 1]: the captions of image i are `texts[offsets[i]:offsets[i + 1]]`, at
    least one.
    """

    texts: tuple[str, ...]
    offsets: np.ndarray

    @classmethod
    def from_lists(cls, captions: Sequence[Sequence[str]]) -> Self:
        """Build it from one list of captions per image. Raises ValueError if a list is empty."""
        counts = np.array([len(own) for own in captions], dtype=np.int64)
        if counts.size and counts.min() == 0:
            raise ValueError(f"image {int(counts.argmin())} has no caption")
        return cls(tuple(chain.from_iterable(captions)), np.concatenate(([0], np.cumsum(counts))).astype(np.int64))

    @property
    def n_images(self) -> int:
        """The number of images."""
        return len(self.offsets) - 1

    @property
    def n_texts(self) -> int:
        """The number of texts."""
        return len(self.texts)

    @property
    def image_of_text(self) -> np.ndarray:
        """int64 [m]: the image that each text describes."""
        return np.repeat(np.arange(self.n_images), np.diff(self.offsets))
