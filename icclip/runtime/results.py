"""The results of encoding: embeddings, the inputs they belong to, and the inputs that could not be encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

OnError = Literal["raise", "skip", "null"]
"""What happens with an item that cannot be used: it ends the call, is left out, or gets a row of NaN."""

ON_ERROR = ("raise", "skip", "null")


class Failure(NamedTuple):
    """An item that could not be encoded."""

    row: int
    """Its index among the inputs, from 0."""
    reason: str
    """The reason, in one line."""


@dataclass(frozen=True)
class Encoded:
    """Embeddings, and which inputs they belong to."""

    embeddings: np.ndarray
    """float32 [n, dim] with rows of length 1; NaN if the item failed and `errors="null"`."""
    rows: np.ndarray
    """int64 [n]: the input that each embedding was made of."""
    failures: tuple[Failure, ...] = ()
    """The items that could not be encoded, in their order."""

    def __len__(self) -> int:
        return len(self.rows)


def placed(
    embeddings: np.ndarray,
    rows: np.ndarray,
    total: int,
    failures: Sequence[Failure],
    errors: OnError,
    *,
    first: int = 0,
) -> Encoded:
    """The embeddings of `total` inputs from row `first` on, including those that failed with `errors="null"`."""
    if errors != "null" or not failures:
        return Encoded(embeddings, rows, tuple(failures))
    whole = np.full((total, embeddings.shape[1]), np.nan, np.float32)
    whole[rows - first] = embeddings
    return Encoded(whole, np.arange(first, first + total), tuple(failures))


def joined(parts: Sequence[Encoded], dim: int, errors: OnError) -> np.ndarray | Encoded:
    """Join the parts of one call: an array, or an `Encoded` if failures were asked for."""
    embeddings = np.concatenate([np.empty((0, dim), np.float32), *(part.embeddings for part in parts)])
    if errors == "raise":
        return embeddings
    rows = np.concatenate([np.empty(0, np.int64), *(part.rows for part in parts)])
    return Encoded(embeddings, rows, tuple(failure for part in parts for failure in part.failures))
