"""Which images of a split are the same, and which captions several of them share.

Such pairs are right answers to each other; as negatives, they would teach the opposite of the truth.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self, TypeVar

import numpy as np

from icclip.console import counted
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.relevance import Relevance, same_text

T = TypeVar("T")

LOOK_AHEAD = 4
"""How many batches ahead `kept_apart` looks for rows that share nothing."""


# Of captions --------------------------------------------------------------------------------------


def caption_id(caption: str) -> int:
    """A number for a caption; captions that `same_text` finds equal have the same one."""
    return stable_int(same_text(caption))


def stable_int(*parts: object) -> int:
    """A number in int64's positive range that is the same on every machine and in every process."""
    digest = blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


# Both ---------------------------------------------------------------------------------------------

Shared = Sequence[frozenset[tuple[str, int]]]
"""For each row, the images and captions that it shares with other rows."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The captions of an image, and what else is right for it, as numbers that pairs are compared by."""

    image: int
    """The same for images that are the same."""
    captions: Sequence[int]
    """One for each caption that came with the image, the same for captions that are the same."""
    right: Sequence[int] = ()
    """The captions, wherever they stand, that are right for the image and that another image may be shown with."""

    @classmethod
    def of_captions(cls, captions: Sequence[str], image: int) -> Self:
        """What is known of an image without its split: its own captions are right for it."""
        numbers = list(map(caption_id, captions))
        return cls(image, numbers, numbers)


@dataclass(frozen=True)
class Duplicates:
    """What the images of a split have in common, as its relevance has it."""

    relevance: Relevance

    @classmethod
    def of(cls, groups: np.ndarray, captions: CaptionMap, judged: np.ndarray | None = None) -> Self:
        """By content, and by what people have judged right besides.

        Args:
            groups: int64 [n]: the same number for images that are the same.
            captions: the captions of these images.
            judged: int64 [k, 2]: the rows of an image and of a text that are right for each other.
        """
        relevance = Relevance.of(captions, "text", groups.tolist())
        return cls(relevance if judged is None else relevance.also(judged))

    def answers(self, image: int) -> Answers:
        """What is right for the image in that row."""
        relevance = self.relevance
        images, own = relevance.images, slice(*relevance.captions.offsets[image : image + 2].tolist())
        kind = images.of_row[image]
        right = relevance.members[slice(*relevance.offsets[kind : kind + 2].tolist())]
        shared = right[relevance.shared_texts[right]]
        return Answers(int(images.first[kind]), relevance.texts.of_row[own].tolist(), shared.tolist())

    def shared_by_images(self) -> Shared:
        """What each image shares with others."""
        captions = self.relevance.captions
        lists = np.split(np.arange(captions.n_texts), captions.offsets[1:-1])
        return self._shared(self.relevance.images.of_row, lists)

    def shared_by_texts(self) -> Shared:
        """What each pair of a text and its image shares with others; all texts of one image share that image."""
        captions = self.relevance.captions
        images = self.relevance.images.of_row[captions.image_of_text]
        return self._shared(images, np.arange(captions.n_texts)[:, None])

    def _shared(self, images: np.ndarray, texts: Iterable[np.ndarray]) -> Shared:
        kinds = self.relevance.texts.of_row
        own = [
            {("image", image), *(("caption", kind) for kind in kinds[some].tolist())}
            for image, some in zip(images.tolist(), texts, strict=True)
        ]
        counts = Counter(key for keys in own for key in keys)
        return [frozenset(key for key in keys if counts[key] > 1) for keys in own]

    def counted(self) -> str:
        """One line for people: `12 copies of other images and 431 captions of several images`."""
        images, captions = self.relevance.n_duplicate_images, int(self.relevance.shared_texts.sum())
        copies = "1 copy" if images == 1 else f"{images:,} copies"
        return f"{copies} of other images and {counted(captions, 'caption')} of several images"


def kept_apart(order: Sequence[int], shared: Sequence[frozenset[T]], size: int) -> list[int]:
    """Reorder rows so that few batches hold two that share something.

    A row that shares something with its batch waits for the next one. If there are too many of a kind,
    the last of them end up together after all.

    Args:
        order: the rows in the order of the sampler.
        shared: for each row, what it shares with others.
        size: the number of rows that a step compares with each other.
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
