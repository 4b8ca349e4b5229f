"""Find images of a split that are the same file, or that look the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from icclip.data.cores import cores
from icclip.data.images import decode_image
from icclip.data.split import encoded

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")

AT_ONCE = 256
"""Number of images whose encoded content is held in memory at the same time."""
HASH_SIDE = 8


def image_digests(split: Dataset) -> list[bytes]:
    """The SHA-256 of each image's encoded content.

    Raises:
        DataError: a file cannot be read.
    """
    return _of_each(split, lambda content, _: hashlib.sha256(content).digest())


def image_hashes(split: Dataset) -> np.ndarray:
    """The `difference_hash` of each image, uint64 [n].

    Raises:
        DataError: an image cannot be decoded.
    """

    def look(content: bytes, where: str) -> int:
        # A JPEG is decoded at a fraction of its size, which is sufficient here.
        side = HASH_SIDE * HASH_SIDE
        return difference_hash(decode_image(content, where, at_least=(side, side)))

    return np.array(_of_each(split, look), np.uint64)


def _of_each(split: Dataset, work: Callable[[bytes, str], T]) -> list[T]:
    """Apply `work` to the content and the name of each image, in threads, since decoders and hashes release the lock."""
    images = split.select_columns(["image"])
    found: list[T] = []
    with ThreadPoolExecutor(cores()) as pool:
        for batch in images.iter(AT_ONCE):
            names = [f"row {row}" for row in range(len(found), len(found) + len(batch["image"]))]
            found += pool.map(work, map(encoded, batch["image"], names), names)
    return found


def difference_hash(image: Image.Image) -> int:
    """64 bits: whether each of 8 x 8 areas is brighter than its right neighbour (dHash, Krawetz 2013).

    Other sizes, encodings and small edits of an image change a few bits at most.
    """
    grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    levels = np.asarray(grey, np.int16)
    return int.from_bytes(np.packbits(levels[:, :-1] > levels[:, 1:]).tobytes())


def same_content(digests: Sequence[bytes]) -> np.ndarray:
    """Groups of identical files, int64 [n]: for each row, the first row with the same digest."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, row) for row, digest in enumerate(digests)], np.int64)


def same_look(groups: np.ndarray, hashes: np.ndarray, distance: int) -> np.ndarray:
    """Groups of images that look the same, int64 [n]: joined if two hashes differ in at most `distance` bits.

    An image without any edges has the hash 0 and is not compared. Every other pair is compared.
    """
    joined = groups.copy()
    rows = np.flatnonzero((groups == np.arange(len(groups))) & (hashes != 0))
    for number, row in enumerate(rows):
        others = rows[number + 1 :]
        for other in others[np.bitwise_count(hashes[others] ^ hashes[row]) <= distance]:
            one, two = sorted((joined[row], joined[other]))
            joined[joined == two] = one
    return joined
