"""From rows of a split to a batch of model inputs: choosing captions, decoding, preprocessing.

The epoch travels with every index that the sampler gives out. So it reaches workers that were
started in an earlier epoch or fetch ahead, on every process, and after a resume, without shared state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler

from icclip.config import Augmentation, CaptionPolicy
from icclip.data.augmentation import light
from icclip.data.captions import CaptionMap
from icclip.data.split import decode_cell
from icclip.models.loaded import LoadedModel

if TYPE_CHECKING:
    from PIL.Image import Image

IDS = "pair_ids"
"""Of a batch: int64 [b, 2], the ids of caption and image; pairs that share either are no negatives."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image with all its captions, as asked for in one epoch."""

    epoch: int
    row: int
    """Identifies the image within the split."""
    image: Image
    captions: Sequence[str]
    caption: int | None = None
    """Which of them it is about; None: the collator chooses."""


class EpochSampler(Sampler[tuple[int, int]]):
    """All rows in an order that depends on the seed and the epoch alone: (epoch, row)."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        # Set before each epoch. A method `set_epoch` would be called by accelerate too, which counts from
        # zero again after a resume.
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed(_stable_int(self.seed, epoch) % 2**63)
        for row in torch.randperm(self.rows, generator=generator).tolist():
            yield epoch, row

    def __len__(self) -> int:
        return self.rows


class CaptionedImages(Dataset[Example]):
    """A split, indexed by (epoch, row); images are decoded when asked for."""

    def __init__(self, images: Sequence[Image], captions: CaptionMap) -> None:
        self.images, self.captions = images, captions

    def __len__(self) -> int:
        return self.captions.n_images

    def __getitem__(self, index: tuple[int, int]) -> Example:
        epoch, row = index
        start, end = self.captions.offsets[row : row + 2]
        return Example(epoch, row, self.images[row], self.captions.texts[start:end])


class CaptionedPairs(CaptionedImages):
    """A split, indexed by (epoch, text): every caption has its turn in every epoch, with its image."""

    def __init__(self, images: Sequence[Image], captions: CaptionMap) -> None:
        super().__init__(images, captions)
        self._image_of_text = captions.image_of_text

    def __len__(self) -> int:
        return self.captions.n_texts

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
            yield Example(self.epoch, _stable_int(*captions), image, captions)


class Collator:
    """Turns examples into a batch of inputs for the model, and the ids that say what is no negative.

    Caption and augmentation of an image depend on (seed, epoch, row): others each epoch, the same ones
    whatever the number of workers and processes.

    Args:
        loaded: knows the inputs of its model.
        seed: of what is left to chance.
        captions: how one is chosen where an example does not say which.
        augment: what is done to images.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        seed: int,
        *,
        captions: CaptionPolicy = "random",
        augment: Augmentation = "off",
    ) -> None:
        # Workers need the config only; the weights would be copied to those that are not forked.
        self.loaded = dataclasses.replace(loaded, model=SimpleNamespace(config=loaded.model.config))
        self.seed, self.captions, self.augment = seed, captions, augment

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Examples [b] -> the inputs of both towers, and IDS."""
        captions = [self.choose(example) for example in examples]
        ids = [(caption_id(caption), example.row) for caption, example in zip(captions, examples, strict=True)]
        batch = self.loaded.image_inputs([self.picture(example) for example in examples])
        batch.update(self.loaded.text_inputs(captions))
        batch[IDS] = torch.tensor(ids, dtype=torch.int64)
        return batch

    def choose(self, example: Example) -> str:
        """The caption of this image in this epoch: the one it is about, the next in turn, or one by chance."""
        if example.caption is not None:
            return example.captions[example.caption]
        in_turn = self.captions == "round-robin"
        number = example.epoch + example.row if in_turn else _stable_int(self.seed, example.epoch, example.row)
        return example.captions[number % len(example.captions)]

    def picture(self, example: Example) -> Image:
        """The image, as it is shown in this epoch."""
        if self.augment == "off":
            return example.image
        return light(example.image, example.captions, _stable_int("light", self.seed, example.epoch, example.row))


def split_batch(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """A batch -> (the model's inputs, the pairs' ids)."""
    return {name: value for name, value in batch.items() if name != IDS}, batch[IDS]


def caption_id(caption: str) -> int:
    """A number for a caption, the same for those that differ in case or white space only."""
    return _stable_int(" ".join(caption.casefold().split()))


def _stable_int(*parts: object) -> int:
    """A number in int64's positive range that is the same on every machine and in every process."""
    digest = blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
