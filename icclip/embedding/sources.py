"""The inputs to embed, in pieces: images in files, folders and patterns, lines of text, or a dataset's split.

No source holds all of its inputs at once, so that memory does not grow with their number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic, iglob
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icclip.data.foreign import IMAGE_SUFFIXES, files_below
from icclip.data.images import decode_image
from icclip.errors import DataError, UsageError

if TYPE_CHECKING:
    from icclip.data.split import SplitImages


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the inputs, in their order."""

    kind: Literal["images", "texts"]
    names: Sequence[str]
    """The name of each row in the output."""
    items: Sequence[Any]
    """Images, decoded when asked for, or texts."""

    def only(self, rows: Sequence[int]) -> Piece:
        """Select some of the inputs."""
        items = [self.items[i] for i in rows] if self.kind == "texts" else Chosen(self.items, tuple(rows))
        return Piece(self.kind, [self.names[i] for i in rows], items)


@dataclass(frozen=True)
class ImageFiles(Sequence[Any]):
    """Files as RGB images, decoded when asked for; one that cannot be decoded raises DataError with its name."""

    paths: tuple[Path, ...]
    at_least: tuple[int, int] | None = None
    """See `decode_image`: a width and height that suffice; None decodes every JPEG whole."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return decode_image(self.paths[index], str(self.paths[index]), at_least=self.at_least)


@dataclass(frozen=True)
class Chosen(Sequence[Any]):
    """Some rows of a sequence, taken when asked for."""

    images: Sequence[Any]
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.images[self.rows[index]]


@dataclass(frozen=True, slots=True)
class Done:
    """What an earlier run has already embedded."""

    inputs: int = 0
    last: str = ""
    """The name of the last input that was embedded."""


def pieces(
    inputs: Iterator[Any],
    size: int,
    kind: Literal["images", "texts"],
    done: Done,
    at_least: tuple[int, int] | None = None,
) -> Iterator[Piece]:
    """Paths or texts in pieces of `size`, after leaving out those that are done; `at_least` as `ImageFiles` has it.

    Raises:
        UsageError: the inputs have changed since the run began.
    """
    rest = islice(inputs, max(0, done.inputs - 1), None)
    if done.inputs and str(next(rest, None)) != done.last:
        raise UsageError(
            f"input {done.inputs:,} was {done.last} when the run began but is different now: start over, "
            "without --resume and without the folder of parts"
        )
    while chunk := list(islice(rest, size)):
        items = ImageFiles(tuple(chunk), at_least) if kind == "images" else chunk
        yield Piece(kind, [str(item) for item in chunk], items)


def split_pieces(images: SplitImages, label: str, size: int, done: Done) -> Iterator[Piece]:
    """The images of a split in pieces of `size`, called `LABEL ROW`, after leaving out those that are done."""
    for start in range(done.inputs, len(images), size):
        rows = range(start, min(start + size, len(images)))
        yield Piece("images", [f"{label} {row}" for row in rows], Chosen(images, rows))


def image_paths(given: Iterable[Path]) -> Iterator[Path]:
    """List image files: the given files, every image below a directory ordered by name, and files that match a pattern.

    Raises:
        UsageError: a directory or a pattern has no images, or a file does not exist.
    """
    for path in given:
        found = iter(_images_of(path))
        first = next(found, None)
        if first is None:
            raise UsageError(f"{path}: has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        yield first
        yield from found


def check_paths(given: Sequence[Path]) -> None:
    """Check the given paths before any work is done. Raises UsageError like `image_paths`."""
    for path in given:
        next(image_paths([path]))
        if not path.is_dir() and not has_magic(str(path)) and not path.exists():
            raise UsageError(f"there is no file {path}")


def _images_of(path: Path) -> Iterable[Path]:
    try:
        if path.is_dir():
            return (file for file in files_below(path) if file.suffix.lower() in IMAGE_SUFFIXES)
        if path.exists() or not has_magic(str(path)):
            return [path]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path!s:.100}: {getattr(error, 'strerror', None) or error}") from error
    matched = sorted(iglob(str(path), recursive=True))  # noqa: PTH207
    return (Path(name) for name in matched if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)  # noqa: PTH122


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file; an empty line is an empty text. Raises UsageError."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise UsageError(
                        f"{path} is not UTF-8 (line {number:,}): save it as UTF-8, one text per line"
                    ) from error
                yield text.removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise UsageError(f"cannot read the texts in {path}: {error.strerror}") from error


def readable(piece: Piece) -> tuple[list[int], dict[str, str]]:
    """The rows of a piece that can be decoded, and the reasons why the others cannot."""
    good, bad = [], {}
    for row in range(len(piece.items)):
        try:
            piece.items[row]
        except DataError as error:
            bad[piece.names[row]] = str(error)
        else:
            good.append(row)
    return good, bad
