"""What ranking costs: time and working memory beside a full sort and CLIP_benchmark's way, and at full size.

    python -m benchmarks.ranking [--images 1000 10000] [--full MINUTES]

All contestants rank the same embeddings in both directions and take turns; a ratio is the median over the rounds. The
embeddings are held in memory, as an evaluation holds them, and are not counted as working memory. `--full` ranks 100,000
images and 500,000 texts of dimension 512 and stops after so many minutes at the latest: the memory is at its peak after
the first blocks, and the time of the whole follows from the share that was done. Writes ranking.json beside itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support import memory
from benchmarks.support.timing import environment, rounded, write
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance

DIM, CAPTIONS = 512, 5
CUTOFFS = (1, 5, 10)
LARGE = 100_000
BATCH = 64
"""CLIP_benchmark's default."""
CPU = torch.device("cpu")
Recalls = dict[str, float]


class EnoughError(Exception):
    """Ends a ranking that has taken its time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="*", default=(1_000, 10_000))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", type=float, default=0.0, metavar="MINUTES")
    options = parser.parse_args()
    path = Path(__file__).with_suffix(".json")
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"sizes": {}}
    about = environment("numpy", "torch") | {"threads of a product": torch.get_num_threads()}
    # Of whatever does not say it itself: a size may be measured again alone, on another machine.
    result.setdefault("about", about)
    for images in options.images:
        result["sizes"][str(images)] = beside_others(images, options.rounds) | {"about": about}
        write(__file__, result)
    if options.full:
        result["full"] = full(60 * options.full)
        write(__file__, result)
    print(json.dumps(result, indent=2))


def embeddings(images: int) -> tuple[np.ndarray, np.ndarray, Relevance]:
    """float32 [images, DIM] and [CAPTIONS * images, DIM], unit rows; half of the texts find their image at once."""
    rng = np.random.default_rng(0)
    own = rng.standard_normal((images, DIM), dtype=np.float32)
    texts = rng.standard_normal((images * CAPTIONS, DIM), dtype=np.float32)
    texts *= 5
    for start in range(0, images, 1000):
        texts[start * CAPTIONS : (start + 1000) * CAPTIONS] += np.repeat(own[start : start + 1000], CAPTIONS, axis=0)
    for rows in (own, texts):
        for start in range(0, len(rows), 1000):
            rows[start : start + 1000] /= np.linalg.norm(rows[start : start + 1000], axis=1, keepdims=True)
    captions = CaptionMap.from_lists([[f"{i} {j}" for j in range(CAPTIONS)] for i in range(images)])
    return own, texts, Relevance.of(captions, "pair")


# Beside others -----------------------------------------------------------------------------------


def beside_others(images: int, rounds: int) -> dict[str, Any]:
    own, texts, relevance = embeddings(images)
    contestants: Mapping[str, Callable[[], Recalls]] = {
        "icclip": partial(ours, own, texts, relevance),
        "full sort": partial(full_sort, own, texts),
        "CLIP_benchmark": partial(clip_benchmark, own, texts),
    }
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    peaks = dict.fromkeys(contestants, 0.0)
    found: dict[str, Recalls] = {}
    for _ in range(rounds):
        for name, work in contestants.items():
            held, started = memory.start(CPU), time.perf_counter()
            found[name] = work()
            taken[name].append(time.perf_counter() - started)
            peaks[name] = max(peaks[name], (memory.peak_since(CPU) - held) / memory.MIB)
    return {
        "rounds": rounds,
        "seconds": {name: rounded(statistics.median(own)) for name, own in taken.items()},
        "times icclip's": {
            name: rounded(statistics.median(b / a for a, b in zip(taken["icclip"], own, strict=True)))
            for name, own in taken.items()
        },
        "working MiB": {name: round(peak) for name, peak in peaks.items()},
        "recalls": found["icclip"],
        "largest difference of a recall": max(
            abs(other[key] - value) for other in found.values() for key, value in found["icclip"].items()
        ),
    }


def recalls(i2t: np.ndarray, t2i: np.ndarray) -> Recalls:
    """From ranks, int [queries], that begin at 1."""
    directions = {"i2t": i2t, "t2i": t2i}
    return {f"{name}_R@{k}": float((ranks <= k).mean()) for name, ranks in directions.items() for k in CUTOFFS}


def ours(images: np.ndarray, texts: np.ndarray, relevance: Relevance) -> Recalls:
    found = rank(images, texts, relevance)
    return recalls(found.i2t, found.t2i)


def full_sort(images: np.ndarray, texts: np.ndarray) -> Recalls:
    """The usual way: the whole matrix, of which every row and every column is sorted; 500 at a time, so that it fits."""
    scores = images @ texts.T
    owner = np.arange(len(texts)) // CAPTIONS
    i2t = [(owner[np.argsort(-scores[rows], axis=1)] == np.arange(len(images))[rows, None]).argmax(1) + 1
           for rows in _rows(len(images))]  # fmt: skip
    t2i = [(np.argsort(-scores.T[rows], axis=1) == owner[rows, None]).argmax(1) + 1 for rows in _rows(len(texts))]
    return recalls(np.concatenate(i2t), np.concatenate(t2i))


def _rows(count: int) -> Iterator[slice]:
    return (slice(start, start + 500) for start in range(0, count, 500))


def clip_benchmark(images: np.ndarray, texts: np.ndarray) -> Recalls:
    """The steps of CLIP_benchmark's zeroshot_retrieval: two whole matrices, and for each K and batch the K best, one-hot."""
    scores = torch.from_numpy(texts) @ torch.from_numpy(images).T
    right = torch.zeros_like(scores, dtype=torch.bool)
    right[torch.arange(len(texts)), torch.arange(len(texts)) // CAPTIONS] = True
    directions = {"i2t": (scores.T, right.T), "t2i": (scores, right)}
    return {f"{name}_R@{k}": _share_found(*pair, k) for name, pair in directions.items() for k in CUTOFFS}


def _share_found(scores: torch.Tensor, right: torch.Tensor, k: int) -> float:
    shares = []
    for one, known in zip(scores.split(BATCH), right.split(BATCH), strict=True):
        best = torch.nn.functional.one_hot(one.topk(k, dim=1).indices, num_classes=scores.shape[1])
        hits = (best * known[:, None, :]).sum(dim=(1, 2))
        shares.append(hits / known.sum(dim=1))
    return float((torch.cat(shares) > 0).double().mean())


# At full size ------------------------------------------------------------------------------------


def full(seconds: float) -> dict[str, Any]:
    """All queries against all candidates, or those of the time that there was."""
    images, texts, relevance = embeddings(LARGE)
    held, started, seen = memory.start(CPU), time.monotonic(), {"done": 0, "total": 1}

    @contextlib.contextmanager
    def progress(_description: str, total: int) -> Iterator[Callable[[int], None]]:
        def advance(steps: int) -> None:
            seen["done"] += steps
            seen["total"] = total
            if time.monotonic() - started > seconds:
                raise EnoughError

        yield advance

    with contextlib.suppress(EnoughError):
        rank(images, texts, relevance, progress=progress)
    took, share = time.monotonic() - started, seen["done"] / seen["total"]
    return {
        "images": len(images),
        "texts": len(texts),
        "dimension": DIM,
        "embeddings MiB": round((images.nbytes + texts.nbytes) / memory.MIB),
        "working MiB": round((memory.peak_since(CPU) - held) / memory.MIB),
        "share done": round(share, 4),
        "minutes": round(took / 60, 1),
        "minutes for all": round(took / share / 60, 1),
    }


if __name__ == "__main__":
    main()
