"""Turn images into `pixel_values`, as transformers' CLIP and SigLIP image processors do.

The result equals that of the slow (PIL) processors bit for bit, except for extreme panoramas, which differ by at
most one grey level. The fast processors (torchvision) round differently and differ by about one grey level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from icclip.bundles.manifest import ImageInputs
from icclip.errors import CheckpointError, DataError
from icclip.runtime.inputs import Decoder, Images, Item, image_items
from icclip.runtime.limits import Budget, CallCount, CallLimitError, Limits
from icclip.runtime.results import Failure

MAX_LONG_SIDE = 32
"""If a resized image is longer than this many times the crop, only the part inside the crop is computed."""

_CONVNEXT_UNCROPPED, _CONVNEXT_SHARE = 384, 224 / 256
_GREY_LEVELS = 256
_CHANNELS = 3


def image_inputs_from(config: Mapping[str, Any], source: str) -> ImageInputs:
    """The values of a preprocessor_config.json; `source` is for messages.

    Raises:
        CheckpointError: the file has a setting that is not supported.
    """
    config = _IN_COMMON_TERMS.get(str(config.get("image_processor_type")).removesuffix("Fast"), dict)(config)
    size = _size(config.get("size"), "size", source, whole=not config.get("do_center_crop"))
    crop = _size(config.get("crop_size"), "crop_size", source, whole=True)
    if config.get("do_pad"):
        raise CheckpointError(f"{source}: do_pad is not supported; give a processor that resizes and crops")
    inputs = ImageInputs(
        processor=str(config.get("image_processor_type", "unknown")),
        **(size if config.get("do_resize", True) else {}),
        resample=config.get("resample", Image.Resampling.BICUBIC.value),
        crop_height=crop.get("height") if config.get("do_center_crop") else None,
        crop_width=crop.get("width") if config.get("do_center_crop") else None,
        rescale_factor=config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else None,
        mean=_triple(config, "image_mean"),
        std=_triple(config, "image_std"),
    )
    problems = inputs.problems()
    if problems:
        raise CheckpointError(f"{source}: {'; '.join(problems)}")
    return inputs


@dataclass(frozen=True)
class Preprocessor:
    """Decodes, resizes, crops and normalises. Safe to use from several threads at once."""

    inputs: ImageInputs
    levels: np.ndarray = field(init=False, repr=False)
    """float32 [3, 256]: what each grey level of each channel becomes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", _levels(self.inputs))

    def __call__(self, images: Images, pool: Executor | None = None, *, decoder: Decoder | None = None) -> np.ndarray:
        """Turn images into float32 [b, 3, h, w].

        Args:
            images: anything that `Encoder.encode_images` takes.
            pool: threads to work in, since PIL and numpy release the interpreter's lock; None works one by one.
            decoder: the decoder with its limits; None means the limits of `Limits()`.

        Raises:
            DataError: an image cannot be decoded.
        """
        items = list(image_items(images)[0])
        batch, failures = self.batch(items, decoder or _default_decoder(), pool)
        if failures:
            raise failures[0][1]
        return batch

    def batch(
        self, items: Sequence[Item], decoder: Decoder, pool: Executor | None = None
    ) -> tuple[np.ndarray, list[tuple[Failure, DataError]]]:
        """Turn the items that can be decoded into float32 [b, 3, h, w], in their order, and return the failures.

        Raises:
            CallLimitError: the call as a whole asks for too much.
        """
        batch = np.empty((len(items), _CHANNELS, *self.inputs.size), np.float32)

        def fill(row: int, item: Item) -> tuple[Failure, DataError] | None:
            try:
                decoder(item, lambda image: self._normalise(self._resized(image), batch[row]))
            except CallLimitError:
                raise
            except DataError as error:
                return Failure(item[0], str(error)), error
            return None

        run = map if pool is None else pool.map
        found = list(run(fill, range(len(items)), items))
        failures = [failure for failure in found if failure is not None]
        if failures:
            batch = batch[[row for row, failure in enumerate(found) if failure is None]]
        return batch, failures

    def _resized(self, image: Image.Image) -> Image.Image:
        """RGB of any size -> RGB of the model's size."""
        inputs = self.inputs
        width, height = _resized_size(image.size, inputs)
        if inputs.crop_height is None or inputs.crop_width is None:
            return image.resize((width, height), inputs.resample)
        crop = (inputs.crop_width, inputs.crop_height)
        if max(width / crop[0], height / crop[1]) > MAX_LONG_SIDE:
            return _resized_inside(image, (width, height), crop, inputs.resample)
        return _centre_crop(image.resize((width, height), inputs.resample), crop)

    def _normalise(self, image: Image.Image, out: np.ndarray) -> None:
        pixels = np.asarray(image)
        for channel, levels in enumerate(self.levels):
            # This mode does not check the indices, and so needs no copy of the output.
            np.take(levels, pixels[:, :, channel], out=out[channel], mode="clip")


def _default_decoder() -> Decoder:
    limits = Limits()
    return Decoder(limits, Budget(limits.pixels_at_once), CallCount(limits.pixels_per_call))


def _resized_size(size: tuple[int, int], inputs: ImageInputs) -> tuple[int, int]:
    """(width, height) after resizing, rounded as transformers' `get_resize_output_image_size` does."""
    width, height = size
    if inputs.shortest_edge is not None:
        short = inputs.shortest_edge
        long = int(short * max(size) / min(size))
        return (short, long) if width <= height else (long, short)
    return (inputs.width or width, inputs.height or height)


def _centre_crop(image: Image.Image, crop: tuple[int, int]) -> Image.Image:
    """`crop` is (width, height); what lies outside the image is black, as in transformers' `center_crop`."""
    left, top = ((have - want) // 2 for have, want in zip(image.size, crop, strict=True))
    return image.crop((left, top, left + crop[0], top + crop[1]))


def _resized_inside(image: Image.Image, size: tuple[int, int], crop: tuple[int, int], resample: int) -> Image.Image:
    """Resize only the part inside the centre crop, because resizing all of a line of pixels would take gigabytes."""
    (left, right), (top, bottom) = (_source_span(*sides) for sides in zip(image.size, size, crop, strict=True))
    inner = (min(size[0], crop[0]), min(size[1], crop[1]))
    # Resized in two steps, because Pillow rounds after each direction and may choose another order for a box.
    wide = image.resize((inner[0], image.height), resample, box=(left, 0, right, image.height))
    return _centre_crop(wide.resize(inner, resample, box=(0, top, inner[0], bottom)), crop)


def _source_span(original: int, resized: int, crop: int) -> tuple[float, float]:
    """Where the centre crop of a side lies before resizing."""
    start, length = max(0, (resized - crop) // 2), min(resized, crop)
    return start * original / resized, (start + length) * original / resized


def _levels(inputs: ImageInputs) -> np.ndarray:
    """The same operations in the same types as transformers: rescale in float64, normalise in float32."""
    grey = np.arange(_GREY_LEVELS, dtype=np.float64)
    levels = np.tile((grey * (inputs.rescale_factor or 1.0)).astype(np.float32), (_CHANNELS, 1))
    if inputs.mean is None or inputs.std is None:
        return levels
    mean, std = (np.array(v, np.float32)[:, None] for v in (inputs.mean, inputs.std))
    normalised: np.ndarray = (levels - mean) / std
    return normalised


def _convnext(config: Mapping[str, Any]) -> dict[str, Any]:
    """ConvNeXt's names the side of the crop, and what share of the resized image it is; large images are not cropped."""
    size = config.get("size") or {}
    side = size if isinstance(size, int) else size.get("shortest_edge")
    if side is None:
        return dict(config)
    square = {"height": side, "width": side}
    if side >= _CONVNEXT_UNCROPPED:
        return {**config, "size": square, "do_center_crop": False}
    edge = int(side / (config.get("crop_pct") or _CONVNEXT_SHARE))
    return {**config, "size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": square}


def _efficientnet(config: Mapping[str, Any]) -> dict[str, Any]:
    """EfficientNet's may shift the rescaled levels by -1, and divide by the standard deviation twice."""
    mean, std = _triple(config, "image_mean"), _triple(config, "image_std")
    if mean is None or std is None:
        return dict(config)
    shift, power = bool(config.get("rescale_offset")), 2 if config.get("include_top") else 1
    return {**config, "image_mean": [value + shift for value in mean], "image_std": [value**power for value in std]}


_IN_COMMON_TERMS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "ConvNextImageProcessor": _convnext,
    "EfficientNetImageProcessor": _efficientnet,
}
"""How settings that only these image processors have are expressed in the settings of all others."""


def _size(value: Any, key: str, source: str, *, whole: bool) -> dict[str, int]:
    """A size as transformers writes it; a lone number is a square where `whole`, else the shortest edge."""
    if value is None:
        return {}
    if isinstance(value, int):
        return {"height": value, "width": value} if whole else {"shortest_edge": value}
    given = {name: side for name, side in value.items() if side is not None}
    if given.keys() not in ({"shortest_edge"}, {"height", "width"}):
        raise CheckpointError(
            f"{source}: {key} {dict(value)} is not supported; give shortest_edge, or height and width"
        )
    return given


def _triple(config: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    if not config.get("do_normalize", True) or config.get(key) is None:
        return None
    value = config[key]
    return (value,) * _CHANNELS if isinstance(value, float) else tuple(value)
