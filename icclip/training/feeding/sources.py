"""The inputs of a run: examples to train on and images to measure on, from a cache or from the split itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from icclip.config import CacheMode, RelevanceProtocol, TrainConfig
from icclip.console import Reporter
from icclip.data.gallery import Gallery
from icclip.data.sameness import image_hashes, same_content, same_look
from icclip.data.split import SplitImages
from icclip.errors import UsageError
from icclip.models.feeder import Feeder
from icclip.training.feeding.cache import PixelCache, cache_path, cached_images
from icclip.training.feeding.collate import CaptionedImages, CaptionedPairs
from icclip.training.feeding.duplicates import Duplicates
from icclip.training.feeding.features import FeatureCache, FrozenTowers, with_caption_features
from icclip.training.feeding.streams import WHOLE, CaptionedStream, Turns
from icclip.training.processes.gather import on_first_process

if TYPE_CHECKING:
    from datasets import IterableDataset

Images: TypeAlias = SplitImages | PixelCache | FeatureCache

TREATMENT = {"mask": "not used as negatives of each other", "soft": "used as positives of each other"}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a run's examples and images come from.

    Args:
        config: tells what is cached and how duplicates are treated.
        feeder: resizes the images.
        reporter: shows what is cached and the number of duplicates.
        frozen: gives what the frozen towers make of images and captions; None means that nothing is kept.
        parts: how a stream is divided.
    """

    config: TrainConfig
    feeder: Feeder
    reporter: Reporter
    frozen: FrozenTowers | None = None
    parts: Turns = WHOLE

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
            return CaptionedStream(split, config.seed, parts=self.parts)
        mode = self._mode_of_training()
        again, still = seen > len(split.images), config.augment == "off"
        images: Images | None = self._features(split, mode, again=again) if still else None
        if images is None:
            images = self._images(split, mode, again=again)
        compared = config.duplicates != "off" and self._protocol == "text"
        digests = _digests(split) if compared else []
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
        features = self._features(split, mode, again=True)
        return self._images(split, mode, again=True) if features is None else features

    def measured_once(self, split: Gallery) -> Sequence[Any]:
        """The images of a split that is measured once, or their features where these are asked for or known already.

        The first process calls this alone.
        """
        if self.frozen is None or "vision" not in self.frozen.trunks:
            return split.images
        features = self.frozen.images(split.images, split.image_digests, again=False)
        return split.images if features is None else features

    def feeder_for(self, splits: Mapping[str, Gallery | IterableDataset], *, seen: int) -> Feeder:
        """The feeder, with the features of the captions where a frozen text tower encodes them once.

        Args:
            splits: by name.
            seen: how many captions of the training split the run reads, counting repetitions.

        Raises:
            UsageError: features are to be kept, and cannot be.
        """
        if self.frozen is None:
            return self.feeder
        texts = {name: split.captions.texts for name, split in splits.items() if isinstance(split, Gallery)}
        again = {name: name == "validation" or (name == "train" and seen > len(of)) for name, of in texts.items()}
        known = [self.frozen.captions(of, again=again[name]) for name, of in texts.items()]
        return with_caption_features(self.feeder, known)

    def _mode_of_training(self) -> CacheMode:
        mode = self.config.cache_images
        if self.config.augment == "off":
            return mode
        if self.frozen is not None and "vision" in self.frozen.trunks:
            self.reporter.note(
                "augmentation changes the images in every epoch, so the frozen vision tower encodes those of the training "
                "split in every step"
            )
        if mode != "off":
            self.reporter.note(
                "augmentation needs the original images, so the images of the training split are not cached"
            )
        return "off"

    def _features(self, split: Gallery, mode: CacheMode, *, again: bool) -> FeatureCache | None:
        if self.frozen is None or "vision" not in self.frozen.trunks:
            return None
        # Every process asks for them, whichever fills the cache: the digests are made on the first one.
        source, digests = self._images(split, mode, again=mode == "on"), _digests(split)
        return self.frozen.images(source, digests, again=again)

    def _images(self, split: Gallery, mode: CacheMode, *, again: bool) -> Images:
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
        path = cache_path(_digests(split), pixels)
        workers, reporter = self.config.workers, self.reporter
        cached = cached_images(images, path, pixels, mode, worth_filling=again, workers=workers, reporter=reporter)
        return images if cached is None else cached

    def _duplicates(self, split: Gallery, digests: Sequence[bytes]) -> Duplicates:
        judged = None if split.judged is None else split.judged.right
        if self._protocol == "pair":
            self.reporter.note(
                "a caption is right only for its own image (--relevance pair): the loss takes the same caption of "
                "another image for a wrong answer"
            )
            pairs = split.relevance("pair")
            return Duplicates(pairs if judged is None else pairs.also(judged))
        groups, distance = same_content(digests), self.config.near_duplicates
        if distance is not None:
            groups = same_look(groups, on_first_process(lambda: image_hashes(split.images.rows)), distance)
        duplicates = Duplicates.of(groups, split.captions, judged)
        self.reporter.note(
            f"{duplicates.counted()}: they are {TREATMENT[self.config.duplicates]}, and kept in different batches where possible"
        )
        return duplicates


def _digests(split: Gallery) -> list[bytes]:
    return on_first_process(lambda: split.image_digests)
