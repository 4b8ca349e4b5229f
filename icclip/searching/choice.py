"""Which kind of index: named, by the number of items, or by what it may weigh and what it has to find."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from icclip.config.indexing import LEAST_RECALL, IndexConfig, bytes_of
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.searching import gate
from icclip.searching.engine import LEAST_TO_TRAIN, TRAINED_ON, Engine, Vectors, factory_of, kind_for, quantized
from icclip.searching.on_disk import built_on_disk, factory_on_disk

GOOD_ENOUGH = 0.99
"""Where only a size is given, a kind with this recall ends the trials."""
_BYTES_PER_LINK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One kind that was built and measured."""

    kind: str
    factory: str
    effort: Mapping[str, int] = field(default_factory=dict)
    items: int
    bytes: int
    build_seconds: float
    queries_per_second: float | None = None
    measured: Mapping[str, Any] | None = None
    chosen: bool = False

    @property
    def recall(self) -> float:
        """The smaller recall@10 of text and image queries."""
        return 1.0 if self.measured is None else gate.lowest_recall(self.measured)

    def to_mapping(self) -> dict[str, Any]:
        """A row of the table of what was tried."""
        values = {
            name: getattr(self, name) for name in ("kind", "factory", "bytes", "build_seconds", "queries_per_second", "chosen")
        }  # fmt: skip
        recalls = {
            f"{kind}_recall@10": None if self.measured is None else self.measured[kind]["recall@10"]
            for kind in ("text", "image")
        }
        return {**values, "effort": dict(self.effort), **recalls}


@dataclass(frozen=True)
class Trial:
    """What every kind is built from and measured with."""

    vectors: Vectors
    training: np.ndarray
    queries: gate.Queries
    exact: gate.Exact | None
    """None: the gate is off."""
    needed: float
    seed: int
    on_disk: Path | None = None
    """The directory whose disk the lists lie on."""

    def run(self, kind: str, factory: str) -> tuple[Engine, Tried]:
        """Build one kind, and find the least effort that reaches the recall that is needed."""
        began = time.perf_counter()
        engine = self._built(factory)
        tried = Tried(
            kind=kind, factory=factory, items=len(self.vectors), bytes=engine.serialized_bytes(), effort=engine.efforts[0],
            build_seconds=round(time.perf_counter() - began, 3),
        )  # fmt: skip
        if self.exact is None:
            effort = engine.efforts[len(engine.efforts) // 2]
            return engine.with_effort(effort), dataclasses.replace(tried, effort=effort)
        for effort in engine.efforts:
            engine = engine.with_effort(effort)
            measured = gate.measure(engine, self.vectors, self.queries, self.exact, self.seed)
            tried = dataclasses.replace(tried, effort=effort, measured=measured)
            if tried.recall >= self.needed:
                break
        return engine, dataclasses.replace(tried, queries_per_second=self._speed(engine))

    def _built(self, factory: str) -> Engine:
        if self.on_disk is not None:
            return built_on_disk(factory, self.vectors, self.training, self.on_disk)
        return Engine.built(factory, self.vectors, self.training, self.vectors.shape[1])

    def _speed(self, engine: Engine) -> float:
        began = time.perf_counter()
        engine.search(self.queries.texts, gate.K)
        return round(len(self.queries.texts) / max(time.perf_counter() - began, 1e-9), 1)


def build_best(
    config: IndexConfig,
    vectors: Vectors,
    texts: np.ndarray,
    queries: gate.Queries,
    reporter: Reporter,
    *,
    directory: Path,
) -> tuple[Engine, list[Tried], Mapping[str, Any] | None]:
    """The index that the request asks for, what was tried on the way, and what the gate measured.

    Args:
        config: names the kind, or what it may weigh and has to find.
        vectors: float32 [n, dim], mapped from a file.
        texts: float32 [m, dim]: texts that quantizers are trained on beside the images.
        queries: what the index is measured with.
        reporter: says what is tried.
        directory: where the index will be.

    Raises:
        UsageError: nothing fits into --max-bytes, or FAISS cannot make the kind.
    """
    chooses = (
        config.kind is None and not config.on_disk and (config.max_bytes is not None or config.min_recall is not None)
    )
    exact = gate.Exact.of(vectors, queries) if config.gate == "on" or chooses else None
    trial = Trial(
        vectors,
        training_of(vectors, texts, config.seed),
        queries,
        exact,
        config.min_recall or LEAST_RECALL,
        config.seed,
        directory if config.on_disk else None,
    )
    if not chooses:
        engine, tried = trial.run(*_named(config, len(vectors), vectors.shape[1]))
        return engine, [dataclasses.replace(tried, chosen=True)], tried.measured
    return _chosen(config, trial, reporter)


def _named(config: IndexConfig, items: int, dim: int) -> tuple[str, str]:
    if config.on_disk:
        return config.kind or "ivf", factory_on_disk(config.kind, items, dim)
    kind = config.kind or kind_for(items)
    return kind, factory_of(kind, items, dim, config.stored_as)


def training_of(vectors: Vectors, texts: np.ndarray, seed: int) -> np.ndarray:
    """Images and texts in one sample: a quantizer that saw images alone places texts badly."""
    rows = np.random.default_rng(seed).permutation(len(vectors))[: TRAINED_ON - len(texts)]
    sample = np.asarray(vectors[np.sort(rows)], np.float32)
    return np.concatenate([sample, texts])


def candidates(items: int, dim: int) -> list[tuple[str, str, int]]:
    """(kind, factory string, about how many bytes), the smallest first."""
    found = [
        ("flat", "Flat", items * dim * 4),
        ("flat", "SQfp16", items * dim * 2),
        ("SQ8", "SQ8", items * dim),
        ("hnsw", "HNSW32,SQfp16", items * (dim * 2 + 68 * _BYTES_PER_LINK)),
        ("hnsw", "HNSW32,Flat", items * (dim * 4 + 68 * _BYTES_PER_LINK)),
    ]
    if items >= LEAST_TO_TRAIN:
        for share in (16, 8, 4):
            factory = quantized(items, dim, share)
            lists, codes = (int(part.strip("IVFPQnp")) for part in factory.split(","))
            size = items * (codes + 8) + lists * dim * 4 + 1024 * dim
            found.append(("ivf-pq", factory, size))
        found.append(("ivf-pq", factory_of("ivf-pq", items, dim, None), size + items * dim))
    return sorted(found, key=lambda one: one[2])


def _chosen(
    config: IndexConfig, trial: Trial, reporter: Reporter
) -> tuple[Engine, list[Tried], Mapping[str, Any] | None]:
    limit = None if config.max_bytes is None else bytes_of(config.max_bytes)
    fitting = [one for one in candidates(*trial.vectors.shape) if limit is None or one[2] <= limit]
    if not fitting:
        least = candidates(*trial.vectors.shape)[0]
        raise UsageError(
            f"--max-bytes {config.max_bytes} is too little for {len(trial.vectors):,} items: the smallest kind "
            f"({least[1]}) takes about {least[2]:,} bytes"
        )
    # With a recall alone the smallest that reaches it is wanted; with a size the best that fits.
    order = fitting if limit is None else fitting[::-1]
    enough = trial.needed if limit is None or config.min_recall is not None else GOOD_ENOUGH
    best: tuple[Engine, Tried] | None = None
    tried: list[Tried] = []
    for kind, factory, _ in order:
        reporter.note(f"trying {factory}")
        engine, one = trial.run(kind, factory)
        if limit is not None and one.bytes > limit:
            tried.append(one)
            continue
        tried.append(one)
        if best is None or one.recall > best[1].recall:
            best = engine, one
        if one.recall >= enough:
            break
    if best is None:
        raise UsageError(f"--max-bytes {config.max_bytes} is too little: every kind that was tried came out larger")
    return best[0], _marked(tried, best[1]), best[1].measured


def _marked(tried: Sequence[Tried], best: Tried) -> list[Tried]:
    return [dataclasses.replace(one, chosen=True) if one is best else one for one in tried]
