"""What ranking at full size takes: peak memory and time, and ratios to a full sort and to torchmetrics.

    python -m benchmarks.ranking [--sizes] [--full]

`--full` ranks 100,000 random images and 500,000 texts of dimension 512 and stops after some minutes: the memory is
at its peak from the first block on, and the time of the whole follows from the share that was done. Embeddings are held in
memory, as an evaluation holds them; they are counted apart. Writes ranking.json beside itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance

RESULT = Path(__file__).with_suffix(".json")
DIM, CAPTIONS = 512, 5
SIZES = (1_000, 10_000)
LARGE = 100_000


class Stopped(Exception):  # noqa: N818  it is no error
    """Enough was done."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="*", default=SIZES)
    parser.add_argument("--full", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if options.full:
        result["100,000 x 500,000"] = full(options.full)
    for images in options.images:
        result[f"{images:,} x {images * CAPTIONS:,}"] = ratios(images, options.rounds)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def embeddings(images: int) -> tuple[np.ndarray, np.ndarray, Relevance]:
    """Texts lie near their image, so that about half of them find it first."""
    rng = np.random.default_rng(0)
    own = rng.standard_normal((images, DIM), dtype=np.float32)
    texts = rng.standard_normal((images * CAPTIONS, DIM), dtype=np.float32)
    texts *= 5
    for start in range(0, images, 1000):
        texts[start * CAPTIONS : (start + 1000) * CAPTIONS] += np.repeat(own[start : start + 1000], CAPTIONS, axis=0)
    captions = CaptionMap.from_lists([[f"{i} {j}" for j in range(CAPTIONS)] for i in range(images)])
    return own, texts, Relevance.of(captions, "pair")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def full(seconds: float) -> dict[str, Any]:
    own, texts, relevance = embeddings(LARGE)
    before, started, seen = peak_mib(), time.monotonic(), {"done": 0, "total": 1}

    @contextlib.contextmanager
    def progress(_description: str, total: int) -> Iterator[Callable[[int], None]]:
        def advance(steps: int) -> None:
            seen["done"] += steps
            seen["total"] = total
            if time.monotonic() - started > seconds:
                raise Stopped

        yield advance

    with contextlib.suppress(Stopped):
        rank(own, texts, relevance, progress=progress)
    share = seen["done"] / seen["total"]
    took = time.monotonic() - started
    return {
        "embeddings_mib": round((own.nbytes + texts.nbytes) / 2**20),
        "peak_mib_beside_the_embeddings_and_captions": round(peak_mib() - before),
        "peak_mib_of_the_process": round(peak_mib()),
        "share_done": round(share, 4),
        "hours_for_all": round(took / share / 3600, 2),
    }


def ratios(images: int, rounds: int) -> dict[str, float]:
    """Seconds of a full sort, as a multiple of ours; the median of the rounds, in which both take turns."""
    own, texts, relevance = embeddings(images)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (own, texts)]
    contestants = {"icclip": lambda: rank(own, texts, relevance), "full_sort": lambda: full_sort(*unit)}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    ratio = np.median(np.array(times["full_sort"]) / np.array(times["icclip"]))
    return {
        "icclip_seconds": round(float(np.median(times["icclip"])), 2),
        "full_sort_over_icclip": round(float(ratio), 2),
    }


def full_sort(images: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The usual way: every row of similarities is sorted, in both directions (blocks of 500 rows, so that it fits)."""
    owner = np.repeat(np.arange(len(images)), CAPTIONS)
    i2t = [_places(rows @ texts.T, [range(CAPTIONS * i, CAPTIONS * (i + 1)) for i in span])
           for span, rows in _blocks(images)]  # fmt: skip
    t2i = [_places(rows @ images.T, [(int(owner[t]),) for t in span]) for span, rows in _blocks(texts)]
    return np.concatenate(i2t), np.concatenate(t2i)


def _blocks(rows: np.ndarray) -> Iterator[tuple[range, np.ndarray]]:
    for start in range(0, len(rows), 500):
        yield range(start, min(start + 500, len(rows))), rows[start : start + 500]


def _places(scores: np.ndarray, right: list[Any]) -> np.ndarray:
    order = np.argsort(-scores, axis=1)
    return np.array([np.flatnonzero(np.isin(own, list(these)))[0] + 1 for own, these in zip(order, right, strict=True)])


if __name__ == "__main__":
    main()
