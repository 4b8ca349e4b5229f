"""What a process embeds with: callables that can be pickled, and open the encoder where they are called.

They run alike in this process, in the actors of Ray and in the workers of Daft.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import EncoderConfig, OnBadImage
from icclip.console import Reporter
from icclip.data.images import decode_image
from icclip.embedding.contents import Found, found_in
from icclip.embedding.encoding import encoded
from icclip.embedding.layout import Counts, Layout, Manifest
from icclip.embedding.places import Input
from icclip.embedding.shard_writer import ShardWriter, shard_writer
from icclip.embedding.sources import Piece
from icclip.encoders import open_encoder
from icclip.errors import DataError, UsageError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder

if TYPE_CHECKING:
    import numpy as np

PIECE_BYTES, PIECE = 64 << 20, 2048
"""How much is read before it is encoded, in undecoded bytes and in images."""


@dataclass
class LazyEncoder:
    """An encoder that is opened where it is first used; only its configuration is pickled."""

    config: EncoderConfig
    _open: Encoder | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "_open": None}

    def get(self) -> Encoder:
        """The encoder. Raises UsageError where it cannot be opened."""
        if self._open is None:
            self._open = open_encoder(Registry.from_environment(), self.config, Reporter(silent=True))
        return self._open


@dataclass(frozen=True)
class EncodedImages(Sequence[Any]):
    """Contents of image files as RGB images, decoded when asked for; a bad one raises DataError with its name."""

    contents: Sequence[bytes]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, index: Any) -> Any:
        return decode_image(self.contents[index], self.names[index])


@dataclass
class EmbedImages:
    """Columns of image files' contents -> columns with their embeddings: for `map_batches` of Ray Data, and for Daft.

    Args:
        checkpoint: a bundle, a run, a directory of transformers or a hub id.
        batch_size: images that are encoded together.
        options: of the encoder, as `icclip embed` has them: precision, provider, threads, device...
    """

    checkpoint: str
    batch_size: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = EncoderConfig.from_mapping({**self.options, "checkpoint": self.checkpoint})
        self._encoder = LazyEncoder(config)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Embed a batch.

        Args:
            batch: `content`, the bytes of image files, and `name`, what they are called; other columns are passed on.

        Returns:
            the columns without `content`, with `embedding` (a list of float32 arrays [dim], or None) and `error` (None, or
            why the image could not be read).
        """
        names = [str(name) for name in batch["name"]]
        piece = Piece("images", names, EncodedImages([bytes(one) for one in batch["content"]], names))
        numbered = dataclasses.replace(piece, names=[str(row) for row in range(len(names))])
        vectors, kept, skipped = encoded(self._encoder.get(), numbered, self.batch_size, "skip")
        rows: dict[str, Any] = dict(zip(kept.names, vectors, strict=True))
        every = [str(row) for row in range(len(names))]
        others = {column: values for column, values in batch.items() if column != "content"}
        return {**others, "embedding": [rows.get(row) for row in every], "error": [skipped.get(row) for row in every]}


@dataclass
class ShardWorker:
    """The number of a shard -> its files, whole. Who calls it twice gets the same files.

    Args:
        directory: of the embeddings, which every worker can write to.
        manifest: what is made.
        encoder: opened when the first shard is embedded.
    """

    directory: Path
    manifest: Manifest
    encoder: LazyEncoder

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """For `map_batches`: the column `shard` -> `shard`, `rows`, `failed` and `problem`, what the user can mend."""
        done: list[tuple[int, Counts, str]] = []
        for shard in batch["shard"]:
            try:
                done.append((int(shard), self.embed(int(shard)), ""))
            except UsageError as error:
                done.append((int(shard), Counts(), str(error)))
        return {
            "shard": [shard for shard, _, _ in done],
            "rows": [counts.rows for _, counts, _ in done],
            "failed": [counts.failed for _, counts, _ in done],
            "problem": [problem for _, _, problem in done],
        }

    def embed(self, shard: int) -> Counts:
        """Embed one shard, unless it is finished.

        Raises:
            UsageError: the encoder is another one, or the files cannot be written.
            DataError: an image cannot be read and is not to be skipped.
        """
        layout = Layout(self.directory)
        finished = layout.finished(shard)
        if finished is not None:
            return finished
        encoder = self.encoder.get()
        self._check(encoder)
        with shard_writer(layout, self.manifest, shard) as writer:
            for found in _gathered(_inputs(layout.inputs(shard)), self.manifest.batch_size):
                self._add(encoder, found, writer)
            counts = writer.finish()
        layout.inputs(shard).unlink(missing_ok=True)
        return counts

    def _check(self, encoder: Encoder) -> None:
        own = getattr(encoder, "fingerprint", None)
        if own != self.manifest.fingerprint:
            raise UsageError(
                f"{self.encoder.config.checkpoint} is another encoder here (fingerprint {str(own)[:12]}) than where the work was "
                f"begun ({str(self.manifest.fingerprint)[:12]}): give all workers the same files"
            )

    def _add(self, encoder: Encoder, found: Sequence[Found], writer: ShardWriter) -> None:
        whole = [one for one in found if self._problem(one) is None]
        failures = [(one.name, problem) for one in found if (problem := self._problem(one)) is not None]
        skips: OnBadImage = "skip" if self.manifest.on_bad_image == "skip" else "fail"
        if failures and skips == "fail":
            raise DataError(f"{failures[0][1]}; pass --on-bad-image skip to leave such images out")
        writer.fail(failures)
        if not whole:
            return
        rows = [str(row) for row in range(len(whole))]
        piece = Piece("images", rows, EncodedImages([one.content or b"" for one in whole], [one.name for one in whole]))
        try:
            vectors, kept, bad = encoded(encoder, piece, self.manifest.batch_size, skips, self.manifest.dim)
        except DataError as error:
            raise DataError(f"{error}; pass --on-bad-image skip to leave such images out") from error
        writer.fail([(whole[int(row)].name, error) for row, error in bad.items()])
        good = [whole[int(row)] for row in kept.names]
        writer.add([one.name for one in good], vectors, [one.caption for one in good], self._of_captions(encoder, good))

    def _problem(self, one: Found) -> str | None:
        if one.problem is None and self.manifest.captions and one.caption is None:
            return f"{one.name}: has no caption"
        return one.problem

    def _of_captions(self, encoder: Encoder, good: Sequence[Found]) -> np.ndarray | None:
        if not (self.manifest.captions and good):
            return None
        texts = [one.caption or "" for one in good]
        return encoded(encoder, Piece("texts", texts, texts), self.manifest.batch_size, "fail")[0]


def _inputs(file: Path) -> Iterator[Input]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield Input(*json.loads(line))


def _gathered(inputs: Iterable[Input], batch_size: int) -> Iterator[list[Found]]:
    """Images in groups of whole batches, which end when enough bytes are held."""
    group: list[Found] = []
    held = 0
    for found in chain.from_iterable(map(found_in, inputs)):
        group.append(found)
        held += len(found.content or b"")
        if len(group) % batch_size == 0 and (held >= PIECE_BYTES or len(group) >= PIECE):
            yield group
            group, held = [], 0
    if group:
        yield group
