"""Embed 20,000 images in shards on a local cluster of Ray with two workers, kill a worker and the driver, and look at what comes out.

    pip install 'ray[data]'
    python -m benchmarks.embed_ray [--images 20000] [--shards 40]

The images are small and generated, and five are corrupt; the model is an untrained clip-tiny in PyTorch. One of the actors gets
SIGKILL after a quarter of the shards, the driver with its cluster after half of them; then the same command runs again. The
result is compared with shards made without Ray, bit for bit, and with a single file of embeddings, whose batches hold
other images. Writes embed_ray.json beside itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.embed_bulk import command, corrupt, environment, images, model
from benchmarks.support import timing

POLL, PATIENCE = 0.1, 3_000
RAY = ("--engine", "ray", "--actors", "2", "--actor-cpus", "0.5")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = embed_ray(Path(folder), options.images, options.shards)
    print(json.dumps(result, indent=2))
    timing.write(__file__, {"about": timing.environment("icclip", "ray", "torch", "transformers"), **result})


def embed_ray(folder: Path, count: int, shards: int) -> dict[str, Any]:
    """What was seen."""
    checkpoint = model(folder / "model")
    names = images(folder / "images", count)
    bad = corrupt(names)
    source, out = folder / "images", folder / "ray"
    sharded = ["--shards", str(shards)]
    plain = timed(command(checkpoint, source, folder / "plain.npy"))
    here = timed([*command(checkpoint, source, folder / "here"), *sharded])
    on_ray = [word for word in command(checkpoint, source, out) if word not in ("--workers", "1")] + [*sharded, *RAY]
    kills = killed(on_ray, out, shards)
    last = timed(on_ray)
    rows, failed = rows_of(out, shards), failures_of(out)
    return {
        "images": count,
        "corrupt": len(bad),
        "shards": shards,
        "kills": kills,
        "every item exactly once": sorted(rows) == sorted(set(names) - set(bad)) and sorted(failed) == sorted(bad),
        "equal bit for bit to shards without Ray": same(folder / "here", out),
        "largest difference to one file": largest(folder, rows),
        "left behind": sorted(
            path.name for path in out.iterdir() if path.name.startswith(".") or path.name == "inputs"
        ),
        "seconds": {"one file": plain, "shards without Ray": here, "Ray, after the second kill": last},
    }


def timed(arguments: Sequence[str]) -> float:
    """Seconds of a run to its end. Raises RuntimeError where it fails."""
    began = time.monotonic()
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return round(time.monotonic() - began, 1)


def killed(arguments: Sequence[str], out: Path, shards: int) -> list[dict[str, Any]]:
    """Start, kill an actor after a quarter of the shards, and the driver after half of them."""
    process = subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait(process, lambda: finished(out) >= shards // 4)
    actor = actors()[0]
    os.kill(actor, signal.SIGKILL)
    kills = [{"who": "one of two actors", "finished shards": finished(out)}]
    wait(process, lambda: finished(out) >= shards // 2)
    process.kill()
    process.wait()
    return [*kills, {"who": "the driver", "finished shards": finished(out)}]


def wait(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Raises RuntimeError where the run ends, or hangs, before."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the run ended ({process.poll()}) or hung before it was killed")
        time.sleep(POLL)


def finished(out: Path) -> int:
    return len(list(out.glob("finished/*.json")))


def actors() -> list[int]:
    """Processes of the actors that embed."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if line.startswith("ray::") and "_Actor" in line:
                found.append(int(entry.name))
    return found


def rows_of(out: Path, shards: int) -> dict[str, np.ndarray]:
    """Path -> its vector. Raises RuntimeError where a path stands twice."""
    rows: dict[str, np.ndarray] = {}
    for shard in range(shards):
        vectors = np.load(out / f"img_emb/img_emb_{shard:04}.npy")
        names = pq.read_table(out / f"metadata/metadata_{shard:04}.parquet")["image_path"].to_pylist()
        if rows.keys() & set(names) or len(set(names)) != len(vectors):
            raise RuntimeError(f"shard {shard} holds an item twice")
        rows |= zip(names, vectors, strict=True)
    return rows


def failures_of(out: Path) -> list[str]:
    return [name for file in (out / "failed").iterdir() for name in pq.read_table(file)["input"].to_pylist()]


def same(one: Path, other: Path) -> bool:
    """Whether the vectors of both have the same bits, in the same order."""
    pairs = zip(*(sorted((path / "img_emb").iterdir()) for path in (one, other)), strict=True)
    return all(a.read_bytes() == b.read_bytes() for a, b in pairs)


def largest(folder: Path, rows: dict[str, np.ndarray]) -> float:
    names = [json.loads(line) for line in (folder / "plain.inputs.jsonl").read_text().splitlines()]
    plain = np.load(folder / "plain.npy")
    return float(np.abs(plain - np.stack([rows[name] for name in names])).max())


if __name__ == "__main__":
    main()
