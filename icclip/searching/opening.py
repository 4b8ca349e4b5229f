"""An index that is opened, and the encoder that made it: another one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.golden import read_golden, write_golden
from icclip.bundles.parity_record import measured_batch
from icclip.config import EncoderConfig
from icclip.console import Reporter
from icclip.data.images import decode_image
from icclip.encoders import open_encoder
from icclip.errors import CheckpointError, UsageError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder
from icclip.searching.engine import Engine
from icclip.searching.items import Items
from icclip.searching.record import ITEMS, VECTORS, Record, Stamp, read_record, stamp_of

if TYPE_CHECKING:
    from PIL.Image import Image

GOLDEN_TEXTS = ("a dog runs across the grass", "two people in front of a house", "a red circle")
LOWEST_COSINE = {"int8": 0.99}
"""Precision -> what an input has to have in common with itself on another machine."""
LOWEST_COSINE_ELSE = 0.999


@dataclass(frozen=True)
class OpenIndex:
    """An index, mapped into memory: opening it reads a few kilobytes."""

    directory: Path
    record: Record

    @classmethod
    def open(cls, directory: Path) -> OpenIndex:
        """Raises CheckpointError where it is no index, or damaged."""
        return cls(directory, read_record(directory))

    @cached_property
    def items(self) -> Items:
        """What is known of the items."""
        items = Items(self.directory / ITEMS)
        if len(items) != self.record.items:
            raise CheckpointError(
                f"{self.directory / ITEMS} has {len(items):,} rows for {self.record.items:,} items: build the index again"
            )
        return items

    @cached_property
    def engine(self) -> Engine:
        """The vectors."""
        return self.engine_from_file(mapped=True)

    def engine_from_file(self, *, mapped: bool) -> Engine:
        """The vectors, mapped into memory or, to be changed, read into it."""
        ids = None if self.record.items == self.record.next_id else self.items.ids
        engine = Engine.open(self.directory / VECTORS, self.record.effort, ids, mapped=mapped)
        if engine.raw.ntotal != self.record.items or engine.raw.d != self.record.encoder.dim:
            raise CheckpointError(
                f"{self.directory / VECTORS} holds {engine.raw.ntotal:,} vectors of width {engine.raw.d}, but icclip.json "
                f"says {self.record.items:,} of {self.record.encoder.dim}: build the index again"
            )
        return engine


def encoder_request(record: Record, said: Mapping[str, Any] | None, model: str | None) -> EncoderConfig:
    """The encoder that an index is searched with: its own, unless the user says where it is now."""
    values = {"precision": record.encoder.precision, **(said or {}), "checkpoint": model or record.encoder.checkpoint}
    return EncoderConfig.from_mapping(values)


def encoder_of(index: OpenIndex, request: EncoderConfig, registry: Registry, reporter: Reporter) -> Encoder:
    """Open the encoder of an index.

    Raises:
        UsageError: it is not there, or is another one.
    """
    place = Path(request.checkpoint)
    if place.is_absolute() and not place.exists():
        raise UsageError(
            f"{request.checkpoint}, which made {index.directory}, is no longer there: say where it is now with --model"
        )
    encoder = open_encoder(registry, request, reporter)
    check_same(index, stamp_of(encoder, request.checkpoint, index.record.encoder.dim))
    return encoder


def check_same(index: OpenIndex, stamp: Stamp) -> None:
    """Raises UsageError where an encoder is not the one that made the index."""
    own = index.record.encoder
    if stamp.fingerprint != own.fingerprint:
        raise UsageError(
            f"{index.directory} was made by another encoder ({own.description}, fingerprint {own.fingerprint[:12]}) than "
            f"{stamp.checkpoint} ({stamp.description}, {stamp.fingerprint[:12]}): use that one, or build the index again"
        )


def golden_images() -> list[Image]:
    """Two images that are the same everywhere."""
    from PIL import Image, ImageDraw

    gradient = Image.merge("RGB", [Image.linear_gradient("L").rotate(turn) for turn in (0, 90, 180)])
    drawn = Image.new("RGB", (96, 64), (200, 220, 240))
    draw = ImageDraw.Draw(drawn)
    draw.ellipse((12, 12, 52, 52), fill=(210, 40, 40))
    draw.rectangle((58, 24, 90, 56), fill=(30, 60, 180))
    return [gradient, drawn]


def write_golden_vectors(directory: Path, encoder: Encoder) -> None:
    """Keep a few inputs with what the encoder makes of them."""
    images = golden_images()
    batch = measured_batch(encoder, 1)
    made = encoder.encode_images(images, batch_size=batch), encoder.encode_texts(GOLDEN_TEXTS, batch_size=batch)
    write_golden(directory, images, GOLDEN_TEXTS, *made)


def check_golden_vectors(index: OpenIndex, encoder: Encoder, *, texts: bool = True, images: bool = True) -> None:
    """Encode the index's golden inputs again, so that a machine that computes something else is noticed.

    Raises:
        CheckpointError: the vectors are not what they were.
    """
    golden = read_golden(index.directory)
    found = []
    if texts:
        found.append((encoder.encode_texts(list(golden.texts), batch_size=1), golden.text_embeddings, "texts"))
    if images:
        decoded = [decode_image(path, path.name) for path in golden.images]
        found.append((encoder.encode_images(decoded, batch_size=1), golden.image_embeddings, "images"))
    needed = LOWEST_COSINE.get(index.record.encoder.precision, LOWEST_COSINE_ELSE)
    for now, then, what in found:
        lowest = float(np.einsum("nd,nd->n", now, then).min()) if now.shape == then.shape else -1.0
        if lowest < needed:
            raise CheckpointError(
                f"{index.directory}: the golden {what} are encoded differently here than when the index was built (lowest "
                f"cosine {lowest:.5f}, needs {needed}): build the index again on this machine"
            )
