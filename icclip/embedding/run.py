"""Embeddings of many inputs into one file, row by row as the inputs came."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.config import EmbedConfig
from icclip.console import Reporter
from icclip.data.gallery import load_gallery
from icclip.data.images import decode_image
from icclip.data.lengths import cut_captions
from icclip.encoders import open_encoder
from icclip.errors import MissingExtraError, UsageError
from icclip.files import atomic_write_bytes
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

FORMATS = (".npy", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """What was written."""

    output: Path
    rows: int
    dim: int
    encoder: str
    """Which encoder ran, and where."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "output": str(self.output)}

    def renderables(self) -> Iterable[RenderableType]:
        """Nothing: the file is the result, and a line on stderr has said that it is written."""
        return ()

    def verdict(self) -> None:
        """Embedding has no threshold to miss."""


def embed(config: EmbedConfig, registry: Registry, reporter: Reporter) -> EmbedResult:
    """Write the embeddings.

    Raises:
        UsageError: anything that the user can correct: inputs, checkpoint, provider, output.
    """
    check_format(config.output)
    encoder = open_encoder(registry, config.encoder, reporter)
    reporter.note(encoder.description)
    names, embeddings = _encode(config, encoder, registry, reporter)
    write_embeddings(config.output, embeddings, names)
    reporter.note(f"wrote {config.output}: {len(embeddings):,} x {embeddings.shape[1]} float32")
    return EmbedResult(output=config.output, rows=len(embeddings), dim=embeddings.shape[1], encoder=encoder.description)


def _encode(
    config: EmbedConfig, encoder: Encoder, registry: Registry, reporter: Reporter
) -> tuple[Sequence[str], np.ndarray]:
    if config.texts is not None:
        texts = read_texts(config.texts)
        if cut := cut_captions(encoder, texts):
            reporter.warn(cut.line)
        return texts, encoder.encode_texts(texts, batch_size=config.batch_size)
    if config.data is None:
        names = [str(path) for path in config.images]
        return names, encoder.encode_images(ImageFiles(config.images), batch_size=config.batch_size)
    gallery = load_gallery(registry, config.data, config.split, reporter)
    reporter.note(f"{gallery.label}: {gallery.captions.n_images:,} images")
    names = [f"{config.data.label} {config.split} {row}" for row in range(gallery.captions.n_images)]
    return names, encoder.encode_images(gallery.images, batch_size=config.batch_size)


@dataclass(frozen=True)
class ImageFiles(Sequence["Image"]):
    """Files as RGB images, decoded when asked for; one that cannot be decoded raises DataError with its name."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return decode_image(self.paths[index], str(self.paths[index]))


def check_format(path: Path) -> None:
    """Before the work: is `path` a file that can be written?

    Raises:
        UsageError: the suffix is none of FORMATS.
        MissingExtraError: parquet without pyarrow.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"cannot write {path}: give -o a name that ends in {' or '.join(FORMATS)}")
    if path.suffix == ".parquet":
        _pyarrow()


def read_texts(path: Path) -> list[str]:
    """The lines of a UTF-8 file, an empty line being an empty text. Raises UsageError."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read the texts in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8, one text a line") from error


def write_embeddings(path: Path, embeddings: np.ndarray, inputs: Sequence[str]) -> None:
    """Write float32 [n, dim], completely or not at all.

    `.npy` holds the array; `.parquet` the columns `input` (what each row was made of) and `embedding`.

    Raises:
        UsageError: the file cannot be written; MissingExtraError: parquet without pyarrow.
    """
    check_format(path)
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, embeddings, allow_pickle=False)
    else:
        _write_parquet(buffer, embeddings, inputs)
    atomic_write_bytes(path, buffer.getvalue())


def _write_parquet(buffer: io.BytesIO, embeddings: np.ndarray, inputs: Sequence[str]) -> None:
    pa, parquet = _pyarrow()
    column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    parquet.write_table(pa.table({"input": pa.array(list(inputs), "string"), "embedding": column}), buffer)


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("writing .parquet", ["pyarrow"], "pip install pyarrow, or write .npy") from error
    return pa, parquet
