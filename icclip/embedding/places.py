"""Where the inputs of shards lie: on this machine, or behind a URL that fsspec or pyarrow opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from glob import has_magic
from pathlib import Path
from typing import Any, BinaryIO

from icclip.data.foreign import IMAGE_SUFFIXES, files_below, is_url
from icclip.data.images import read_file
from icclip.errors import DataError, MissingExtraError, UsageError

ARCHIVES, TABLES = (".tar",), (".parquet",)
SUFFIXES = (*sorted(IMAGE_SUFFIXES), *ARCHIVES, *TABLES)
_ARROWS = ("s3", "gs", "gcs")
"""Schemes that pyarrow opens by itself."""


@dataclass(frozen=True, slots=True)
class Input:
    """One file that holds an image or many."""

    place: str
    """A path, or a URL."""
    name: str
    """Its place below the source that the user named, which decides its shard wherever the source lies."""


def inputs_of(given: Sequence[Path | str]) -> Iterator[Input]:
    """List the files of all sources, each once, in the order of the sources and of the names in them.

    Raises:
        UsageError: a source does not exist, holds nothing that can be embedded, or cannot be reached.
        MissingExtraError: the library that opens such URLs is not installed.
    """
    seen: set[str] = set()
    for source in given:
        where = url_of(source)
        found = 0
        for one in _remote(where) if is_url(where) else _local(Path(source)):
            found += 1
            if len(given) == 1 or one.place not in seen:
                yield one
            if len(given) > 1:
                seen.add(one.place)
        if not found:
            raise UsageError(f"{where}: has no images, .tar or .parquet files")


def url_of(source: Path | str) -> str:
    """What the user wrote; of the two slashes of a URL, a Path keeps one."""
    text = str(source)
    scheme, mark, rest = text.partition(":/")
    return f"{scheme}://{rest.lstrip('/')}" if mark and is_url(text) and scheme != "file" else text


def _wanted(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _local(source: Path) -> Iterator[Input]:
    try:
        if source.is_dir():
            below = (path for path in files_below(source) if _wanted(path.name))
            yield from (Input(str(path), path.relative_to(source).as_posix()) for path in below)
        elif source.exists():
            yield Input(str(source), source.name)
        elif has_magic(str(source)):
            root = Path(source.anchor) if source.is_absolute() else Path()
            matched = sorted(root.glob(str(source.relative_to(source.anchor))))
            yield from (Input(str(path), path.as_posix()) for path in matched if _wanted(path.name))
        else:
            raise UsageError(f"there is no file {source}")
    except (OSError, ValueError) as error:
        raise UsageError(f"{source!s:.100}: {getattr(error, 'strerror', None) or error}") from error


def _remote(url: str) -> Iterator[Input]:
    system, root = filesystem(url)
    scheme = url.partition("://")[0]
    try:
        if has_magic(root):
            base = root[: root.index(next(sign for sign in root if sign in "*?["))].rpartition("/")[0]
            found: Iterator[str] = iter(sorted(system.glob(root)))
        else:
            base, found = _below(system, root)
        for path in found:
            if _wanted(path):
                yield Input(f"{scheme}://{path.lstrip('/')}", path.removeprefix(base).lstrip("/") or path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{url} cannot be listed: {_reason(error)}") from error


def _below(system: Any, root: str) -> tuple[str, Iterator[str]]:
    if system.isfile(root):
        return root.rpartition("/")[0], iter([root])
    return root, _walked(system, root)


def _walked(system: Any, folder: str) -> Iterator[str]:
    """Files below a folder by name, one folder in memory at a time."""
    entries = sorted(system.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
    for entry in entries:
        name = str(entry["name"]).rstrip("/")
        if entry["type"] == "directory":
            yield from _walked(system, name)
        elif not name.rpartition("/")[2].startswith("."):
            yield name


@cache
def _system(scheme: str) -> Any:
    import fsspec

    if scheme not in _ARROWS:
        return fsspec.filesystem(scheme)
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    return ArrowFSWrapper(fs.FileSystem.from_uri(f"{scheme}://bucket/key")[0])


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL as fsspec knows it, and the path in it.

    `s3://` and `gs://` are opened by pyarrow, with the credentials that its libraries find.

    Raises:
        UsageError: no library opens such URLs.
        MissingExtraError: the library that does is not installed.
    """
    scheme, _, path = url.partition("://")
    try:
        system = _system(scheme)
    except ImportError as error:
        raise MissingExtraError(
            url, [str(error.name or error)], f"pip install what fsspec needs for {scheme}"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{url} cannot be opened: {_reason(error)}") from error
    return system, path if scheme in _ARROWS else str(system._strip_protocol(url))  # noqa: SLF001 # fsspec's way of asking for it


def read(place: str) -> bytes:
    """The content of a file. Raises DataError."""
    if not is_url(place):
        return read_file(Path(place), place)
    try:
        system, path = filesystem(place)
        return bytes(system.cat_file(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: cannot be read: {_reason(error)}") from error


def opened(place: str) -> BinaryIO:
    """A file to read from. Raises DataError."""
    try:
        if not is_url(place):
            return Path(place).open("rb")
        system, path = filesystem(place)
        file: BinaryIO = system.open(path, "rb")
        return file
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:200]
