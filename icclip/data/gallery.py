"""A split for retrieval: images, the captions that describe them, and a label. The captions are read once.

Loading needs the package `datasets`, but neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from icclip.config import DatasetConfig, RelevanceProtocol
from icclip.console import Reporter
from icclip.data.sameness import image_digests
from icclip.data.split import SplitImages, caption_lists, caption_map, encoded
from icclip.errors import MissingExtraError
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.judgements import Judged, names_of_images, read_judged
from icclip.retrieval.relevance import Relevance, same_text

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from icclip.data.loading import Splits

FINGERPRINT_IMAGES = 64

_AT_ONCE = 256


@dataclass(frozen=True)
class Gallery:
    """One split, which is made once and used for training, evaluation, export or verification."""

    images: SplitImages
    """The images, decoded when they are accessed."""
    captions: CaptionMap
    """Which texts describe which image."""
    label: str = ""
    """Its name in messages and results, such as `shapes, split test`."""
    protocol: RelevanceProtocol = "text"
    """What counts as a right answer where nobody has judged it."""
    judged: Judged | None = None
    """The right answers as people have judged them."""

    @classmethod
    def of(cls, split: Dataset, name: str = "", source: str = "", protocol: RelevanceProtocol = "text") -> Self:
        """Read the captions of a split that has the columns `image` and `captions`.

        Args:
            split: as `load_splits` returns it.
            name: the split's name, for the label and for messages about an image.
            source: the dataset's label, for the same purpose.
            protocol: what counts as a right answer (`relevance_protocol`).
        """
        label = f"{source}, split {name}" if source else name
        return cls(SplitImages(split, f"{source} {name}".strip()), caption_map(split), label, protocol)

    @cached_property
    def image_digests(self) -> list[bytes]:
        """SHA-256 of the content of each image's file. Raises DataError if one cannot be read."""
        return image_digests(self.images.rows)

    @cached_property
    def image_names(self) -> list[str | None]:
        """The path or file name of each image, if it has one."""
        return _image_names(self.images.rows)

    @property
    def counted_as(self) -> str:
        """What its right answers follow: a protocol, or the name of the file with judgements."""
        return self.protocol if self.judged is None else self.judged.path.name

    def with_one_caption(self) -> Self:
        """The same images, each with its first caption alone."""
        lists = [[self.captions.texts[start]] for start in self.captions.offsets[:-1].tolist()]
        label = f"{self.label}, the first caption of each image"
        return dataclasses.replace(self, captions=CaptionMap.from_lists(lists), label=label)

    def relevance(self, protocol: RelevanceProtocol | None = None) -> Relevance:
        """The right answers as judged or by its own protocol, or by another. Raises DataError if an image cannot be read."""
        if protocol is None and self.judged is not None:
            return self.judged.relevance(self.captions)
        chosen = protocol or self.protocol
        return Relevance.of(self.captions, chosen, self.image_digests if chosen == "text" else None)

    def relevances(self) -> tuple[Relevance, Relevance | None]:
        """Its own right answers, and those by the other protocol if that makes a difference; pairs beside judgements."""
        if self.judged is not None:
            return self.relevance(), self.relevance("pair")
        by_text, pairs = self.relevance("text"), self.relevance("pair")
        own, other = (pairs, by_text) if self.protocol == "pair" else (by_text, pairs)
        return own, None if by_text.is_pairs else other

    def select(self, rows: np.ndarray) -> Self:
        """Some of its images, with their own captions and what is judged of both.

        Args:
            rows: int64 [n]: the rows of the images.
        """
        texts, offsets = self.captions.texts, self.captions.offsets
        return dataclasses.replace(
            self,
            images=self.images.select(rows),
            captions=CaptionMap.from_lists([texts[offsets[row] : offsets[row + 1]] for row in rows]),
            judged=None if self.judged is None else self.judged.of_images(self.captions, rows),
        )

    def fingerprint(self) -> str:
        """A hash that recognises a split: SHA-256 over its captions, its length and some of its images.

        At most 64 images, at even distances, are read. This is enough to notice other sizes, another encoding or
        another order, and its cost does not grow with the number of images.

        Raises:
            DataError: one of these images cannot be read.
        """
        texts, rows = self.captions.texts, self.images.rows
        lists = [list(texts[start:end]) for start, end in pairwise(self.captions.offsets.tolist())]
        digest = hashlib.sha256(repr((len(rows), lists)).encode())
        for row in range(0, len(rows), max(1, len(rows) // FINGERPRINT_IMAGES)):
            digest.update(hashlib.sha256(encoded(rows[row]["image"], f"row {row}")).digest())
        return digest.hexdigest()


def dataset_asked(registry: Registry, value: str, options: Mapping[str, Any]) -> DatasetConfig:
    """Call `icclip.data.loading.dataset_config`, which needs the package `datasets`.

    Raises:
        MissingExtraError: the package is not installed.
        UsageError: the dataset is unknown or an option is wrong.
    """
    try:
        from icclip.data.loading import dataset_config
    except ImportError as error:
        raise MissingExtraError("--dataset", ["datasets"], "pip install datasets") from error
    return dataset_config(registry, value, **options)


def relevance_protocol(registry: Registry, config: DatasetConfig) -> RelevanceProtocol:
    """What counts as a right answer: the user's choice, or else the protocol with which the dataset was published."""
    return config.relevance or registry.dataset(config.name).relevance


def counted_as(registry: Registry, config: DatasetConfig) -> str:
    """The protocol, or the name of the file with judgements."""
    return relevance_protocol(registry, config) if config.qrels is None else config.qrels.name


def gallery_of(
    registry: Registry, config: DatasetConfig, splits: Mapping[str, Any], name: str, *, several: bool = False
) -> Gallery:
    """Make the gallery of one split of a dataset, with its right answers.

    Args:
        registry: knows the datasets.
        config: says what is right.
        splits: all splits by name, some of which may be streams; `name` is not.
        name: the split.
        several: whether other splits are measured by the same judgements. This one then need not be judged at all, and
            no image is called by its row.

    Raises:
        DataError: the file of judgements cannot be read, names what no split holds, or does not judge this split.
    """
    gallery = Gallery.of(splits[name], name, config.label, relevance_protocol(registry, config))
    if config.qrels is None:
        return gallery
    spec = registry.dataset(config.name)
    ids = {} if spec.caption_ids is None else spec.caption_ids(config)
    others = _OtherSplits([split for other, split in splits.items() if other != name], ids)
    judged = read_judged(
        config.qrels, gallery.captions, gallery.image_names, ids, elsewhere=others.know, by_row=not several
    )
    if several and not len(judged.right):
        return gallery
    gallery = dataclasses.replace(gallery, judged=judged)
    # That nothing is right is said now, and not after the model is loaded.
    gallery.relevance()
    return gallery


@dataclass
class _OtherSplits:
    """The splits of a dataset other than one, which are looked at only for a name that this one does not know."""

    splits: Sequence[Any]
    caption_ids: Collection[str]

    def know(self, name: str) -> bool:
        """Whether one of them has an image or a text of that name. A stream cannot be asked, and may."""
        if len(self._whole) < len(self.splits) or name in self.caption_ids:
            return True
        image = name.rpartition("#")[0] or name
        return image in self._images or name in self._images or same_text(name) in self._texts

    @cached_property
    def _whole(self) -> Sequence[Dataset]:
        return [split for split in self.splits if hasattr(split, "select_columns") and hasattr(split, "__len__")]

    @cached_property
    def _images(self) -> set[str]:
        return set().union(*(names_of_images(_image_names(split)) for split in self._whole))

    @cached_property
    def _texts(self) -> set[str]:
        return {same_text(text) for split in self._whole for own in caption_lists(split) for text in own}


def _image_names(rows: Dataset) -> list[str | None]:
    cells = rows.select_columns(["image"])
    return [cell["path"] for batch in cells.iter(_AT_ONCE) for cell in batch["image"]]


def load_gallery(
    registry: Registry,
    dataset: DatasetConfig | str,
    split: str,
    reporter: Reporter,
    *,
    options: Mapping[str, Any] | None = None,
    rows: Callable[[int], np.ndarray] | None = None,
) -> Gallery:
    """Load a dataset and open one of its splits.

    Args:
        registry: knows the datasets.
        dataset: a config, or what the user wrote after `--dataset`.
        split: the split's name.
        reporter: shows the progress of loading.
        options: further fields of DatasetConfig, used if `dataset` is not a config yet.
        rows: maps the number of rows to the indices of the wanted ones; None means all rows.

    Raises:
        MissingExtraError: the package `datasets` is not installed.
        UsageError: the dataset or split is unknown or cannot be read.
    """
    config = dataset if isinstance(dataset, DatasetConfig) else dataset_asked(registry, dataset, options or {})
    from icclip.data.loading import load_splits

    return open_gallery(registry, config, load_splits(registry, config, reporter), split, rows)


def open_gallery(
    registry: Registry,
    config: DatasetConfig,
    splits: Splits,
    split: str,
    rows: Callable[[int], np.ndarray] | None = None,
) -> Gallery:
    """Open one of the splits that `load_splits` returned, to be measured; for a source without splits, all of it.

    Raises:
        UnknownNameError: there is no such split.
    """
    from icclip.data.loading import is_whole, measured_split

    measured = {**splits, split: measured_split(splits, split, config)}
    gallery = gallery_of(registry, config, {split: measured[split]} if is_whole(splits, config) else measured, split)
    if rows is not None:
        gallery = gallery.select(rows(gallery.captions.n_images))
    if not is_whole(splits, config):
        return gallery
    return dataclasses.replace(gallery, label=f"{config.label}, all of it (it has no splits)")
