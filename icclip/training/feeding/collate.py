"""From rows of a split to a batch of model inputs: choosing captions, decoding, preprocessing.

The epoch travels with every index that the sampler gives out. So it reaches workers that were
started in an earlier epoch or fetch ahead, on every process, and after a resume, without shared state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler
from typing_extensions import override

from icclip.config import Augmentation, CaptionPolicy
from icclip.data.split import decode_cell
from icclip.models.feeder import Feeder
from icclip.retrieval.captions import CaptionMap
from icclip.training.feeding.augmentation import light
from icclip.training.feeding.duplicates import Duplicates, Shared, caption_id, kept_apart, stable_int

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

IDS = "pair_ids"
"""Key in a batch of the ids of caption and image, int64 [b, 2]; pairs that share an id are not negatives."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image with all its captions, as it is read in one epoch."""

    epoch: int
    row: int
    """Identifies the image within the split."""
    image: Image | np.ndarray
    """An RGB image, or one that is already resized, uint8 [3, h, w]."""
    captions: Sequence[str]
    group: int
    """A number that identical images share."""
    caption: int | None = None
    """The index of the caption to train on; None lets the collator choose."""


class EpochSampler(Sampler[tuple[int, int]]):
    """All rows in an order that depends on the seed and the epoch alone: (epoch, row).

    Args:
        rows: the number of rows.
        seed: decides the order together with the epoch.
        shared: for each row, what it shares with others; such rows are kept apart where possible.
        step: how many consecutive rows a step compares with each other.
    """

    def __init__(self, rows: int, seed: int, shared: Shared | None = None, step: int = 1) -> None:
        self.rows, self.seed, self.shared, self.step = rows, seed, shared, step
        # Set before each epoch. A method `set_epoch` would be called by accelerate too, which counts from
        # zero again after a resume.
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed(stable_int(self.seed, epoch) % 2**63)
        order = torch.randperm(self.rows, generator=generator).tolist()
        if self.shared is not None:
            order = kept_apart(order, self.shared, self.step)
        for row in order:
            yield epoch, row

    def __len__(self) -> int:
        return self.rows


class CaptionedImages(Dataset[Example]):
    """A split, indexed by (epoch, row); images are decoded, or read from a cache, when asked for.

    Args:
        images: RGB, or already resized; decoded when asked for.
        captions: the captions of the images.
        duplicates: which images are the same; None: none are.
    """

    def __init__(
        self,
        images: Sequence[Image] | Sequence[np.ndarray],
        captions: CaptionMap,
        duplicates: Duplicates | None = None,
    ) -> None:
        self.images, self.captions, self.duplicates = images, captions, duplicates

    def __len__(self) -> int:
        return self.captions.n_images

    def shared(self) -> Shared | None:
        """What its rows share with each other; None if that is not known."""
        return None if self.duplicates is None else self.duplicates.shared_by_images()

    def __getitem__(self, index: tuple[int, int]) -> Example:
        epoch, row = index
        start, end = self.captions.offsets[row : row + 2]
        group = row if self.duplicates is None else self.duplicates.group(row)
        return Example(epoch, row, self.images[row], self.captions.texts[start:end], group)


class CaptionedPairs(CaptionedImages):
    """A split, indexed by (epoch, text): every caption is trained on once in every epoch, with its image."""

    def __init__(
        self,
        images: Sequence[Image] | Sequence[np.ndarray],
        captions: CaptionMap,
        duplicates: Duplicates | None = None,
    ) -> None:
        super().__init__(images, captions, duplicates)
        self._image_of_text = captions.image_of_text

    def __len__(self) -> int:
        return self.captions.n_texts

    @override
    def shared(self) -> Shared | None:
        return None if self.duplicates is None else self.duplicates.shared_by_texts()

    def __getitem__(self, index: tuple[int, int]) -> Example:
        epoch, text = index
        row = int(self._image_of_text[text])
        return dataclasses.replace(super().__getitem__((epoch, row)), caption=text - int(self.captions.offsets[row]))


class CaptionedStream(IterableDataset[Example]):
    """A split without known length, in the order in which it comes after shuffling in a buffer.

    Rows have no number there: the captions stand in for it, so that neither the number of processes
    nor that of workers changes which caption is chosen.
    """

    def __init__(self, stream: Any, seed: int, buffer: int = 1000) -> None:
        self.stream = stream.shuffle(seed=seed, buffer_size=buffer)
        self.epoch = 0  # as EpochSampler's

    def __iter__(self) -> Iterator[Example]:
        self.stream.set_epoch(self.epoch)
        for position, item in enumerate(self.stream):
            captions = item["captions"]
            image = decode_cell(item["image"], f"row {position} of the shuffled stream")
            row = stable_int(*captions)
            yield Example(self.epoch, row, image, captions, row)


class Collator:
    """Turns examples into a batch of model inputs, with the ids that say which pairs are not negatives.

    The caption and augmentation of an image depend on (seed, epoch, row): they change from epoch to
    epoch, and do not depend on the number of workers and processes.

    Args:
        feeder: makes the model's inputs.
        seed: of the random choices.
        captions: how a caption is chosen if the example does not say which.
        augment: how images are augmented.
    """

    def __init__(
        self,
        feeder: Feeder,
        seed: int,
        *,
        captions: CaptionPolicy = "random",
        augment: Augmentation = "off",
    ) -> None:
        self.feeder, self.seed, self.captions, self.augment = feeder, seed, captions, augment

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Examples [b] -> the inputs of both towers, and the ids under IDS."""
        captions = [self.choose(example) for example in examples]
        ids = [(caption_id(caption), example.group) for caption, example in zip(captions, examples, strict=True)]
        batch = self.feeder.image_inputs([self.picture(example) for example in examples])
        batch.update(self.feeder.text_inputs(captions))
        batch[IDS] = torch.tensor(ids, dtype=torch.int64)
        return batch

    def choose(self, example: Example) -> str:
        """The caption of this image in this epoch: the one the example names, the next in turn, or a random one."""
        if example.caption is not None:
            return example.captions[example.caption]
        in_turn = self.captions == "round-robin"
        number = example.epoch + example.row if in_turn else stable_int(self.seed, example.epoch, example.row)
        return example.captions[number % len(example.captions)]

    def picture(self, example: Example) -> Image | np.ndarray:
        """The image, augmented for this epoch."""
        if self.augment == "off":
            return example.image
        # What a cache holds is cropped already: where images are augmented there is none.
        return light(
            cast("Image", example.image), example.captions, stable_int("light", self.seed, example.epoch, example.row)
        )


def split_batch(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """A batch -> (the model's inputs, the pairs' ids)."""
    return {name: value for name, value in batch.items() if name != IDS}, batch[IDS]
