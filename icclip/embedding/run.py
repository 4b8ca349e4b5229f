"""Embed any number of inputs and write one file, with one row per input in their order."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icclip.config import EmbedConfig
from icclip.console import Reporter
from icclip.data.gallery import load_gallery
from icclip.data.lengths import CutCaptions, CutsCaptions
from icclip.embedding.encoding import encoded
from icclip.embedding.sinks import Parts, Written, check_format
from icclip.embedding.sources import Done, Piece, check_paths, image_paths, lines_of, pieces, split_pieces
from icclip.encoders import open_encoder
from icclip.errors import DataError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder

if TYPE_CHECKING:
    from rich.console import RenderableType

PART = 2048
"""The approximate number of inputs in a part, rounded to whole batches."""
FAST_TIMES = 4
"""With `--fast-jpeg`, the sides of a decoded JPEG are at least so many times those of the model's input."""
UNKNOWN_SIZE = (512, 512)
"""Height and width that are assumed where an encoder does not tell."""
SECONDS = 30.0
"""Seconds between two progress notes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """What `icclip embed` wrote."""

    written: Written
    encoder: str
    """The encoder that ran, and its device."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.written.to_mapping(), "encoder": self.encoder}

    def renderables(self) -> Iterable[RenderableType]:
        """Nothing, because the file is the result and a line on stderr has already announced it."""
        return ()

    def verdict(self) -> None:
        """Embedding always succeeds, because it has no threshold to miss."""


def embed(config: EmbedConfig, registry: Registry, reporter: Reporter) -> EmbedResult:
    """Write the embeddings part by part, so that an interrupted run can continue.

    Raises:
        UsageError: something that the user can correct: the inputs, checkpoint, provider or output.
    """
    check_format(config.output)
    check_paths(config.images)
    source = _source(config, registry, reporter)
    encoder = open_encoder(registry, config.encoder, reporter)
    reporter.note(encoder.description)
    parts = Parts(config.output, _about(config, encoder), getattr(encoder, "fingerprint", None))
    done = parts.begin(resume=config.resume)
    if done.inputs:
        reporter.note(f"resuming after {done.inputs:,} inputs")
    try:
        dim = _encode(config, encoder, source(done, _sufficient(config, encoder)), parts, reporter)
    except DataError as error:
        hint = "" if config.texts is not None else "; pass --on-bad-image skip to leave such images out"
        raise DataError(f"{error}{hint}") from error
    finally:
        parts.discard_empty()
    written = parts.finish(dim or _known_dim(encoder))
    _say(written, reporter)
    return EmbedResult(written=written, encoder=encoder.description)


Source = Callable[[Done, tuple[int, int] | None], Iterator[Piece]]
"""From what an earlier run has done, and the size that suffices of a JPEG, to the remaining pieces."""


def _source(config: EmbedConfig, registry: Registry, reporter: Reporter) -> Source:
    size = math.ceil(PART / config.batch_size) * config.batch_size
    if config.texts is not None:
        texts = config.texts
        next(lines_of(texts), None)
        return lambda done, _: pieces(lines_of(texts), size, "texts", done)
    if config.data is None:
        return lambda done, at_least: pieces(image_paths(config.images), size, "images", done, at_least)
    # Images that cannot be read are left out part by part, so that rows keep their numbers.
    data = dataclasses.replace(config.data, on_bad_image="fail")
    gallery = load_gallery(registry, data, config.split, reporter)
    reporter.note(f"{gallery.label}: {gallery.captions.n_images:,} images")
    images, label = gallery.images, f"{data.label} {config.split}"
    return lambda done, _: split_pieces(images, label, size, done)


def _sufficient(config: EmbedConfig, encoder: Encoder) -> tuple[int, int] | None:
    """The width and height of a JPEG that are decoded at least; None: all of it."""
    if not config.fast_jpeg:
        return None
    height, width = getattr(encoder, "image_size", UNKNOWN_SIZE)
    return FAST_TIMES * width, FAST_TIMES * height


def _about(config: EmbedConfig, encoder: Encoder) -> Mapping[str, Any]:
    """What must be the same for a run to continue; the keys appear in the message."""
    asked = config.to_mapping()
    names = ("images", "texts", "data", "split", "on_bad_image", "batch_size", "fast_jpeg")
    model = {name: value for name, value in asked["encoder"].items() if name not in ("workers", "threads", "device")}
    about = {**{name: asked[name] for name in names}, "encoder": model, "model": encoder.description.partition(", ")[0]}
    return dict(json.loads(json.dumps(about, default=str)))


def _encode(config: EmbedConfig, encoder: Encoder, source: Iterator[Piece], parts: Parts, reporter: Reporter) -> int:
    """Encode part after part. Returns the width of the vectors, or 0 if there was nothing left to do."""
    dim = count = 0
    cut: CutCaptions | None = None
    began = said = time.monotonic()
    for piece in source:
        vectors, kept, skipped = encoded(encoder, piece, config.batch_size, config.on_bad_image, dim)
        dim = vectors.shape[1] or dim
        cut = _both(cut, _cut(encoder, piece))
        parts.add(vectors, kept.names, skipped, piece.names[-1])
        count += len(piece.names)
        if time.monotonic() - said > SECONDS:
            said = time.monotonic()
            reporter.note(f"{count:,} inputs done, {count / (said - began):.0f} per second")
    if cut is not None and cut.line:
        reporter.warn(cut.line)
    return dim


def _cut(encoder: Encoder, piece: Piece) -> CutCaptions | None:
    if piece.kind != "texts" or not isinstance(encoder, CutsCaptions):
        return None
    return encoder.cut_captions(piece.items)


def _both(one: CutCaptions | None, other: CutCaptions | None) -> CutCaptions | None:
    if one is None or other is None:
        return one or other
    return CutCaptions(one.total + other.total, one.count + other.count, max(one.longest, other.longest), one.limit)


def _known_dim(encoder: Encoder) -> int:
    """The width of the vectors if every part already existed."""
    return int(encoder.encode_texts(["a"]).shape[1])


def _say(written: Written, reporter: Reporter) -> None:
    reporter.note(f"wrote {written.output}: {written.rows:,} x {written.dim} float32")
    if written.skipped:
        reporter.warn(f"{written.skipped:,} images could not be read and were left out: see {written.skipped_list}")
