"""Limits on what one caller may ask of an encoder, and on the memory that decoding may take at a time."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from icclip.errors import InputTypeError, InputValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on inputs; a service that strangers can call should set them lower than the defaults.

    Raises InputTypeError or InputValueError if a limit is not a positive whole number.
    """

    pixels_per_image: int = 64_000_000
    """The maximum number of pixels (width times height) of one image, whether a file, encoded bytes, a PIL image or an array.

    It is looked up in the image's header, before any pixel is decoded. Pillow's own
    `PIL.Image.MAX_IMAGE_PIXELS` applies as well.
    """
    pixels_per_call: int = 100_000_000_000
    """The maximum number of pixels in one call of `encode_images`; it does not apply to `iter_encode_images`."""
    pixels_at_once: int = 192_000_000
    """The maximum number of pixels that all calls of one encoder decode at the same time; further images wait.

    A pixel takes 4 to 8 bytes.
    """
    bytes_per_image: int = 256_000_000
    """The maximum size of an encoded image, whether a file, bytes or a file object."""
    characters_per_text: int = 1_000_000
    """The maximum number of characters in one text.

    Texts are cut to the model's length anyway; this bounds the work before the cut.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            positive(field.name, getattr(self, field.name))


def positive(name: str, value: object) -> int:
    """Check that a value is a whole number of at least 1, and return it.

    Raises:
        InputTypeError: it is not a whole number. InputValueError: it is below 1.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputTypeError(f"{name} is of type {type(value).__name__}: give a whole number of at least 1")
    number = int(value.__index__())
    if number < 1:
        raise InputValueError(f"{name} is {number}: give at least 1")
    return number


class Budget:
    """A number of pixels that may be held at a time; callers wait until there is room. One image is always let through."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Hold `amount` during the block, as soon as there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + amount <= self.total)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()


class CallCount:
    """The pixels of one call so far."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._sum = 0
        self._lock = threading.Lock()

    def add(self, pixels: int) -> None:
        """Count an image. Raises CallLimitError."""
        if self.limit is None:
            return
        with self._lock:
            self._sum += pixels
            if self._sum > self.limit:
                raise CallLimitError(
                    f"the images of this call have more than {self.limit:,} pixels in total: "
                    "give fewer at a time, use iter_encode_images, or raise Limits.pixels_per_call"
                )


class CallLimitError(InputValueError):
    """A call as a whole exceeds a limit, although no single item does."""
