"""How large, how fast and how good an index is: icclip's kinds beside usearch and hnswlib.

    pip install usearch hnswlib
    python -m benchmarks.index [--sizes 100000 1000000] [--leave-out NAME ...] [--embeddings FILE.npy]

Vectors of 512 dimensions, float32, of length 1. Without --embeddings they are drawn as embeddings lie: 4,000 themes whose
directions follow a falling spectrum, in each the images of the theme, with noise; queries are noisy copies of other
images, moved towards one side as texts are. With --embeddings they are real ones with noise.

Every graph has 32 links a node at most and the same effort in building (40). Each index is searched with the least effort of a ladder that finds 95 % of the ten
nearest; if none does, with the most. Queries a second are those of one call with 1,000 queries, the median of five; the kinds take
turns. Sizes and contestants that an earlier run has measured are kept, unless they are measured again.

Writes index.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.support.timing import environment, rounded, show, take_turns, write
from icclip.searching.engine import Engine, best_of, blocks_of, factory_of

DIM, K, QUERIES, ENOUGH = 512, 10, 1000, 0.95
THEMES, TEXT_SHIFT = 4_000, 0.3
LINKS, BUILD_EFFORT = 32, 40
EFFORTS = (16, 32, 64, 128, 256, 512)
THREADS, ROUNDS = (1, 2), 5

Search = Callable[[np.ndarray], np.ndarray]
"""float32 [q, dim] -> int64 [q, K]: rows."""


@dataclass
class Built:
    """An index that is there: its size, how it is searched with an effort, and how its threads are set."""

    bytes: int
    efforts: Sequence[Any]
    search: Callable[[Any, np.ndarray], np.ndarray]
    threads: Callable[[int], None]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--leave-out", nargs="*", default=[], choices=[*CONTESTANTS])
    parser.add_argument("--embeddings", type=Path, help="real embeddings, float32 [n, 512]")
    options = parser.parse_args()
    result = Path(__file__).with_suffix(".json")
    before = json.loads(result.read_text(encoding="utf-8"))["rows"] if result.exists() else []
    about = environment("icclip", "faiss-cpu", "usearch", "hnswlib", "numpy")
    for size in options.sizes:
        rows = measured(size, [name for name in CONTESTANTS if name not in options.leave_out], options.embeddings)
        new = set(map(_which, rows))
        before = sorted([row for row in before if _which(row) not in new] + rows, key=lambda row: row["vectors"])
        write(__file__, {"about": {**about, "dimensions": DIM, "build threads": max(THREADS)}, "rows": before})
    show(before)


def _which(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["vectors"], row["made from"], row["index"]


def measured(size: int, names: Sequence[str], real: Path | None) -> list[dict[str, Any]]:
    """A row for each contestant."""
    vectors, queries = drawn(size) if real is None else noisy(np.load(real, mmap_mode="r"), size)
    right = best_of(queries, K, blocks_of(vectors))[1]
    rows, searches, threads = [], dict[str, Search](), dict[str, Callable[[int], None]]()
    for name in names:
        began = time.perf_counter()
        built = CONTESTANTS[name](vectors, queries)
        seconds = time.perf_counter() - began
        effort, recall = least_effort(built, queries, right)
        searches[name], threads[name] = partial(built.search, effort), built.threads
        rows.append(
            {
                "vectors": size, "made from": "drawn" if real is None else "real, with noise", "index": name, "build s": rounded(seconds), "MB": rounded(built.bytes / 1e6),
                f"recall@{K}": rounded(recall), "effort": effort,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    for count in THREADS:
        for name in names:
            threads[name](count)
        taken = take_turns({name: partial(searches[name], queries) for name in names}, rounds=ROUNDS)
        for row in rows:
            row[f"queries/s, {count} thread{'s' * (count > 1)}"] = rounded(
                QUERIES / statistics.median(taken[row["index"]])
            )
    return rows


def least_effort(built: Built, queries: np.ndarray, right: np.ndarray) -> tuple[Any, float]:
    """The first effort that finds enough, and what it finds."""
    for effort in built.efforts:
        recall = recall_of(built.search(effort, queries), right)
        if recall >= ENOUGH:
            break
    return effort, recall


def recall_of(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, right, strict=True)]))


# Vectors ------------------------------------------------------------------------------------------


def drawn(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and queries."""
    rng = np.random.default_rng(0)
    spectrum = (1.0 / np.sqrt(1 + np.arange(DIM))).astype(np.float32)
    themes = unit(rng.standard_normal((THEMES, DIM), np.float32) * spectrum)
    vectors = np.concatenate(list(_around(rng, themes, spectrum, size)))
    texts = next(_around(rng, themes, spectrum, QUERIES))
    return vectors, unit(texts + TEXT_SHIFT * unit(rng.standard_normal((1, DIM), np.float32)))


def _around(rng: np.random.Generator, themes: np.ndarray, spectrum: np.ndarray, size: int) -> Iterator[np.ndarray]:
    scale = np.linalg.norm(spectrum)
    for start in range(0, size, 100_000):
        count = min(100_000, size - start)
        own = rng.standard_normal((count, DIM), np.float32) * spectrum / scale
        noise = rng.standard_normal((count, DIM), np.float32) / np.sqrt(DIM)
        yield unit(themes[rng.integers(0, THEMES, count)] + 0.8 * own + 0.3 * noise)


def noisy(real: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Copies of real embeddings, each moved by noise of 0.3 of their length."""
    rng = np.random.default_rng(0)
    base = unit(np.asarray(real, np.float32))
    made = [base[rng.integers(0, len(base), count)] for count in (size, QUERIES)]
    return tuple(unit(one + 0.3 * rng.standard_normal(one.shape, np.float32) / np.sqrt(DIM)) for one in made)  # type: ignore[return-value]


def unit(vectors: np.ndarray) -> np.ndarray:
    made: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


# Contestants --------------------------------------------------------------------------------------


def icclips(kind: str, vectors: np.ndarray, queries: np.ndarray) -> Built:
    """A kind of icclip's, as `icclip index` builds it; its quantizers are trained on queries as well."""
    faiss.omp_set_num_threads(max(THREADS))
    training = np.concatenate([vectors[:250_000], queries])
    engine = Engine.built(factory_of(kind, len(vectors), DIM, None), vectors, training, DIM)
    return Built(
        engine.serialized_bytes(),
        engine.efforts,
        lambda effort, asked: engine.with_effort(effort).search(asked, K)[1],
        faiss.omp_set_num_threads,
    )


def usearchs(vectors: np.ndarray, _queries: np.ndarray) -> Built:
    """Usearch's graph."""
    from usearch.index import Index

    index = Index(ndim=DIM, metric="ip", dtype="f32", connectivity=LINKS, expansion_add=BUILD_EFFORT)
    index.add(np.arange(len(vectors)), vectors, threads=max(THREADS))
    count = [max(THREADS)]

    def search(effort: int, asked: np.ndarray) -> np.ndarray:
        index.expansion_search = effort
        return np.asarray(index.search(asked, K, threads=count[0]).keys, np.int64)

    return Built(int(index.serialized_length), EFFORTS, search, lambda threads: count.__setitem__(0, threads))


def hnswlibs(vectors: np.ndarray, _queries: np.ndarray) -> Built:
    """Hnswlib's graph."""
    import hnswlib

    index = hnswlib.Index(space="ip", dim=DIM)
    index.init_index(max_elements=len(vectors), M=LINKS, ef_construction=BUILD_EFFORT, random_seed=0)
    index.set_num_threads(max(THREADS))
    index.add_items(vectors)
    with tempfile.NamedTemporaryFile() as file:
        index.save_index(file.name)
        size = Path(file.name).stat().st_size

    def search(effort: int, asked: np.ndarray) -> np.ndarray:
        index.set_ef(effort)
        return np.asarray(index.knn_query(asked, K)[0], np.int64)

    return Built(size, EFFORTS, search, index.set_num_threads)


CONTESTANTS: Mapping[str, Callable[[np.ndarray, np.ndarray], Built]] = {
    "icclip flat": partial(icclips, "flat"),
    "icclip hnsw": partial(icclips, "hnsw"),
    "icclip ivf-pq": partial(icclips, "ivf-pq"),
    "usearch": usearchs,
    "hnswlib": hnswlibs,
}

if __name__ == "__main__":
    main()
