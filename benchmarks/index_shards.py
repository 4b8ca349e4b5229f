"""What an index of shards on the disk takes: memory at two sizes, and vectors a second, from which 100 million are computed.

    python -m benchmarks.index_shards [--sizes 100000 400000]

Vectors of 512 dimensions in shards of 50,000. `memory` is the most that the process held of its own beyond what it
had before (Linux: RssAnon; files that are mapped do not count). `sorting` is measured with the 32,768 lists that 100 million items
get, found by a graph, in blocks of 64 MB so that the smaller size has several too; the centres are trained for one round, which changes their
quality and not the speed. Training them in full is computed from the products a second of that round.

Writes index_shards.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from benchmarks.support.timing import environment, rounded, show, write
from icclip.console import Reporter
from icclip.embedding.layout import Layout, Manifest
from icclip.embedding.shard_writer import shard_writer
from icclip.searching import on_disk
from icclip.searching.engine import TRAINED_ON
from icclip.searching.lists import attach, merge
from icclip.searching.shards import Shards

DIM, SHARD, LISTS, BLOCK = 512, 50_000, 32_768, 64 << 20
MANY, ROUNDS = 100_000_000, 10


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    index, seconds = trained(faiss.index_factory(DIM, f"IVF{LISTS}_HNSW32,SQ8", faiss.METRIC_INNER_PRODUCT))
    on_disk.BLOCK_BYTES = BLOCK
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(index, size, Path(folder)) for size in options.sizes]
    show(rows)
    last = rows[-1]
    hours = {
        "training": seconds * (TRAINED_ON / LISTS) * ROUNDS / 3600,
        "sorting": MANY / last["sorted a second"] / 3600,
        "merging": MANY / last["merged a second"] / 3600,
    }
    about = environment("icclip", "faiss-cpu", "numpy")
    computed = {"items": MANY, "lists": LISTS, "hours": {name: rounded(value) for name, value in hours.items()}}
    write(
        __file__,
        {"about": {**about, "threads": options.threads, "dimensions": DIM}, "rows": rows, "computed": computed},
    )


def trained(index: Any) -> tuple[Any, float]:
    """The index with one round of training on as many vectors as lists, and the seconds of it."""
    ivf = faiss.extract_index_ivf(index)
    ivf.cp.niter, ivf.cp.min_points_per_centroid = 1, 1
    began = time.perf_counter()
    index.train(vectors_of(0, LISTS))
    return index, time.perf_counter() - began


def vectors_of(seed: int, count: int) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((count, DIM), np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def measured(index: Any, size: int, folder: Path) -> dict[str, Any]:
    """A row."""
    shards = written(folder / f"shards{size}", size)
    out = folder / f"index{size}"
    out.mkdir()
    step = max(on_disk.CHUNK, BLOCK // (DIM + 8) // on_disk.CHUNK * on_disk.CHUNK)
    with Peak() as peak:
        began = time.perf_counter()
        starts = range(0, size, step)
        blocks = [on_disk._block(index, shards.vectors, range(s, min(s + step, size)), out) for s in starts]  # noqa: SLF001
        sorted_at = time.perf_counter()
        merge(blocks, DIM, out)
        merged_at = time.perf_counter()
    whole = faiss.clone_index(index)
    attach(whole, out)
    if whole.ntotal != size:
        raise RuntimeError(f"{whole.ntotal} vectors of {size}")
    return {
        "vectors": size, "MB of vectors": rounded(size * DIM * 4 / 1e6), "blocks": len(blocks), "memory MB": round(peak.most / 1e6),
        "sorted a second": rounded(size / (sorted_at - began)), "merged a second": rounded(size / (merged_at - sorted_at)),
    }  # fmt: skip


def written(directory: Path, size: int) -> Shards:
    """Shards as `icclip embed` writes them."""
    count = -(-size // SHARD)
    manifest = Manifest(
        fingerprint="f", checkpoint="model", encoder="model", dim=DIM, shards=count, sources=("x",), captions=False,
        on_bad_image="fail", batch_size=32,
    )  # fmt: skip
    layout = Layout(directory)
    layout.begin(manifest)
    for shard in range(count):
        rows = range(shard * SHARD, min(size, (shard + 1) * SHARD))
        with shard_writer(layout, manifest, shard) as writer:
            writer.add([f"{row}.jpg" for row in rows], vectors_of(shard + 1, len(rows)), [None] * len(rows), None)
            writer.finish()
    return Shards.open(directory, "f", Reporter(silent=True))


class Peak:
    """The most memory of its own that this process holds beyond what it has at the beginning, in bytes."""

    def __enter__(self) -> Self:
        self._before, self.most, self._over = anonymous(), 0, threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, anonymous() - self._before)


def anonymous() -> int:
    lines = dict(line.split(":") for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


if __name__ == "__main__":
    main()
