"""What a request names becomes an input, within the limits. No path and no address in a request is ever opened."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from icclip.config.serving import ServeConfig
from icclip.serving.problems import RequestProblem, invalid, too_large

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Text:
    """A text and the field it came in."""

    value: str
    field: str


@dataclass(frozen=True)
class Picture:
    """The content of an image file and the field it came in."""

    content: bytes
    field: str


@dataclass(frozen=True)
class Inputs:
    """Checks what a request brings.

    Args:
        config: its limits.
    """

    config: ServeConfig

    def texts(self, values: Sequence[str] | None, field: str) -> list[Text]:
        """Texts, none of which is too long.

        Raises:
            RequestProblem: there are none, too many, or one is too long or no valid Unicode.
        """
        if not values:
            raise invalid(f"{field} is missing: give at least one text", field)
        self.count(values, field)
        return [self.text(value, f"{field}.{place}") for place, value in enumerate(values)]

    def count(self, values: Sequence[str], field: str) -> None:
        """Raises RequestProblem for too many inputs."""
        if len(values) > self.config.max_inputs:
            raise too_large(f"{field} has {len(values):,} entries, more than {self.config.max_inputs:,}", field)

    def text(self, value: str, field: str) -> Text:
        """One text. Raises RequestProblem."""
        if len(value) > self.config.max_characters:
            raise too_large(f"{field} has {len(value):,} characters, more than {self.config.max_characters:,}", field)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise invalid(f"{field} is not valid Unicode", field) from error
        return Text(value, field)

    def picture(self, value: str | None, field: str) -> Picture:
        """An image in base64, alone or as a data URL; its header is looked at, and nothing decoded.

        Raises:
            RequestProblem: it is missing, no base64, no image, or too large.
        """
        if not value:
            raise invalid(f"{field} is missing: give the content of an image file in base64", field)
        found = _DATA_URL.match(value)
        try:
            content = base64.b64decode(value[found.end() :] if found else value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise invalid(
                f"{field} is not base64: give the content of an image file; paths and URLs are not opened", field
            ) from error
        if not content:
            raise invalid(f"{field} is empty", field)
        width, height = _size(content, field)
        if width * height > self.config.max_pixels:
            raise too_large(
                f"{field} has {width} x {height} pixels, more than {self.config.max_pixels:,}: scale it down", field
            )
        return Picture(content, field)

    def either(self, value: str, field: str) -> Text | Picture:
        """A data URL of an image, or a text. Raises RequestProblem."""
        return self.picture(value, field) if _DATA_URL.match(value) else self.text(value, field)


def _size(content: bytes, field: str) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    # Pillow's plugins raise whatever a corrupt header leads them into.
    except Exception as error:
        raise invalid(f"{field} is not an image that can be read", field) from error


def unreadable(reason: str, field: str) -> RequestProblem:
    """What decoding said about an image, about its field instead of its place in a batch."""
    return invalid(f"{field}{re.sub('^image [0-9]+', '', reason)}"[:300], field)
