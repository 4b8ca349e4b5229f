"""One piece of inputs becomes vectors; what cannot be read is left out where the user says so."""

from __future__ import annotations

import numpy as np

from icclip.bundles.parity_record import measured_batch
from icclip.config import OnBadImage
from icclip.embedding.sources import Piece, readable
from icclip.errors import DataError
from icclip.plugins.specs import Encoder


def encoded(
    encoder: Encoder, piece: Piece, batch_size: int, on_bad_image: OnBadImage, dim: int = 0
) -> tuple[np.ndarray, Piece, dict[str, str]]:
    """Encode a piece.

    Args:
        encoder: encodes.
        piece: images or texts.
        batch_size: inputs that are encoded together.
        on_bad_image: what happens to images that cannot be read.
        dim: the width of the result where nothing is left.

    Returns:
        float32 [n, dim] with rows of length 1, the part of the piece that they belong to, and the names of the others with
        the reasons.

    Raises:
        DataError: an image cannot be read and is not to be skipped.
    """
    try:
        return vectors_of(encoder, piece, batch_size), piece, {}
    except DataError:
        if on_bad_image == "fail":
            raise
        rows, skipped = readable(piece)
        if not skipped:
            raise
    kept = piece.only(rows)
    return vectors_of(encoder, kept, batch_size) if rows else np.empty((0, dim), np.float32), kept, skipped


def vectors_of(encoder: Encoder, piece: Piece, batch_size: int) -> np.ndarray:
    """float32 [n, dim], rows of length 1. Raises DataError where an image cannot be read."""
    batch_size = measured_batch(encoder, batch_size)
    if piece.kind == "texts":
        return encoder.encode_texts(piece.items, batch_size=batch_size)
    return encoder.encode_images(piece.items, batch_size=batch_size)
