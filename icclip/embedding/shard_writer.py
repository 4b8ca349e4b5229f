"""Writes the files of one shard beside their places, batch by batch, and moves them there when they are whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from icclip.embedding.layout import Counts, Layout, Manifest
from icclip.embedding.sinks import FINGERPRINT_KEY, pyarrow
from icclip.files import fsync_tree, readable_os_errors

_HEADER = 128
"""Bytes before the numbers of an .npy file; the format wants a multiple of 64."""
_STAGING = ".shard-"


class VectorFile:
    """An .npy file that grows.

    Args:
        path: the file.
        dim: the width of its rows.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self.rows, self._dim = 0, dim
        self._file: IO[bytes] = path.open("wb")
        self._file.write(b" " * _HEADER)

    def add(self, vectors: np.ndarray) -> None:
        """Append float32 [n, dim]."""
        self._file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        self.rows += len(vectors)

    def close(self) -> None:
        """Write the header, which says how many rows there are, once."""
        if self._file.closed:
            return
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self.rows}, {self._dim}), }}"
        size = _HEADER - 10
        self._file.seek(0)
        self._file.write(b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1).encode() + b"\n")
        self._file.close()


class ShardWriter:
    """One shard under way.

    Args:
        layout: where its files belong.
        manifest: what they hold.
        shard: its number.
        staging: a directory on the same file system.
    """

    def __init__(self, layout: Layout, manifest: Manifest, shard: int, staging: Path) -> None:
        self._layout, self._shard, self._staging = layout, shard, staging
        pa, parquet = pyarrow()
        made_by = {FINGERPRINT_KEY: manifest.fingerprint} if manifest.fingerprint else {}
        self._schema = pa.schema([("image_path", pa.string()), ("caption", pa.string())], metadata=made_by)
        self._failures = pa.schema([("input", pa.string()), ("error", pa.string())])
        self._images = VectorFile(staging / "images", manifest.dim)
        self._texts = VectorFile(staging / "texts", manifest.dim) if manifest.captions else None
        self._metadata = parquet.ParquetWriter(staging / "metadata", self._schema)
        self._failed = parquet.ParquetWriter(staging / "failed", self._failures)
        self._counts = Counts()

    def add(
        self, names: Sequence[str], vectors: np.ndarray, captions: Sequence[str | None], texts: np.ndarray | None
    ) -> None:
        """Append rows; the vectors are float32 [n, dim], of images and of their captions."""
        if not len(names):
            return
        pa, _ = pyarrow()
        self._images.add(vectors)
        if self._texts is not None and texts is not None:
            self._texts.add(texts)
        columns = [pa.array(map(_sayable, names), pa.string()), pa.array(captions, pa.string())]
        self._metadata.write_table(pa.table(columns, schema=self._schema))
        self._counts += Counts(rows=len(names))

    def fail(self, failures: Sequence[tuple[str, str]]) -> None:
        """Append inputs that were left out, with the reasons."""
        if not failures:
            return
        pa, _ = pyarrow()
        columns = [pa.array(map(_sayable, part), pa.string()) for part in zip(*failures, strict=True)]
        self._failed.write_table(pa.table(columns, schema=self._failures))
        self._counts += Counts(failed=len(failures))

    def finish(self) -> Counts:
        """Move everything to its place; the mark that makes the shard complete comes last."""
        self.close()
        fsync_tree(self._staging)
        places = {"images": self._layout.images, "metadata": self._layout.metadata, "failed": self._layout.failed}
        if self._texts is not None:
            places["texts"] = self._layout.texts
        for name, place_of in places.items():
            place = place_of(self._shard)
            place.parent.mkdir(parents=True, exist_ok=True)
            (self._staging / name).replace(place)
        self._layout.finish(self._shard, self._counts)
        return self._counts

    def close(self) -> None:
        """Close what is open."""
        for file in (self._images, self._texts, self._metadata, self._failed):
            if file is not None:
                file.close()


@contextmanager
def shard_writer(layout: Layout, manifest: Manifest, shard: int) -> Iterator[ShardWriter]:
    """Write a shard; what a killed worker left of it is removed.

    Raises:
        UsageError: the disk is full, or the directory is not writable.
    """
    prefix = f"{_STAGING}{shard}-"
    with readable_os_errors(f"shard {shard}", layout.directory), ExitStack() as stack:
        for old in layout.directory.glob(f"{prefix}*"):
            shutil.rmtree(old, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(dir=layout.directory, prefix=prefix))
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        writer = ShardWriter(layout, manifest, shard, staging)
        stack.callback(writer.close)
        yield writer


def _sayable(text: str) -> str:
    """A name that is no UTF-8 is written with its bytes escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
