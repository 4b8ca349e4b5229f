"""The samples of a tar file, as img2dataset and webdataset write them: `000.jpg`, `000.txt` and `000.json` are one sample."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from icclip.data.foreign import IMAGE_SUFFIXES, checked_text
from icclip.errors import DataError

TEXT_SUFFIXES = frozenset({".txt", ".json"})
LARGEST_TEXT = 1 << 20
LARGEST_IMAGE = 256 << 20


@dataclass(slots=True)
class Sample:
    """The members that follow each other and share a name up to its first dot."""

    key: str
    image: bytes | None = None
    name: str = ""
    """Of the image."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """Suffix (`.txt`, `.json`) -> content."""
    problem: str | None = None
    """Why a member was not read."""


def samples(file: BinaryIO, where: str) -> Iterator[Sample]:
    """The samples of an archive in its order, with an image or without.

    Args:
        file: the archive, in which one can seek; compressed or not.
        where: its name for messages.

    Raises:
        DataError: it is damaged, or ends early.
    """
    sample = Sample("")
    for name, content in _members(file, where):
        folder, _, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = f"{folder}/{stem}", f".{suffix.lower()}"
        if key != sample.key:
            yield sample
            sample = Sample(key)
        if suffix in IMAGE_SUFFIXES:
            sample.name = name
        if isinstance(content, str):
            sample.problem = content
        elif suffix in IMAGE_SUFFIXES:
            sample.image = content
        else:
            sample.texts[suffix] = content
    yield sample


def _members(file: BinaryIO, where: str) -> Iterator[tuple[str, bytes | str]]:
    """Names of images and texts with their content, or with what is wrong; links and devices are passed over."""
    try:
        with tarfile.open(fileobj=file, mode="r:*") as tar:
            for member in tar:
                suffix = f".{member.name.rpartition('/')[2].partition('.')[2].lower()}"
                if not member.isfile() or suffix not in IMAGE_SUFFIXES | TEXT_SUFFIXES:
                    continue
                name = checked_text(member.name, where)
                if member.size > (LARGEST_IMAGE if suffix in IMAGE_SUFFIXES else LARGEST_TEXT):
                    yield name, f"{where}, {name}: {member.size:,} bytes is too large for a sample"
                elif (content := tar.extractfile(member)) is not None:
                    yield name, content.read()
            _check_end(tar)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{where}: incomplete or damaged tar file: {' '.join(str(error).split())}; fetch it again"
        ) from error


def _check_end(tar: tarfile.TarFile) -> None:
    """Tarfile takes a header that is cut off, or is none, for the end. Raises ReadError."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) not in {0, tarfile.BLOCKSIZE}:
        raise tarfile.ReadError(f"it ends early, at byte {tar.offset:,}")
