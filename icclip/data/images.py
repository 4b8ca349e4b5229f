"""Decode any image that Pillow can read to 8-bit RGB, the right way up."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from icclip.data.foreign import regular_file
from icclip.errors import DataError

# Pillow warns above its limit and refuses above twice the limit. decode_image refuses above the
# limit by itself; the warning would only add noise. Entering `warnings.catch_warnings` for each
# image instead is not safe where several threads decode.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

LARGE = 24_000_000
"""The number of pixels above which an image is halved first. An image of 9,000 x 9,000 pixels would take 1.2 GB in
every worker, and no model looks at more than a few hundred pixels per side."""

ENCODINGS_OF_PLUGINS = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"mif1": "HEIC",
    b"heim": "HEIC",
    b"avif": "AVIF",
    b"avis": "AVIF",
}
"""Bytes 8 to 12 of files that some builds of Pillow cannot read."""

_FORMATS = {"HEIC": "HEIF", "AVIF": "AVIF"}
"""What Pillow calls them once it can read them."""

AVERAGED = frozenset({"L", "RGB", "CMYK", "YCbCr"})
"""Modes whose pixels can be averaged directly, because they have no transparency or palette."""
ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""

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

    The first frame of an animation is used, and 16-bit greys are scaled to 8 bits. Transparency is dropped instead of
    composited on a colour, as `convert("RGB")` does in transformers' image processors, so that pretrained models see
    the pixels that they were trained and measured on. An image of more than LARGE pixels is reduced to a half, a
    quarter and so on.

    Args:
        source: the content of an image file, its path, or an opened image (which is not changed).
        where: the name of the image in messages.
        at_least: a sufficient width and height. A larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size,
            which is faster, but gives other pixels than decoding and scaling it.
        admit: called with the width and height before any pixel is decoded, and raises DataError to refuse them.

    Raises:
        DataError: the file is missing, empty, truncated, not an image, or larger than Pillow's limit
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
        return _to_rgb(_rotated(_halved(image)))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(_bomb(where)) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: {_not_readable(source)}") from error
    # Pillow's decoders may raise any exception for a corrupt file: OSError, SyntaxError, struct.error...
    except Exception as error:
        raise DataError(f"{where}: the image is corrupt or truncated ({' '.join(str(error).split())})") from error


def needs_nothing(image: Image.Image) -> bool:
    """Whether `decode_image` would give the pixels of an opened image as they are."""
    small = image.width * image.height <= LARGE
    return small and image.mode == "RGB" and _orientation(image) in (None, 1)


def _admit(image: Image.Image, admit: Callable[[tuple[int, int]], None] | None) -> None:
    if admit is not None:
        admit(image.size)


def _open(source: bytes | Path, where: str) -> Image.Image:
    content = source if isinstance(source, bytes) else read_file(source, where)
    if not content:
        raise DataError(f"{where}: the image is empty (0 bytes)")
    if content[4:8] == b"ftyp" and ENCODINGS_OF_PLUGINS.get(content[8:12]) == "HEIC":
        _register_heif()
    image = Image.open(io.BytesIO(content))
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise DataError(_bomb(where))
    return image


@cache
def _register_heif() -> None:
    """Register HEIC with Pillow if the package for it is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


def read_file(path: Path, where: str) -> bytes:
    """Read the content of an image file. Raises DataError, with `where` in its message, if it cannot be read."""
    try:
        if not path.exists():
            raise DataError(f"{where}: cannot read {path}: No such file or directory")
        return regular_file(path, where).read_bytes()
    except OSError as error:
        raise DataError(f"{where}: cannot read {path!s:.200}: {error.strerror}") from error


def _bomb(where: str) -> str:
    return f"{where}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, refused as a decompression bomb; scale it down"


def _not_readable(source: bytes | Path | Image.Image) -> str:
    head = source if isinstance(source, bytes) else read_file(source, str(source)) if isinstance(source, Path) else b""
    kind = ENCODINGS_OF_PLUGINS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    if kind is not None and _FORMATS[kind] in Image.OPEN:
        return f"the {kind} image is corrupt or truncated"
    if kind == "HEIC":
        return "a HEIC image, which needs a plugin: pip install pillow-heif, or convert it to JPEG"
    if kind == "AVIF":
        return "an AVIF image, which Pillow reads from 11.3 on: pip install 'pillow>=11.3', or convert it to JPEG"
    return "not an image that Pillow can read"


def _halved(image: Image.Image) -> Image.Image:
    """Decode the image; a large one is decoded at a smaller scale if possible, or else averaged down."""
    factor = 1
    while image.width * image.height > LARGE * factor * factor:
        factor *= 2
    if factor > 1:
        image.draft(None, (-(-image.width // factor), -(-image.height // factor)))
    image.load()
    while image.width * image.height > LARGE:
        image = _reduced(image)
    return image


def _reduced(image: Image.Image) -> Image.Image:
    """Reduce the image to half its width and height, keeping its orientation."""
    orientation = _orientation(image)
    smaller = (image if image.mode in AVERAGED else _to_rgb(image)).reduce(2)
    if orientation is not None:
        smaller.getexif()[ORIENTATION] = orientation
    return smaller


def _orientation(image: Image.Image) -> int | None:
    try:
        found = image.getexif().get(ORIENTATION)
    # As in _rotated.
    except Exception:  # noqa: BLE001
        return None
    return found if isinstance(found, int) else None


def _rotated(image: Image.Image) -> Image.Image:
    # The pixels are already decoded, so damaged EXIF data only loses the orientation, not the image.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT_MODES:
        # convert() would clip to 255 and turn nearly every pixel white.
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        # The same colours, without Pillow's warning about palettes with transparency.
        image = image.convert("RGBA")
    # convert() would copy an image that is in this mode already.
    return image if image.mode == "RGB" else image.convert("RGB")
