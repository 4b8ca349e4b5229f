"""Which texts are right answers to which images: a many-to-many relation, built once for a split.

Two protocols decide it from the content of a split. Under `text`, identical captions and byte-identical
images are the same answer, for every image that has them; a perfect model can then score 100 %. Under
`pair`, the protocol of the papers on Flickr8k, Flickr30k and COCO, a caption belongs to the row it came
with and to no other, and the same caption of another image counts as a wrong answer. A third way is to
read people's judgements from a file (`icclip.retrieval.judgements`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from icclip.retrieval.captions import CaptionMap

if TYPE_CHECKING:
    from icclip.config import RelevanceProtocol


def same_text(caption: str) -> str:
    """The form in which equal captions are equal: without differences in case, white space and Unicode composition."""
    return " ".join(unicodedata.normalize("NFC", caption).casefold().split())


@dataclass(frozen=True, slots=True)
class Kinds:
    """Rows, some of which are copies of others; distinct rows are numbered in the order of their first appearance."""

    of_row: np.ndarray
    """int64 [rows]: the kind of each row."""
    first: np.ndarray
    """int64 [kinds]: the first row of each kind."""
    sizes: np.ndarray
    """int64 [kinds]: the number of rows of each kind."""

    @classmethod
    def of(cls, keys: Iterable[Hashable]) -> Self:
        """Rows with the same key are copies of each other."""
        numbers: dict[Hashable, int] = {}
        of_row = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
        first = np.full(len(numbers), len(of_row), np.int64)
        np.minimum.at(first, of_row, np.arange(len(of_row)))
        return cls(of_row, first, np.bincount(of_row, minlength=len(numbers)).astype(np.int64))

    @classmethod
    def all_different(cls, rows: int) -> Self:
        """No row is a copy of another."""
        return cls(np.arange(rows), np.arange(rows), np.ones(rows, np.int64))

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Relevance:
    """The right answers of a split, between kinds of images and kinds of texts.

    Copies share their answers, so that the memory needed grows with the number of captions even where
    10,000 images share ten of them. The arrays are in the layout of a sparse matrix (CSR) whose rows are
    kinds of images: the texts that are right for image kind g are `members[offsets[g]:offsets[g + 1]]`.
    """

    captions: CaptionMap
    protocol: str
    """`text`, `pair`, or the name of the file that the judgements were read from."""
    images: Kinds
    texts: Kinds
    offsets: np.ndarray
    """int64 [kinds of images + 1]"""
    members: np.ndarray
    """int64 [pairs]: kinds of texts, ascending for each image."""
    grades: np.ndarray | None = None
    """float64 [pairs], above 0: how right each one is; None: all are equally right."""

    @classmethod
    def of(cls, captions: CaptionMap, protocol: RelevanceProtocol, images: Sequence[Hashable] | None = None) -> Self:
        """Derive the right answers from the content of a split.

        Args:
            captions: the texts of the split, and the image that each came with.
            protocol: `text` or `pair`.
            images: a key for each image, the same for byte-identical ones; None means that no two are the same.
                It only matters under `text`.

        Raises:
            ValueError: the number of keys differs from the number of images.
        """
        if images is not None and len(images) != captions.n_images:
            raise ValueError(f"{len(images)} keys for {captions.n_images} images")
        alike = protocol == "text"
        kinds = (
            Kinds.of(images) if alike and images is not None else Kinds.all_different(captions.n_images),
            Kinds.of(map(same_text, captions.texts)) if alike else Kinds.all_different(captions.n_texts),
        )
        pairs = np.column_stack([kinds[0].of_row[captions.image_of_text], kinds[1].of_row])
        return cls._from_pairs(captions, protocol, kinds, np.unique(pairs, axis=0))

    @classmethod
    def judged(cls, captions: CaptionMap, source: str, pairs: np.ndarray, grades: np.ndarray) -> Self:
        """Take the right answers from judgements.

        Args:
            captions: the texts of the split.
            source: the name of the file that they were read from, for results.
            pairs: int64 [n, 2]: an image's row and a text's row; where a pair comes twice, its best grade counts.
            grades: float64 [n]: how right each pair is; 0 and below mean that it is wrong.

        Raises:
            ValueError: nothing is judged right.
        """
        order = np.lexsort((-grades, pairs[:, 1], pairs[:, 0]))
        pairs, grades = pairs[order], grades[order]
        kept = np.ones(len(pairs), bool)
        kept[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
        kept &= grades > 0
        if not kept.any():
            raise ValueError("nothing is judged right")
        kinds = Kinds.all_different(captions.n_images), Kinds.all_different(captions.n_texts)
        graded = grades[kept] if (grades[kept] != grades[kept][0]).any() else None
        return cls._from_pairs(captions, source, kinds, pairs[kept], graded)

    def also(self, pairs: np.ndarray) -> Self:
        """The same with further right answers.

        Args:
            pairs: int64 [n, 2]: an image's row and a text's row.
        """
        known = np.column_stack([self.image_of_pair, self.members])
        further = np.column_stack([self.images.of_row[pairs[:, 0]], self.texts.of_row[pairs[:, 1]]])
        every = np.unique(np.concatenate([known, further]), axis=0)
        return self._from_pairs(self.captions, self.protocol, (self.images, self.texts), every)

    @classmethod
    def _from_pairs(
        cls,
        captions: CaptionMap,
        protocol: str,
        kinds: tuple[Kinds, Kinds],
        pairs: np.ndarray,
        grades: np.ndarray | None = None,
    ) -> Self:
        """`pairs`: int64 [n, 2], kinds of images and of texts, sorted."""
        images, texts = kinds
        counts = np.bincount(pairs[:, 0], minlength=len(images))
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        return cls(captions, protocol, images, texts, offsets, pairs[:, 1].astype(np.int64), grades)

    @cached_property
    def image_of_pair(self) -> np.ndarray:
        """int64 [pairs]: the kind of image beside each of `members`."""
        return np.repeat(np.arange(len(self.images)), np.diff(self.offsets))

    def texts_of(self, image: int) -> np.ndarray:
        """int64: the rows of the texts that are right for the image in that row, ascending."""
        kind = self.images.of_row[image]
        own = self.members[self.offsets[kind] : self.offsets[kind + 1]]
        rows: np.ndarray = np.flatnonzero(np.isin(self.texts.of_row, own))
        return rows

    def images_of(self, text: int) -> np.ndarray:
        """int64: the rows of the images that are right for the text in that row, ascending."""
        own = self.image_of_pair[self.members == self.texts.of_row[text]]
        rows: np.ndarray = np.flatnonzero(np.isin(self.images.of_row, own))
        return rows

    @cached_property
    def shared_texts(self) -> np.ndarray:
        """Which texts, bool [kinds of texts], are right for several kinds of images."""
        return np.bincount(self.members, minlength=len(self.texts)) > 1

    @property
    def n_shared_captions(self) -> int:
        """How many captions, counted as often as they stand, are right for several images."""
        return int(self.texts.sizes[self.shared_texts].sum())

    @property
    def n_duplicate_images(self) -> int:
        """How many images are copies of an earlier one."""
        return self.captions.n_images - len(self.images)

    @property
    def is_pairs(self) -> bool:
        """Whether every text is right for the image it came with and for no other, whatever the protocol is called."""
        sizes = self.images.sizes[self.image_of_pair] * self.texts.sizes[self.members]
        if self.grades is not None or int(sizes.sum()) != self.captions.n_texts:
            return False
        own = np.column_stack([self.images.of_row[self.captions.image_of_text], self.texts.of_row])
        pairs = np.column_stack([self.image_of_pair, self.members])
        return np.array_equal(np.unique(own, axis=0), pairs)
