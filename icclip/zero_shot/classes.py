"""The images of a classification dataset, and which class each belongs to."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.gallery import load_gallery
from icclip.errors import DataError, PluginError
from icclip.plugins.registry import Registry

if TYPE_CHECKING:
    from icclip.data.gallery import Gallery
    from icclip.data.split import SplitImages

FEWEST = 2


@dataclass(frozen=True, slots=True)
class ClassSet:
    """Images with one class each."""

    gallery: Gallery
    names: tuple[str, ...]
    """The names of all classes, which are the candidates."""
    labels: np.ndarray
    """int64 [images]: the place in `names` of each image's class."""

    @property
    def images(self) -> SplitImages:
        """The images, decoded when they are accessed."""
        return self.gallery.images

    @property
    def size(self) -> str:
        """How many images and classes there are, in words."""
        return f"{len(self.labels):,} images, {len(self.names):,} classes"


def open_classes(registry: Registry, config: DatasetConfig, split: str, reporter: Reporter) -> ClassSet:
    """Open one split of a classification dataset.

    Args:
        registry: knows the datasets.
        config: the dataset; its template for captions and its judgements are not used.
        split: the split's name.
        reporter: shows the progress of loading.

    Raises:
        DataError: it is no classification dataset, has fewer than two classes, or a class without images.
        UsageError: the dataset or split is unknown or cannot be read.
    """
    spec = registry.dataset(config.name)
    if spec.classes is None:
        raise DataError(
            f"{config.label} has captions and no classes: give a directory with a folder of images for each class"
        )
    config = dataclasses.replace(config, template=None, qrels=None)
    gallery = load_gallery(registry, config, split, reporter)
    names = tuple(spec.classes(config, split))
    _check_names(names, config.label)
    return ClassSet(gallery, names, _labels(gallery, names))


def _check_names(names: Sequence[str], label: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{label}: two folders stand for the class {twice[0]!r}: rename or merge them")
    if len(names) < FEWEST:
        has = f"has one class, {names[0]!r}" if names else "has no classes"
        raise DataError(f"{label} {has}: classification needs at least two, each with a folder of its own")


def _labels(gallery: Gallery, names: Sequence[str]) -> np.ndarray:
    captions = gallery.captions
    several = np.flatnonzero(np.diff(captions.offsets) > 1)
    if len(several):
        first = int(several[0])
        own = captions.texts[captions.offsets[first] : captions.offsets[first + 1]]
        raise DataError(
            f"{gallery.label}: the image {gallery.image_names[first]} is in several classes, {' and '.join(map(repr, own))}: "
            "keep it in one"
        )
    places = {name: place for place, name in enumerate(names)}
    strange = next((text for text in captions.texts if text not in places), None)
    if strange is not None:
        raise PluginError(f"{gallery.label}: the caption {strange!r:.80} is none of the classes that its plugin names")
    labels = np.array([places[text] for text in captions.texts], np.int64)
    empty = np.setdiff1d(np.arange(len(names)), labels)
    if len(empty):
        rest = f" and {len(empty) - 1} more have" if len(empty) > 1 else " has"
        raise DataError(
            f"{gallery.label}: the class {names[empty[0]]!r}{rest} no images: add some, remove the folder, or measure another split"
        )
    return labels
