"""Which images of a split are the same, and which captions several of them share.

Such pairs are right answers to each other; used as negatives they would teach the opposite of the truth.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from icclip.data.batches import cores
from icclip.data.images import decode_image
from icclip.data.split import encoded
from icclip.retrieval.captions import CaptionMap

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")

AT_ONCE = 256
"""Images whose encoded content is held in memory at the same time."""
HASH_SIDE = 8
LOOK_AHEAD = 4
"""How many batches ahead `kept_apart` looks for rows that share nothing."""


# Of images ----------------------------------------------------------------------------------------


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
        # A JPEG is decoded at a fraction of its size, which is all that is needed here.
        side = HASH_SIDE * HASH_SIDE
        return difference_hash(decode_image(content, where, at_least=(side, side)))

    return np.array(_of_each(split, look), np.uint64)


def _of_each(split: Dataset, work: Callable[[bytes, str], T]) -> list[T]:
    """(content, where) of each image -> what `work` makes of it; in threads, which decoders and hashes let run."""
    images = split.select_columns(["image"])
    found: list[T] = []
    with ThreadPoolExecutor(cores()) as pool:
        for batch in images.iter(AT_ONCE):
            places = [f"row {row}" for row in range(len(found), len(found) + len(batch["image"]))]
            found += pool.map(work, map(encoded, batch["image"], places), places)
    return found


def difference_hash(image: Image.Image) -> int:
    """64 bits: whether each of 8 x 8 places is brighter than its right neighbour (dHash, Krawetz 2013).

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
    """Groups of images that look the same, int64 [n]: joined where two hashes differ in at most `distance` bits.

    An image without any edge has the hash 0 and is not compared. Every other pair is compared, in blocks.
    """
    joined = groups.copy()
    rows = np.flatnonzero((groups == np.arange(len(groups))) & (hashes != 0))
    for place, row in enumerate(rows):
        others = rows[place + 1 :]
        for other in others[np.bitwise_count(hashes[others] ^ hashes[row]) <= distance]:
            one, two = sorted((joined[row], joined[other]))
            joined[joined == two] = one
    return joined


# Of captions --------------------------------------------------------------------------------------


def caption_id(caption: str) -> int:
    """A number for a caption; captions that differ only in case or white space have the same one."""
    return stable_int(" ".join(caption.casefold().split()))


def stable_int(*parts: object) -> int:
    """A number in int64's positive range that is the same on every machine and in every process."""
    digest = blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


# Both ---------------------------------------------------------------------------------------------

Shared = Sequence[frozenset[tuple[str, int]]]
"""For each row, the images and captions that it shares with other rows."""


@dataclass(frozen=True)
class Duplicates:
    """What the images of a split have in common."""

    groups: np.ndarray
    """int64 [n]: the same number for images that are the same."""
    captions: CaptionMap

    def shared_by_images(self) -> Shared:
        """What each image shares with others."""
        lists = np.split(np.arange(self.captions.n_texts), self.captions.offsets[1:-1])
        return self._shared(self.groups, lists)

    def shared_by_texts(self) -> Shared:
        """What each pair of a text and its image shares with others; all texts of one image share that image."""
        return self._shared(self.groups[self.captions.image_of_text], np.arange(self.captions.n_texts)[:, None])

    def _shared(self, groups: np.ndarray, texts: Iterable[np.ndarray]) -> Shared:
        ids = [caption_id(text) for text in self.captions.texts]
        own = [
            {("image", group), *(("caption", ids[text]) for text in some)}
            for group, some in zip(groups.tolist(), texts, strict=True)
        ]
        counts = Counter(key for keys in own for key in keys)
        return [frozenset(key for key in keys if counts[key] > 1) for keys in own]

    def counted(self) -> str:
        """For people: `12 images are duplicates of others, 431 captions belong to several images`."""
        images = len(self.groups) - len(np.unique(self.groups))
        captions = len({key for keys in self.shared_by_images() for key in keys if key[0] == "caption"})
        return f"{images:,} images are duplicates of others, {captions:,} captions belong to several images"


def kept_apart(order: Sequence[int], shared: Sequence[frozenset[T]], size: int) -> list[int]:
    """Reorder rows so that few batches hold two that share something.

    A row that shares something with its batch waits for the next one. If there are too many of a kind,
    the last of them end up together after all.

    Args:
        order: the rows in the order of the sampler.
        shared: for each row, what it shares with others.
        size: how many rows a step compares with each other.
    """
    waiting, result = deque(order), list[int]()
    while waiting:
        batch, met, postponed = list[int](), set[T](), list[int]()
        for _ in range(min(len(waiting), LOOK_AHEAD * size)):
            row = waiting.popleft()
            if met.isdisjoint(shared[row]):
                batch.append(row)
                met |= shared[row]
            else:
                postponed.append(row)
            if len(batch) == size:
                break
        missing = size - len(batch)
        result += batch + postponed[:missing]
        waiting.extendleft(reversed(postponed[missing:]))
    return result
