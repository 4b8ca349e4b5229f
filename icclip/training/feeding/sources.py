"""The inputs of a run: examples to train on and images to measure on, from a cache or from the split itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from icclip.config import CacheImages, RelevanceProtocol, TrainConfig
from icclip.console import Reporter
from icclip.data.gallery import Gallery
from icclip.data.sameness import image_hashes, same_content, same_look
from icclip.data.split import SplitImages
from icclip.errors import UsageError
from icclip.models.feeder import Feeder
from icclip.training.feeding.cache import PixelCache, cache_path, cached_images
from icclip.training.feeding.collate import CaptionedImages, CaptionedPairs
from icclip.training.feeding.duplicates import Duplicates
from icclip.training.feeding.streams import CaptionedStream
from icclip.training.processes.gather import on_first_process

if TYPE_CHECKING:
    from datasets import IterableDataset

Images: TypeAlias = SplitImages | PixelCache

TREATMENT = {"mask": "not used as negatives of each other", "soft": "used as positives of each other"}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a run's examples and images come from.

    Args:
        config: tells what is cached and how duplicates are treated.
        feeder: resizes the images.
        reporter: shows what is cached and the number of duplicates.
    """

    config: TrainConfig
    feeder: Feeder
    reporter: Reporter

    def training(self, split: Gallery | IterableDataset, *, seen: int) -> CaptionedImages | CaptionedStream:
        """The examples of a split or of a stream.

        Args:
            split: the split, or a stream of rows with `image` and `captions`.
            seen: how many images the run reads, counting repetitions.

        Raises:
            UsageError: a cache was asked for, and the images cannot be cached or the cache cannot be written.
            DataError: an image cannot be read.
        """
        config = self.config
        if not isinstance(split, Gallery):
            return CaptionedStream(split, config.seed)
        mode = self._mode_of_training()
        compared = config.duplicates != "off" and self._protocol == "text"
        digests = _digests(split) if mode != "off" or compared else []
        images = self._images(split, mode, digests, again=seen > len(split.images))
        kind = CaptionedPairs if config.captions == "all" else CaptionedImages
        duplicates = None if config.duplicates == "off" else self._duplicates(split, digests)
        return kind(images, split.captions, duplicates)

    @property
    def _protocol(self) -> RelevanceProtocol:
        """What counts as a right answer where the model learns.

        That a dataset was published with another way of counting says nothing about what is true; that the
        user asks for it does.
        """
        return self.config.data.relevance or "text"

    def validation(self, split: Gallery) -> Images:
        """The images of a split that is measured several times."""
        mode = self.config.cache_images
        return self._images(split, mode, [] if mode == "off" else _digests(split), again=True)

    def _mode_of_training(self) -> CacheImages:
        mode = self.config.cache_images
        if self.config.augment == "off" or mode == "off":
            return mode
        self.reporter.note("augmentation needs the original images, so the images of the training split are not cached")
        return "off"

    def _images(self, split: Gallery, mode: CacheImages, digests: Sequence[bytes], *, again: bool) -> Images:
        images, pixels = split.images, self.feeder.pixels
        if mode == "off":
            return images
        if pixels is None:
            if mode == "on":
                raise UsageError(
                    f"{type(self.feeder.processor.image_processor).__name__} does more than resize and normalise: "
                    "its images cannot be cached, so leave out --cache-images"
                )
            return images
        path = cache_path(digests, pixels)
        workers, reporter = self.config.workers, self.reporter
        cached = cached_images(images, path, pixels, mode, worth_filling=again, workers=workers, reporter=reporter)
        return images if cached is None else cached

    def _duplicates(self, split: Gallery, digests: Sequence[bytes]) -> Duplicates:
        if self._protocol == "pair":
            self.reporter.note(
                "a caption is right only for its own image (--relevance pair): the loss takes the same caption of "
                "another image for a wrong answer"
            )
            return Duplicates(split.relevance("pair"))
        groups, distance = same_content(digests), self.config.near_duplicates
        if distance is not None:
            groups = same_look(groups, on_first_process(lambda: image_hashes(split.images.rows)), distance)
        duplicates = Duplicates.of(groups, split.captions)
        self.reporter.note(
            f"{duplicates.counted()}: they are {TREATMENT[self.config.duplicates]}, and kept in different batches where possible"
        )
        return duplicates


def _digests(split: Gallery) -> list[bytes]:
    return on_first_process(lambda: split.image_digests)
