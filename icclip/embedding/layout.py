"""A directory of embeddings in shards, laid out as clip-retrieval's users know it.

    icclip.json                        what was embedded, by which encoder, and what is finished
    img_emb/img_emb_0000.npy           float32 [n, dim], rows of length 1
    text_emb/text_emb_0000.npy         the same of the captions, where they are embedded
    metadata/metadata_0000.parquet     image_path and caption of each row
    failed/failed_0000.parquet         input and error of what could not be read
    finished/0000.json                 makes a shard complete; it is written last

Each file of a shard appears as a whole, and a shard that lacks its last file is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from icclip.config.base import Config
from icclip.errors import CheckpointError, ConfigError, UsageError
from icclip.files import atomic_write_json
from icclip.foreign_files import read_json

NAME, FORMAT, DIGITS = "icclip.json", 1, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Config):
    """What a directory of embeddings says about itself; all that decides its vectors."""

    format: int = FORMAT
    kind: Literal["embeddings"] = "embeddings"
    fingerprint: str | None
    """Of the encoder: weights, precision, preprocessing and text policy."""
    checkpoint: str
    encoder: str
    """The encoder in words."""
    dim: int
    dtype: Literal["float32"] = "float32"
    shards: int
    sources: tuple[str, ...]
    captions: bool
    """Whether the captions are embedded as well."""
    on_bad_image: str
    batch_size: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What a finished shard holds."""

    rows: int = 0
    failed: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Of both."""
        return Counts(self.rows + other.rows, self.failed + other.failed)


def shard_of(name: str, shards: int) -> int:
    """The shard of an input: the first 8 bytes of the BLAKE2b hash of its name, modulo the number of shards.

    It depends on nothing else, so every machine that sees the same source finds the same shards.
    """
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one directory."""

    directory: Path

    def images(self, shard: int) -> Path:
        """The vectors of the images."""
        return self._file("img_emb", shard, ".npy")

    def texts(self, shard: int) -> Path:
        """The vectors of the captions."""
        return self._file("text_emb", shard, ".npy")

    def metadata(self, shard: int) -> Path:
        """What each row is."""
        return self._file("metadata", shard, ".parquet")

    def failed(self, shard: int) -> Path:
        """What could not be read."""
        return self._file("failed", shard, ".parquet")

    def inputs(self, shard: int) -> Path:
        """The inputs of a shard that is not finished."""
        return self.directory / "inputs" / f"{shard:0{DIGITS}}.jsonl"

    def _file(self, kind: str, shard: int, suffix: str) -> Path:
        return self.directory / kind / f"{kind}_{shard:0{DIGITS}}{suffix}"

    # What is finished

    def mark(self, shard: int) -> Path:
        """The file that makes a shard complete."""
        return self.directory / "finished" / f"{shard:0{DIGITS}}.json"

    def finish(self, shard: int, counts: Counts) -> None:
        """Say that all files of a shard are there."""
        atomic_write_json(self.mark(shard), dataclasses.asdict(counts))

    def finished(self, shard: int) -> Counts | None:
        """What a shard holds; None if it is not finished. Raises CheckpointError where its mark is damaged."""
        path = self.mark(shard)
        if not path.exists():
            return None
        try:
            values = read_json(path)
            return Counts(int(values["rows"]), int(values["failed"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged: remove it, so that the shard is made again") from error

    def all_finished(self, shards: int) -> Iterator[tuple[int, Counts]]:
        """Every finished shard with what it holds, in their order."""
        for shard in range(shards):
            counts = self.finished(shard)
            if counts is not None:
                yield shard, counts

    # The manifest

    def begin(self, manifest: Manifest) -> None:
        """Write the manifest, or check that the directory is of the same work.

        Raises:
            UsageError: the directory holds something else, or other embeddings.
        """
        path = self.directory / NAME
        if not path.exists():
            if self.directory.exists() and any(self.directory.iterdir()):
                raise UsageError(f"{self.directory} holds other files: give -o a new directory")
            self.write(manifest)
            return
        found = self.read().to_mapping()
        asked = json.loads(json.dumps(manifest.to_mapping()))
        differing = [name for name in asked if name not in ("encoder", "checkpoint") and found.get(name) != asked[name]]
        if differing:
            raise UsageError(
                f"{self.directory} holds embeddings of other inputs or options ({', '.join(differing)} differ): repeat that "
                "command, or give -o a new directory"
            )

    def write(self, manifest: Manifest) -> None:
        """Write the manifest with what is finished now."""
        done = dict(self.all_finished(manifest.shards))
        total = sum(done.values(), Counts())
        said = {
            "rows": total.rows, "failed": total.failed, "complete": len(done) == manifest.shards,
            "finished": {str(shard): dataclasses.asdict(counts) for shard, counts in done.items()},
        }  # fmt: skip
        atomic_write_json(self.directory / NAME, {**manifest.to_mapping(), **said})

    def read(self) -> Manifest:
        """Read the manifest. Raises CheckpointError where it is none, or damaged."""
        path = self.directory / NAME
        try:
            values: Any = read_json(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error!s:.120}): embed the images again") from error
        if not isinstance(values, dict) or (values.get("kind"), values.get("format")) != ("embeddings", FORMAT):
            raise CheckpointError(f"{path} does not describe embeddings of this format: give another directory")
        own = {one.name for one in dataclasses.fields(Manifest)}
        try:
            return Manifest.from_mapping({name: value for name, value in values.items() if name in own})
        except ConfigError as error:
            raise CheckpointError(f"{path} is damaged ({error}): embed the images again") from error


def is_sharded(directory: Path) -> bool:
    """Whether a directory says that it holds embeddings in shards."""
    try:
        values = read_json(directory / NAME)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("kind") == "embeddings"
