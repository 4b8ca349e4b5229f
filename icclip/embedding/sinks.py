"""Write embeddings: in parts beside the output during the work, and as one file at the end.

`OUTPUT.parts/` holds `about.json`, which describes the inputs and the encoder, and for each part its vectors and
its names; icclip never leaves a half-written file there. An interrupted run continues after its last part.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from icclip.embedding.sources import Done
from icclip.errors import DataError, MissingExtraError, UsageError
from icclip.files import atomic_write_bytes, atomic_write_text, readable_os_errors

FORMATS = (".npy", ".parquet")
FINGERPRINT_KEY = "icclip.fingerprint"
"""Of the metadata of a parquet file: which encoder made the embeddings."""


def check_format(path: Path) -> None:
    """Check before the work that `path` has a format that can be written.

    Raises:
        UsageError: the suffix is not one of FORMATS.
        MissingExtraError: the format is parquet, but pyarrow is not installed.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"cannot write {path}: give -o a name that ends in {' or '.join(FORMATS)}")
    if path.suffix == ".parquet":
        pyarrow()


@dataclass(frozen=True, slots=True)
class Written:
    """The result of putting all parts together."""

    output: Path
    rows: int
    dim: int
    skipped: int = 0
    """The number of inputs that were left out."""
    skipped_list: Path | None = None
    """The file that lists them with the reasons."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        listed = None if self.skipped_list is None else str(self.skipped_list)
        return {**dataclasses.asdict(self), "output": str(self.output), "skipped_list": listed}


@dataclass(frozen=True)
class Parts:
    """The parts of one output.

    Args:
        output: the file that the parts become.
        about: what must be the same for a run to continue: the inputs, the encoder and the size of the parts.
    """

    output: Path
    about: Mapping[str, Any]
    fingerprint: str | None = None
    """Of the encoder, where it has one; a parquet file carries it."""

    @property
    def folder(self) -> Path:
        """The folder of parts, beside the output."""
        return self.output.with_name(f"{self.output.name}.parts")

    def begin(self, *, resume: bool) -> Done:
        """Create the folder, or continue in it.

        Returns:
            What earlier parts hold, including inputs that were skipped.

        Raises:
            UsageError: parts exist and `resume` is not set, or they belong to other inputs or options.
        """
        file = self.folder / "about.json"
        if self.folder.exists():
            if not resume:
                raise UsageError(
                    f"{self.folder} holds parts of an interrupted run: continue with --resume, or remove it to start over"
                )
            self._check(file)
        else:
            atomic_write_text(file, json.dumps(self.about, indent=2))
        done = Done()
        for part in self._notes():
            done = Done(done.inputs + len(part["names"]) + len(part["skipped"]), part["last"])
        return done

    def _check(self, file: Path) -> None:
        try:
            found = json.loads(file.read_bytes())
        except (OSError, ValueError):
            found = None
        if found != dict(self.about):
            differing = [key for key in self.about if not isinstance(found, dict) or found.get(key) != self.about[key]]
            raise UsageError(
                f"{self.folder} belongs to other inputs or options ({', '.join(differing)} differ): repeat that one with --resume, "
                "or remove it to start over"
            )

    def add(self, embeddings: np.ndarray, names: Sequence[str], skipped: Mapping[str, str], last: str) -> None:
        """Write the next part: first its vectors, then its names, which make it complete.

        Args:
            embeddings: float32 [n, dim].
            names: the names of the n inputs.
            skipped: inputs that were left out -> why.
            last: the last input of the part.
        """
        number = len(self._files())
        buffer = BytesIO()
        np.save(buffer, np.ascontiguousarray(embeddings, np.float32), allow_pickle=False)
        atomic_write_bytes(self.folder / f"{number:06}.npy", buffer.getvalue())
        note = {"names": list(names), "skipped": dict(skipped), "last": last}
        atomic_write_text(self.folder / f"{number:06}.json", json.dumps(note))

    def finish(self, dim: int) -> Written:
        """Join the parts to one file, a part at a time, and remove them.

        Raises:
            UsageError: the output cannot be written.
            DataError: every input was left out.
        """
        names_file = self.output.with_suffix(".inputs.jsonl")
        skipped_file = self.output.with_suffix(".skipped.jsonl")
        rows = sum(len(part["names"]) for part in self._notes())
        skipped = sum(len(part["skipped"]) for part in self._notes())
        if skipped and not rows:
            first = next(error for part in self._notes() for error in part["skipped"].values())
            shutil.rmtree(self.folder)
            raise DataError(f"none of the {skipped:,} images could be read; {first}")
        write = _write_npy if self.output.suffix == ".npy" else partial(_write_parquet, fingerprint=self.fingerprint)
        with readable_os_errors(self.output.name, self.output):
            write(self.folder / "whole", self._vectors(), rows, dim)
            if self.output.suffix == ".npy":
                _write_lines(self.folder / "names", (name for part in self._notes() for name in part["names"]))
                (self.folder / "names").replace(names_file)
            skipped_file.unlink(missing_ok=True)
            if skipped:
                left_out = (item for part in self._notes() for item in part["skipped"].items())
                _write_lines(self.folder / "skipped", ({"input": name, "error": error} for name, error in left_out))
                (self.folder / "skipped").replace(skipped_file)
            (self.folder / "whole").replace(self.output)
            shutil.rmtree(self.folder)
        return Written(self.output, rows, dim, skipped, skipped_file if skipped else None)

    def discard_empty(self) -> None:
        """Remove a folder without any part after an error, since there is nothing to continue."""
        if self.folder.exists() and not self._files():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    def _notes(self) -> Iterator[dict[str, Any]]:
        for file in self._files():
            yield json.loads(file.read_bytes())

    def _vectors(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        for file in self._files():
            names = json.loads(file.read_bytes())["names"]
            if names:
                yield np.load(file.with_suffix(".npy"), allow_pickle=False), names


def _write_npy(path: Path, parts: Iterator[tuple[np.ndarray, list[str]]], rows: int, dim: int) -> None:
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for vectors, _ in parts:
            file.write(vectors.astype("<f4", copy=False).tobytes())


def _write_parquet(
    path: Path, parts: Iterator[tuple[np.ndarray, list[str]]], _rows: int, dim: int, *, fingerprint: str | None
) -> None:
    pa, parquet = pyarrow()
    made_by = {} if fingerprint is None else {FINGERPRINT_KEY: fingerprint}
    schema = pa.schema([("input", pa.string()), ("embedding", pa.list_(pa.float32(), dim))], metadata=made_by)
    with parquet.ParquetWriter(path, schema) as writer:
        for vectors, names in parts:
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), dim)
            writer.write_table(pa.table([pa.array(names, pa.string()), column], schema=schema))


def _write_lines(path: Path, values: Iterator[Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(value) + "\n" for value in values)


def pyarrow() -> tuple[ModuleType, ModuleType]:
    """The library of columns and its module of parquet files. Raises MissingExtraError."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("writing .parquet", ["pyarrow"], "pip install pyarrow, or write .npy") from error
    return pa, parquet
