"""Turn rows of a split into a batch of model inputs: choose captions, decode, preprocess.

The sampler sends the epoch with every index, so that it reaches workers that were
started in an earlier epoch or fetch ahead, on every process, and after a resume, without shared state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from typing_extensions import override

from icclip.config import Augmentation, CaptionPolicy
from icclip.data.split import decode_cell
from icclip.models.feeder import Feeder
from icclip.retrieval.captions import CaptionMap
from icclip.training.feeding.augmentation import light
from icclip.training.feeding.duplicates import Answers, Duplicates, Shared, kept_apart, stable_int

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

IDS = "pair_ids"
"""Key in a batch of the ids of caption, image and further right captions, int64 [b, 2 or more].

`icclip.training.step.targets` says which pairs are then no negatives of each other.
"""
NONE = -1
"""An id that no other agrees with."""


@dataclass(frozen=True, slots=True)
class Undecoded:
    """An image of a stream. Only the process that trains on it decodes it, though all of them read it."""

    cell: Mapping[str, Any]
    """`{"bytes", "path"}`"""
    where: str
    """For messages."""

    def decoded(self) -> Image:
        """RGB, the right way up. Raises DataError where it cannot be read."""
        return decode_cell(self.cell, self.where)


@dataclass(frozen=True, slots=True)
class Example:
    """One image with all its captions, as it is read in one epoch."""

    epoch: int
    row: int
    """Identifies the image within the split."""
    image: Image | np.ndarray | Undecoded
    """An RGB image, or one that is already resized, uint8 [3, h, w]."""
    captions: Sequence[str]
    answers: Answers
    """Which numbers stand for the image and its captions, and what else is right for it."""
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
        duplicates: what the images have in common; None: as far as their own captions say.
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
        captions = self.captions.texts[start:end]
        known = Answers.of_captions(captions, row) if self.duplicates is None else self.duplicates.answers(row)
        return Example(epoch, row, self.images[row], captions, known)


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


class Collator:
    """Turns examples into a batch of model inputs, with ids that tell which pairs are not negatives.

    The caption and augmentation of an image depend on (seed, epoch, row): they change from epoch to
    epoch, and do not depend on the number of workers and processes.

    Args:
        feeder: makes the model's inputs.
        seed: the seed of the random choices.
        captions: how a caption is chosen if the example does not name one.
        augment: how images are augmented.
        by_length: whether the pairs of a batch come in the order of their captions' lengths, so that micro-batches of
            them need little padding.
    """

    def __init__(
        self,
        feeder: Feeder,
        seed: int,
        *,
        captions: CaptionPolicy = "random",
        augment: Augmentation = "off",
        by_length: bool = False,
    ) -> None:
        self.feeder, self.seed, self.captions, self.augment = feeder, seed, captions, augment
        self.by_length = by_length

    def __call__(self, examples: Sequence[Example | None]) -> dict[str, Tensor]:
        """Examples [b] -> the inputs of both towers, and the ids under IDS; nothing for what a worker sends at its end."""
        pairs = [(example, self.choose(example)) for example in examples if example is not None]
        if not pairs:
            return {}
        if self.by_length:
            pairs.sort(key=lambda pair: self.feeder.length(pair[0].captions[pair[1]]))
        there, chosen = map(list, zip(*pairs, strict=True))
        batch = self.feeder.image_inputs([self.picture(example) for example in there])
        batch.update(self.feeder.text_inputs([example.captions[caption] for example, caption in pairs]))
        batch[IDS] = as_ids([one.answers for one in there], chosen)
        return batch

    def choose(self, example: Example) -> int:
        """Which caption of this image in this epoch: the one the example names, the next in turn, or a random one."""
        if example.caption is not None:
            return example.caption
        in_turn = self.captions == "round-robin"
        number = example.epoch + example.row if in_turn else stable_int(self.seed, example.epoch, example.row)
        return number % len(example.captions)

    def picture(self, example: Example) -> Image | np.ndarray:
        """The image, augmented for this epoch. Raises DataError where one of a stream cannot be read."""
        image = example.image.decoded() if isinstance(example.image, Undecoded) else example.image
        if self.augment == "off":
            return image
        # Cached images are already cropped, so there is no cache if images are augmented.
        return light(cast("Image", image), example.captions, stable_int("light", self.seed, example.epoch, example.row))


def as_ids(answers: Sequence[Answers], chosen: Sequence[int]) -> Tensor:
    """What IDS stands for, int64 [b, 2 + the further captions of the image that has most]; -1 where one has fewer.

    Args:
        answers: of the images of a batch.
        chosen: which of its captions each is shown with.
    """
    ids = []
    for one, caption in zip(answers, chosen, strict=True):
        shown = one.captions[caption]
        ids.append([shown, one.image, *(text for text in one.right if text != shown)])
    width = max(map(len, ids))
    return torch.tensor([row + [NONE] * (width - len(row)) for row in ids], dtype=torch.int64)


def split_batch(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Split a batch into the model's inputs and the pairs' ids."""
    return {name: value for name, value in batch.items() if name != IDS}, batch[IDS]
