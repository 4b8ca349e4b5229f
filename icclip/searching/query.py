"""Searching: a query is a unit vector, made of texts and images; a hit is an item with its cosine and score."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.config.searching import SearchConfig
from icclip.console import Reporter
from icclip.data.foreign import IMAGE_SUFFIXES
from icclip.data.images import decode_image
from icclip.errors import DataError, UsageError
from icclip.files import atomic_write_text
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder
from icclip.searching.opening import OpenIndex, check_golden_vectors, encoder_of
from icclip.searching.record import Stamp

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class Hit:
    """One item that was found."""

    rank: int
    """From 1."""
    row: int
    cosine: float
    """With the query, as exactly as the index stores its vectors."""
    score: float | None
    """By the model's own temperature: its share among the hits (softmax), or the probability of a match (sigmoid).

    None where the query holds an image: the model was trained to score texts with images alone.
    """
    item: Mapping[str, Any]
    """Its columns, without the thumbnail."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "item": dict(self.item)}


@dataclass(frozen=True)
class Query:
    """What is looked for."""

    vector: np.ndarray
    """float32 [dim], length 1."""
    scored: bool
    """Whether it is made of texts alone."""


def combined(plus: Sequence[np.ndarray], minus: Sequence[np.ndarray], *, scored: bool) -> Query:
    """The sum of unit vectors less those that results should be unlike, at length 1.

    Raises:
        UsageError: they cancel each other out.
    """
    total = np.sum([np.zeros_like(plus[0]), *plus, *(-one for one in minus)], axis=0, dtype=np.float64)
    length = float(np.linalg.norm(total))
    if length < 1e-6:  # noqa: PLR2004 # nothing but rounding is left
        raise UsageError("the parts of the query cancel each other out: leave one of them out")
    return Query(np.asarray(total / length, np.float32), scored)


def find(index: OpenIndex, query: Query, k: int, where: str | None = None) -> list[Hit]:
    """The k items nearest to a query, best first; fewer where fewer meet the condition.

    Raises:
        UsageError: the condition is none, or names no column.
    """
    allowed = None if where is None else index.items.rows_where(where)
    cosines, rows = index.engine.search(query.vector[None], k, allowed)
    held = rows[0] >= 0
    return hits_of(index, rows[0][held], cosines[0][held], scored=query.scored)


def like(index: OpenIndex, row: int, k: int, where: str | None = None) -> list[Hit]:
    """The items nearest to an item of the index, without itself."""
    vector = index.engine.vectors(np.array([row]))[0]
    hits = [hit for hit in find(index, Query(vector, scored=False), k + 1, where) if hit.row != row][:k]
    return [dataclasses.replace(hit, rank=rank) for rank, hit in enumerate(hits, start=1)]


def hits_of(index: OpenIndex, rows: np.ndarray, cosines: np.ndarray, *, scored: bool) -> list[Hit]:
    """Rows with what is known of them."""
    items = index.items.take([int(row) for row in rows]) if len(rows) else []
    scores = model_scores(cosines, index.record.encoder) if scored else [None] * len(rows)
    return [
        Hit(rank, int(row), float(cosine), None if score is None else float(score), item)
        for rank, (row, cosine, score, item) in enumerate(zip(rows, cosines, scores, items, strict=True), start=1)
    ]


def model_scores(cosines: np.ndarray, stamp: Stamp) -> np.ndarray:
    """float64 [n]: cosines as the model was trained to score them.

    Softmax over the hits for the softmax loss (CLIP, arXiv:2103.00020), a sigmoid with the learnt bias for the
    sigmoid loss (SigLIP, arXiv:2303.15343).
    """
    logits = cosines.astype(np.float64) * np.exp(stamp.logit_scale) + (stamp.logit_bias or 0.0)
    if stamp.loss == "sigmoid":
        scores: np.ndarray = np.exp(-np.logaddexp(0.0, -logits))
        return scores
    weights = np.exp(logits - logits.max(initial=-np.inf))
    return np.asarray(weights / weights.sum())


# The command --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What was found."""

    title: str
    hits: tuple[Hit, ...]
    seconds: float
    page: Path | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "query": self.title,
            "hits": [hit.to_mapping() for hit in self.hits],
            "seconds": round(self.seconds, 4),
            "page": None if self.page is None else str(self.page),
        }

    def renderables(self) -> Iterator[RenderableType]:
        """A row for each hit."""
        from icclip.report.index import found_table

        yield found_table(self.title, [hit.to_mapping() for hit in self.hits])

    def verdict(self) -> None:
        """A search has no threshold to miss."""


def search(config: SearchConfig, registry: Registry, reporter: Reporter) -> SearchResult:
    """Answer one query of the command line.

    Raises:
        UsageError: the index, the encoder, an image or the filter cannot be used.
    """
    index = OpenIndex.open(config.index)
    plus, minus = _parts(config)
    # Before an encoder is loaded.
    if config.where is not None:
        index.items.rows_where(config.where)
    assert config.encoder is not None
    encoder = encoder_of(index, config.encoder, registry, reporter)
    kinds = {isinstance(part, Path) for part in (*plus, *minus)}
    check_golden_vectors(index, encoder, texts=False in kinds, images=True in kinds)
    began = time.perf_counter()
    query = combined(
        [_vector(encoder, part) for part in plus], [_vector(encoder, part) for part in minus], scored=True not in kinds
    )
    hits = tuple(find(index, query, config.k, config.where))
    title = _title(plus, minus, config.where)
    result = SearchResult(title=title, hits=hits, seconds=time.perf_counter() - began)
    return dataclasses.replace(result, page=_page(config, index, result, reporter))


Part = str | Path
"""A text, or an image file."""


def _parts(config: SearchConfig) -> tuple[list[Part], list[Part]]:
    words = [part for part in config.query if not isinstance(_part(part), Path)]
    pictures = [part for part in map(_part, config.query) if isinstance(part, Path)]
    # Words without quotation marks are one text.
    text: list[Part] = [" ".join(words)] if words else []
    return [*text, *pictures, *config.text, *config.image], [_part(part) for part in config.minus]


def _part(said: str) -> Part:
    """An image file where there is one of that name, or where the name can be nothing else."""
    path = Path(said)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return said
    try:
        there = path.is_file()
    except (OSError, ValueError):
        there = False
    if there:
        return path
    if " " in said:
        return said
    raise UsageError(f"there is no image {said}; to search for these words pass --text {said!r}")


def _vector(encoder: Encoder, part: Part) -> np.ndarray:
    if isinstance(part, str):
        vector: np.ndarray = encoder.encode_texts([part], batch_size=1)[0]
        return vector
    try:
        image = decode_image(part, str(part))
    except DataError as error:
        raise UsageError(str(error)) from error
    made: np.ndarray = encoder.encode_images([image], batch_size=1)[0]
    return made


def _title(plus: Sequence[Part], minus: Sequence[Part], where: str | None) -> str:
    said = " + ".join(str(part) for part in plus) + "".join(f" - {part}" for part in minus)
    return said if where is None else f"{said}, where {where}"


def _page(config: SearchConfig, index: OpenIndex, result: SearchResult, reporter: Reporter) -> Path | None:
    if config.page is None and not config.open:
        return None
    from icclip.report.index_page import results_page

    path = config.page or config.index / "results.html"
    pictures = index.items.take([hit.row for hit in result.hits], ["thumbnail"]) if result.hits else []
    rows = [(hit.to_mapping(), values["thumbnail"]) for hit, values in zip(result.hits, pictures, strict=True)]
    atomic_write_text(path, results_page(result.title, rows))
    reporter.note(f"wrote {path}")
    if config.open:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())
    return path
