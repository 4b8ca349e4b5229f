"""Any image that Pillow can read -> 8-bit RGB, the right way up."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from icclip.errors import DataError

# Pillow warns above its limit and refuses above twice the limit. decode_image refuses above the
# limit by itself; the warning would only add noise. Entering `warnings.catch_warnings` for each
# image instead is not safe where several threads decode.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Modes of 16-bit greyscale; older Pillows open 16-bit PNGs as `I`."""


def decode_image(
    source: bytes | Path | Image.Image,
    where: str,
    *,
    at_least: tuple[int, int] | None = None,
    admit: Callable[[tuple[int, int]], None] | None = None,
) -> Image.Image:
    """Decode to mode RGB and rotate as the EXIF orientation says.

    Of an animation the first frame is taken; 16-bit greys are scaled to 8 bits. Transparency is
    dropped, not composited on a colour: that is what `convert("RGB")` does in transformers' image
    processors, so that pretrained models see the pixels they were trained and measured on.

    Args:
        source: the content of an image file, its path, or an image that is open already (kept as it is).
        where: names the image in messages.
        at_least: a width and height that will do. A larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size,
            which is faster and gives other pixels than decoding and scaling it.
        admit: is told the width and height before any pixel is decoded, and raises DataError to refuse them.

    Raises:
        DataError: it is missing, empty, truncated, no image, or larger than Pillow's limit
            (`PIL.Image.MAX_IMAGE_PIXELS`, a guard against decompression bombs).
    """
    try:
        if isinstance(source, Image.Image):
            _admit(source, admit)
            image = source.copy()
        else:
            image = _open(source, where)
            _admit(image, admit)
        if at_least is not None:
            image.draft("RGB", at_least)
        image.load()
        _rotate(image)
        return _to_rgb(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(_bomb(where)) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: not an image that Pillow can read") from error
    # Pillow's decoders raise whatever a corrupt file leads them into: OSError, SyntaxError, struct.error...
    except Exception as error:
        raise DataError(f"{where}: the image is corrupt or truncated ({' '.join(str(error).split())})") from error


def _admit(image: Image.Image, admit: Callable[[tuple[int, int]], None] | None) -> None:
    if admit is not None:
        admit(image.size)


def _open(source: bytes | Path, where: str) -> Image.Image:
    content = source if isinstance(source, bytes) else read_file(source, where)
    if not content:
        raise DataError(f"{where}: the image is empty (0 bytes)")
    image = Image.open(io.BytesIO(content))
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise DataError(_bomb(where))
    return image


def read_file(path: Path, where: str) -> bytes:
    """The content of an image file. Raises DataError, with `where` in its message, if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: cannot read {path}: {error.strerror}") from error


def _bomb(where: str) -> str:
    return f"{where}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, refused as a decompression bomb; scale it down"


def _rotate(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    # The pixels are decoded by now: damaged EXIF data costs the orientation, not the image.
    except Exception:  # noqa: BLE001
        return


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT_MODES:
        # convert() would clip to 255 and turn nearly every pixel white.
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        # The same colours, without Pillow's warning about palettes with transparency.
        image = image.convert("RGBA")
    return image.convert("RGB")
