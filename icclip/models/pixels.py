"""Split an image processor's work in two: resizing where images are read, and normalising on the model's device.

Resizing and cropping end in 8-bit levels, and the rescaled and normalised value of a level depends only on
its channel. Therefore batches are sent and cached as uint8, a quarter of the size of floats. Nothing is
lost: the value of each level is taken from the processor itself, so the floats are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

LEVELS = 256
CHANNELS = 3


@dataclass(frozen=True)
class Pixels:
    """An image processor, split into `resized` and then `normalised`."""

    processor: Any
    """A transformers image processor."""
    levels: Tensor
    """The value of each 8-bit level of each channel, float32 [3, 256]."""
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, processor: Any) -> Self | None:
        """None if the processor cannot be split: it keeps the shape of images, pads them, or gives more than pixels."""
        probe = Image.fromarray(np.random.default_rng(0).integers(0, LEVELS, (48, 40, CHANNELS), dtype=np.uint8))
        try:
            whole = processor(images=[probe], return_tensors="pt")
            pixels = cls(processor, _levels(processor))
            same = whole.keys() == {"pixel_values"} and torch.equal(
                pixels.normalised(pixels.resized([probe])), whole["pixel_values"]
            )
        # A processor that knows none of these switches says so in a way of its own.
        except Exception:  # noqa: BLE001
            return None
        return pixels if same else None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the 8-bit levels, as values for JSON."""
        after = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        return {name: value for name, value in self.processor.to_dict().items() if name not in after}

    def resized(self, images: Sequence[Image.Image | np.ndarray]) -> Tensor:
        """Turn RGB images of any size, or images that are already resized, into uint8 [b, 3, h, w]."""
        rows = [image for image in images if isinstance(image, np.ndarray)]
        if rows:
            return torch.from_numpy(np.stack(rows))
        values: Tensor = _call(self.processor, images, do_rescale=False, do_normalize=False)
        if values.dtype != torch.uint8:
            raise TypeError(f"{type(self.processor).__name__} resizes to {values.dtype}")
        return values

    def normalised(self, pixels: Tensor) -> Tensor:
        """Turn uint8 [b, 3, h, w] into float32 [b, 3, h, w] on the same device."""
        if pixels.device.type == "cpu":
            return torch.from_numpy(_looked_up(pixels.numpy(), self.levels.numpy()))
        return self.indexed(pixels)

    def indexed(self, pixels: Tensor) -> Tensor:
        """Like `normalised`, in a way that works on any device."""
        if pixels.device not in self._tables:
            self._tables[pixels.device] = self.levels.flatten().to(pixels.device)
        starts = torch.arange(0, CHANNELS * LEVELS, LEVELS, device=pixels.device, dtype=torch.int32)
        return self._tables[pixels.device][pixels + starts[:, None, None]]

    def normalise_in(self, tower: nn.Module) -> None:
        """Let a vision tower accept uint8 `pixel_values` as well as floats: it normalises them first.

        Callers of the model need not know, and when a large batch is encoded in parts, only one part at a
        time is held as floats.
        """
        tower.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def _before_forward(self, _tower: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        return tuple(map(self._if_uint8, args)), {name: self._if_uint8(value) for name, value in kwargs.items()}

    def _if_uint8(self, value: Any) -> Any:
        return self.normalised(value) if isinstance(value, Tensor) and value.dtype == torch.uint8 else value


def _levels(processor: Any) -> Tensor:
    """Pass every level through the processor, one pixel each."""
    grey = np.arange(LEVELS, dtype=np.uint8).reshape(16, 16, 1).repeat(CHANNELS, axis=2)
    crop = {"do_center_crop": False} if getattr(processor, "do_center_crop", None) else {}
    values: Tensor = _call(processor, [Image.fromarray(grey)], do_resize=False, **crop)
    return values[0].reshape(CHANNELS, LEVELS)


def _call(processor: Any, images: Sequence[Any], **switches: bool) -> Any:
    return processor(images=list(images), return_tensors="pt", **axes(processor, images), **switches)["pixel_values"]


def axes(processor: Any, images: Sequence[Any]) -> dict[str, str]:
    """The order of axes to tell an image processor, but only if it would guess wrongly.

    transformers' processors for Pillow mistake an image that is 1 or 3 pixels high for one whose channels come first.
    """
    ambiguous = any(isinstance(image, Image.Image) and image.height in (1, CHANNELS) for image in images)
    return {"input_data_format": "channels_last"} if ambiguous and not getattr(processor, "is_fast", False) else {}


def _looked_up(pixels: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Look the values up; this is several times faster than torch's indexing, which needs wider integers."""
    result = np.empty(pixels.shape, np.float32)
    for image, target in zip(pixels, result, strict=True):
        for channel, table in enumerate(levels):
            # This mode does not check the indices, and so needs no copy of the output.
            np.take(table, image[channel], out=target[channel], mode="clip")
    return result
