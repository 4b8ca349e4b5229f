"""The door for paths and texts from a dataset's files; what the system would refuse is reported in one line."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath

from icclip.console import SURROGATE
from icclip.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".ppm"}
)
LONGEST_SHOWN = 120
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def checked_text(text: str, where: str) -> str:
    """Check a caption or a name and return it.

    Raises:
        DataError: the text holds a NUL character or half of a surrogate pair, which neither files nor tokenizers can
            take.
    """
    if "\0" in text:
        raise DataError(f"{where}: {text!r:.80} holds a NUL character: remove it, or save the file as UTF-8")
    if SURROGATE.search(text):
        raise DataError(f"{where}: {text!r:.80} is not valid Unicode (half of a surrogate pair): save it as UTF-8")
    return text


def is_url(value: str) -> bool:
    r"""Whether an image is named by a URL of any scheme rather than by a path; `C:\` is a drive."""
    return URL.match(value) is not None


def regular_file(path: Path, where: str) -> Path:
    """Return `path` if it is a file, and not a pipe or a device, which might block forever when opened.

    Raises:
        DataError: the file is missing or inaccessible, or is something else.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{where}: there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: {_shortened(path)}: {_reason(error)}") from error
    if not stat.S_ISREG(mode):
        raise DataError(f"{where}: {path} is a {_kind(mode)}, not a file")
    return path


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "directory", stat.S_ISFIFO: "named pipe", stat.S_ISSOCK: "socket"}
    return next((name for test, name in kinds.items() if test(mode)), "device")


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).strip() or type(error).__name__


def _shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:60]}...{text[-40:]} ({len(text):,} characters)"


@dataclass(frozen=True)
class Door:
    """Finds the files that a dataset names.

    Args:
        folders: folders in which relative paths are looked up in turn. No file may be outside the first.
        outside: whether files may be elsewhere nevertheless (`--allow-outside-root`).
        missing: whether a missing file is accepted, to be counted when it is read.
    """

    folders: Sequence[Path]
    outside: bool = False
    missing: bool = False

    @cached_property
    def _root(self) -> Path:
        return self.folders[0].resolve()

    def find(self, value: str, where: str) -> Path:
        """Find the file called `value` below the first folder, following links.

        Raises:
            DataError: the file does not exist or is elsewhere, or the system refuses its name.
        """
        checked_text(value, where)
        try:
            paths = [folder / name for name in _spellings(value) for folder in self.folders]
            path = next((path for path in paths if path.exists()), paths[0])
            inside = self.outside or path.resolve().is_relative_to(self._root)
        # RuntimeError is how pathlib reports a loop of links before Python 3.13.
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{where}: {_shortened(Path(value))}: {_reason(error)}") from error
        if not inside:
            raise DataError(
                f"{where}: {value} lies outside {self.folders[0]}; move it there or pass --allow-outside-root"
            )
        return path if self.missing and not path.exists() else self._file(path, value, where)

    def _file(self, path: Path, value: str, where: str) -> Path:
        try:
            return regular_file(path, where)
        except DataError as error:
            hint = "; it is a Windows path: name files relative to --image-root" if _on_a_drive(value) else ""
            raise DataError(f"{error}{hint}") from error


def _spellings(value: str) -> list[str]:
    """The path as it is, and with Windows' separators replaced."""
    return [value, value.replace("\\", "/")] if "\\" in value and os.sep == "/" else [value]


def _on_a_drive(value: str) -> bool:
    return bool(PureWindowsPath(value).drive) and ":" in value


def files_below(folder: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """List every file below a folder, ordered by name; links to folders are followed, but not in loops.

    Only one folder's names are held in memory at a time. Hidden files and folders are skipped.

    Raises:
        DataError: a folder cannot be listed.
    """
    try:
        real = folder.resolve()
        entries = [] if real in seen else sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot list {folder}: {_reason(error)}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from files_below(Path(entry.path), seen | {real})
        else:
            yield Path(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
