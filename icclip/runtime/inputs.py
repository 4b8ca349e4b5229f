"""The door of the runtime: it turns whatever callers give into items to encode, or reports in one line what is wrong.

Code behind this door trusts its items. Every message has a bounded length, names the row and shows what was given.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from icclip.data.images import decode_image, needs_nothing
from icclip.errors import DataError, IcclipError, InputTypeError, InputValueError, shorten
from icclip.runtime.limits import Budget, CallCount, CallLimitError, Limits
from icclip.runtime.results import ON_ERROR


class Readable(Protocol):
    """A file that is open for reading bytes: `open(path, "rb")`, `io.BytesIO`, an upload of a web framework."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`."""


ImageSource = Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray | Readable
"""A PIL image of any mode, a path, the content of an image file, an open file, or uint8 [h, w, 3] or [h, w]."""
Images = ImageSource | Iterable[ImageSource]
"""One image, or any iterable of images; uint8 [n, h, w, 3] is n images."""
Texts = str | Iterable[str]
"""One text, or any iterable of texts."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_CHANNELS = 3
_SHOWN = 80
_OF_OBJECTS = "OU"
"""Kinds of arrays that hold Python objects or texts; they are treated as sequences, because they may hold paths."""


Item = tuple[int, Callable[[], Any]]
"""A row and a function that returns its input; a lazy sequence is read in a worker thread."""


def check_on_error(errors: object) -> None:
    """Raise InputTypeError or InputValueError if `errors` is not one of `OnError`."""
    if not isinstance(errors, str):
        raise InputTypeError(f"errors is of type {_kind(errors)}: give one of {', '.join(map(repr, ON_ERROR))}")
    if errors not in ON_ERROR:
        raise InputValueError(f"errors is {_shown(errors)}: give one of {', '.join(map(repr, ON_ERROR))}")


# Images -------------------------------------------------------------------------------------------


def image_items(images: object) -> tuple[Iterator[Item], int | None]:
    """The items of `Images`, and their number if it is known.

    Raises:
        InputTypeError: it is neither an image nor an iterable of images.
        InputValueError: it is an array of another shape.
    """
    if is_one_image(images):
        return iter([(0, lambda: images)]), 1
    if isinstance(images, np.ndarray) and images.ndim == _CHANNELS + 1:
        return _indexed(images)
    if isinstance(images, np.ndarray) and images.dtype.kind not in _OF_OBJECTS:
        raise InputValueError(_array_problem(images, "images"))
    return _items(images, "images", "an image or an iterable of images")


def is_one_image(images: object) -> bool:
    """Whether this is a single image; an array is one if it has 2 dimensions, or 3 with colour as the last."""
    if isinstance(images, np.ndarray):
        return images.dtype.kind not in _OF_OBJECTS and (
            images.ndim == 2 or (images.ndim == _CHANNELS and images.shape[-1] == _CHANNELS)  # noqa: PLR2004  [h, w]
        )
    return isinstance(images, Image.Image | str | os.PathLike | bytes | bytearray | memoryview) or hasattr(
        images, "read"
    )


def one_image(image: object) -> Any:
    """The item of a single image. Raises InputTypeError for anything else."""
    if not is_one_image(image):
        raise InputTypeError(f"image is of type {_kind(image)}: give one image: {_TAKEN}")
    return image


class Decoder:
    """Decodes the images of one call to RGB, within the limits. Safe to use from several threads at once."""

    def __init__(self, limits: Limits, budget: Budget, count: CallCount) -> None:
        self.limits, self.budget, self.count = limits, budget, count

    def __call__(self, item: Item, use: Callable[[Image.Image], None]) -> None:
        """Decode an item, and let it be used while its pixels are counted.

        Raises:
            InputTypeError: it is not an image. InputValueError: it cannot be decoded, or is too large.
            CallLimitError: the call as a whole is too large.
        """
        row, give = item
        where = f"image {row}"
        source = _asked_for(give)
        with _one_at_a_time(source):
            content, where = self._content(source, where)
        if isinstance(content, Image.Image):
            size = _size(content, where)
            self._admit(size, where)
        else:
            size = _encoded_size(content)
        # A header with a size beyond the limits is refused before anything is decoded or waited for.
        pixels = min(size[0] * size[1], self.limits.pixels_per_image)
        with self.budget.hold(pixels), _as_input_error(where):
            use(self._decoded(content, where))

    def _decoded(self, content: bytes | Image.Image, where: str) -> Image.Image:
        if isinstance(content, bytes):
            return decode_image(content, where, admit=lambda size: self._admit(size, where))
        # Pillow reads the pixels of an opened file when they are first used.
        with _one_at_a_time(content):
            content.load()
            # It is only read from here on, so that no copy is needed.
            return content if needs_nothing(content) else decode_image(content, where)

    def _content(self, source: Any, where: str) -> tuple[bytes | Image.Image, str]:
        if isinstance(source, Image.Image):
            return source, where
        if isinstance(source, np.ndarray):
            return _of_array(source, where), where
        if isinstance(source, bytes | bytearray | memoryview):
            return self._bounded(bytes(source), where), where
        if isinstance(source, str | os.PathLike):
            return self._read_path(source, where)
        if hasattr(source, "read"):
            return self._bounded(self._read_file(source, where), where), where
        raise InputTypeError(f"{where} is of type {_kind(source)}: give {_TAKEN}")

    def _read_path(self, source: str | os.PathLike[str], where: str) -> tuple[bytes, str]:
        name = os.fspath(source)
        if not isinstance(name, str):
            raise InputTypeError(f"{where} is a path of bytes: give it as text, {_TAKEN}")
        where = f"{where} ({_short(name)})"
        if name[:5].lower() == "data:":
            raise InputValueError(f"{where}: a data URL is not a path: decode its base64 and give the bytes")
        if _ADDRESS.match(name):
            raise InputValueError(f"{where}: a URL is not a path: download it and give the bytes or the file's path")
        try:
            path = Path(name)
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise InputValueError(f"{where}: not a file but {_what(status.st_mode)}")
            self._check_bytes(status.st_size, where)
            return path.read_bytes(), where
        except OSError as error:
            raise InputValueError(f"{where}: cannot read it: {error.strerror or 'error'}") from error
        except ValueError as error:
            if isinstance(error, IcclipError):
                raise
            raise InputValueError(f"{where}: cannot be a path ({shorten(str(error), _SHOWN)})") from error

    def _read_file(self, source: Any, where: str) -> bytes:
        try:
            if hasattr(source, "seek"):
                source.seek(0)
            content = source.read(self.limits.bytes_per_image + 1)
        # Uploads, pipes and network files may raise any exception.
        except Exception as error:
            raise InputValueError(f"{where}: cannot read the file object ({_said(error)})") from error
        if not isinstance(content, bytes | bytearray):
            raise InputTypeError(f"{where}: the file object gives {_kind(content)}: open it in binary mode ('rb')")
        return bytes(content)

    def _bounded(self, content: bytes, where: str) -> bytes:
        self._check_bytes(len(content), where)
        return content

    def _check_bytes(self, size: int, where: str) -> None:
        if size > self.limits.bytes_per_image:
            raise InputValueError(
                f"{where}: more than {self.limits.bytes_per_image:,} bytes: scale the image down, "
                "or raise Limits.bytes_per_image"
            )

    def _admit(self, size: tuple[int, int], where: str) -> None:
        width, height = size
        if width < 1 or height < 1:
            raise InputValueError(f"{where}: has no pixels ({width} x {height})")
        if width * height > self.limits.pixels_per_image:
            raise InputValueError(
                f"{where}: {width} x {height} is more than {self.limits.pixels_per_image:,} pixels: scale the image "
                "down, or raise Limits.pixels_per_image"
            )
        self.count.add(width * height)


_TAKEN = "a PIL image, a path, the bytes of an image file, an open file, or a uint8 array of shape [h, w, 3] or [h, w]"


def _of_array(array: np.ndarray, where: str) -> Image.Image:
    if not is_one_image(array) or array.dtype != np.uint8:
        raise InputValueError(_array_problem(array, where))
    if 0 in array.shape:
        raise InputValueError(f"{where}: has no pixels (array of shape {list(array.shape)})")
    return Image.fromarray(np.ascontiguousarray(array))


def _array_problem(array: np.ndarray, where: str) -> str:
    shape = shorten(str(list(array.shape)), _SHOWN)
    if array.dtype != np.uint8:
        return f"{where}: an array of {array.dtype}, shape {shape}: convert it to uint8 with values from 0 to 255"
    return f"{where}: a uint8 array of shape {shape}: give [h, w, 3], [h, w], or [n, h, w, 3] for n images"


def _asked_for(give: Callable[[], Any]) -> Any:
    """Read an input; our own lazy sequences decode by themselves and report errors of their own."""
    try:
        return give()
    except InputTypeError:
        raise
    except DataError as error:
        raise InputValueError(shorten(str(error))) from error


def _encoded_size(content: bytes) -> tuple[int, int]:
    """(width, height) as the header says; nothing where decoding will say what is wrong with it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    # Pillow's plugins may raise any exception for a corrupt header.
    except Exception:  # noqa: BLE001
        return (0, 0)


def _size(image: Image.Image, where: str) -> tuple[int, int]:
    try:
        return image.size
    except Exception as error:
        raise InputValueError(f"{where}: the PIL image cannot be used ({_said(error)})") from error


def _what(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory: give the files in it"
    return "a pipe, a socket or a device"


@contextmanager
def _as_input_error(where: str) -> Iterator[None]:
    """Turn any exception of decoding into an error about this image, in one line of bounded length."""
    try:
        yield
    except CallLimitError:
        raise
    except MemoryError as error:
        raise InputValueError(f"{where}: there is not enough memory to decode it") from error
    except IcclipError as error:
        if isinstance(error, InputTypeError | InputValueError):
            raise
        raise InputValueError(shorten(str(error))) from error
    except Exception as error:
        raise InputValueError(f"{where}: the image cannot be used ({_said(error)})") from error


_STRIPES = [threading.Lock() for _ in range(16)]


def _renew_stripes() -> None:
    """Renew the locks in a forked child, where one may be held by a thread that does not exist."""
    _STRIPES[:] = [threading.Lock() for _ in _STRIPES]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_stripes)


@contextmanager
def _one_at_a_time(source: Any) -> Iterator[None]:
    """Lock a file object or lazily opened PIL image, which may occur in two rows but has one read position."""
    if not (isinstance(source, Image.Image) or hasattr(source, "read")):
        yield
        return
    with _STRIPES[id(source) // 64 % len(_STRIPES)]:
        yield


# Texts --------------------------------------------------------------------------------------------


def text_items(texts: object) -> tuple[Iterator[Item], int | None]:
    """The items of `Texts`, and their number if it is known. Raises InputTypeError."""
    if isinstance(texts, str):
        return iter([(0, lambda: texts)]), 1
    return _items(texts, "texts", "a text or an iterable of texts")


def check_text(item: Item, limits: Limits) -> str:
    """Check one text and return it.

    Raises:
        InputTypeError: it is something else. InputValueError: it is too long, or is not valid Unicode.
    """
    row, give = item
    text = give()
    if not isinstance(text, str):
        raise InputTypeError(f"text {row} is of type {_kind(text)}: give a str")
    if len(text) > limits.characters_per_text:
        raise InputValueError(
            f"text {row} ({_shown(text)}) has {len(text):,} characters, more than {limits.characters_per_text:,}: "
            "shorten it, or raise Limits.characters_per_text"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputValueError(
            f"text {row} holds a lone surrogate ({text[error.start]!a}, character {error.start}), which is not valid text: "
            "decode the text with the right encoding"
        ) from error
    return text


# Both ---------------------------------------------------------------------------------------------


def _items(given: object, name: str, wanted: str) -> tuple[Iterator[Item], int | None]:
    if given is None or isinstance(given, Mapping | set | frozenset | bytes | bytearray | memoryview):
        why = "has no order" if isinstance(given, set | frozenset) else "is not accepted here"
        raise InputTypeError(f"{name} is of type {_kind(given)}, which {why}: give {wanted}")
    if isinstance(given, Sequence) or (isinstance(given, np.ndarray) and given.ndim > 0):
        return _indexed(given)
    if not isinstance(given, Iterable) or isinstance(given, np.ndarray):
        raise InputTypeError(f"{name} is of type {_kind(given)}: give {wanted}")
    try:
        iterator = iter(given)
    except Exception as error:
        raise InputTypeError(f"{name} is of type {_kind(given)}, and cannot be iterated ({_said(error)})") from error
    return ((row, _constant(value)) for row, value in enumerate(iterator)), None


def _indexed(given: Any) -> tuple[Iterator[Item], int]:
    total = len(given)
    return ((row, lambda row=row: given[row]) for row in range(total)), total


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _kind(value: object) -> str:
    kind = type(value)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__.partition('.')[0]}."
    return shorten(f"{module}{kind.__name__}", _SHOWN)


def _shown(text: str) -> str:
    return ascii(_short(text))


def _short(text: str) -> str:
    """A path or text as messages show it: printable, and at most one line long."""
    # Cut before the characters are looked at, because a data URL has millions.
    cut = text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return shorten(printable, _SHOWN)


def _said(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 2 * _SHOWN)
