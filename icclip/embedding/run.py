"""Embeddings of any number of inputs into one file, row by row as the inputs came."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icclip.config import OnBadImage
from icclip.console import Reporter
from icclip.data.gallery import load_gallery
from icclip.embedding.sinks import Parts, check_format
from icclip.embedding.sources import Done, Piece, check_paths, image_paths, lines_of, pieces, readable, split_pieces
from icclip.encoders import EncoderRequest, open_encoder
from icclip.errors import DataError, UsageError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder

PART = 2048
"""Inputs of a part, about: whole batches."""
SECONDS = 30.0
"""Between two notes of how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """What to embed, with what, and where to. Exactly one of `images`, `texts` and `dataset` is given."""

    encoder: EncoderRequest
    images: tuple[Path, ...] = ()
    """Files, directories and patterns."""
    texts: Path | None = None
    """A UTF-8 file, one text a line."""
    dataset: str | None = None
    split: str = "test"
    output: Path
    batch_size: int = 32
    on_bad_image: OnBadImage = "fail"
    resume: bool = False


def embed(request: EmbedRequest, registry: Registry, reporter: Reporter) -> dict[str, Any]:
    """Write the embeddings; says what was written.

    Raises:
        UsageError: anything the user can mend: inputs, checkpoint, provider, output.
    """
    if sum((bool(request.images), request.texts is not None, request.dataset is not None)) != 1:
        raise UsageError("give one of: image files, --texts FILE, --dataset D")
    check_format(request.output)
    check_paths(request.images)
    source = _source(request, registry, reporter)
    encoder = open_encoder(registry, request.encoder, reporter)
    reporter.note(encoder.description)
    parts = Parts(request.output, _about(request, encoder))
    done = parts.begin(resume=request.resume)
    if done.inputs:
        reporter.note(f"goes on after {done.inputs:,} inputs")
    try:
        dim = _encode(request, encoder, source(done), parts, reporter)
    except DataError as error:
        hint = "" if request.texts is not None else "; pass --on-bad-image skip to leave such images out"
        raise DataError(f"{error}{hint}") from error
    finally:
        parts.discard_empty()
    made = {**parts.finish(dim or _known_dim(encoder)), "encoder": encoder.description}
    _say(made, reporter)
    return made


def _source(request: EmbedRequest, registry: Registry, reporter: Reporter) -> Callable[[Done], Iterator[Piece]]:
    """What is done -> the pieces after that."""
    size = _part(request)
    if request.texts is not None:
        texts = request.texts
        next(lines_of(texts), None)
        return lambda done: pieces(lines_of(texts), size, "texts", done)
    if request.dataset is None:
        return lambda done: pieces(image_paths(request.images), size, "images", done)
    images = load_gallery(registry, request.dataset, request.split, reporter).images
    return lambda done: split_pieces(images, f"{request.dataset} {request.split}", size, done)


def _part(request: EmbedRequest) -> int:
    return math.ceil(PART / request.batch_size) * request.batch_size


def _about(request: EmbedRequest, encoder: Encoder) -> Mapping[str, Any]:
    """What must be the same where a run goes on; names as they appear in the message."""
    return {
        "images": [str(path) for path in request.images],
        "texts": None if request.texts is None else str(request.texts),
        "dataset": request.dataset,
        "split": request.split,
        "on_bad_image": request.on_bad_image,
        "batch_size": request.batch_size,
        "encoder": {**dataclasses.asdict(request.encoder), "workers": None, "threads": None},
        "description": encoder.description.partition(", ")[0],
    }


def _encode(request: EmbedRequest, encoder: Encoder, source: Iterator[Piece], parts: Parts, reporter: Reporter) -> int:
    """Part after part. Returns the width of the vectors, 0 where there was nothing left to do."""
    dim = count = 0
    began = said = time.monotonic()
    for piece in source:
        kept, skipped = piece, dict[str, str]()
        try:
            vectors = _vectors(encoder, piece, request.batch_size)
        except DataError:
            if request.on_bad_image == "fail":
                raise
            rows, skipped = readable(piece)
            if not skipped:
                raise
            kept = piece.only(rows)
            vectors = _vectors(encoder, kept, request.batch_size) if rows else np.empty((0, dim), np.float32)
        dim = vectors.shape[1] or dim
        parts.add(vectors, kept.names, skipped, piece.names[-1])
        count += len(piece.names)
        if time.monotonic() - said > SECONDS:
            said = time.monotonic()
            reporter.note(f"{count:,} inputs done, {count / (said - began):.0f} a second")
    return dim


def _vectors(encoder: Encoder, piece: Piece, batch_size: int) -> np.ndarray:
    if piece.kind == "texts":
        return encoder.encode_texts(piece.items, batch_size=batch_size)
    return encoder.encode_images(piece.items, batch_size=batch_size)


def _known_dim(encoder: Encoder) -> int:
    """Where every part was there already."""
    return int(encoder.encode_texts(["a"]).shape[1])


def _say(made: Mapping[str, Any], reporter: Reporter) -> None:
    reporter.note(f"wrote {made['output']}: {made['rows']:,} x {made['dim']} float32")
    if made["skipped"]:
        reporter.warn(f"{made['skipped']:,} images could not be read and were left out: see {made['skipped_list']}")
