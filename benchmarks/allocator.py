"""What it saves that a process keeps the memory it frees: images a second of a vision tower on a CPU, page faults, peak memory.

    python -m benchmarks.allocator [--rounds 5]

An EfficientNet (B2, 224 pixels) and a ViT-B/16 with random weights, in transformers, on batches of 8 images. Each measurement is
a process of its own: glibc's allocator as it is, or after `icclip.models.allocator.keep_freed_memory`. They take turns, and ratios are
medians over the rounds. Writes allocator.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel, EfficientNetConfig, PretrainedConfig, ViTConfig

from benchmarks.support.timing import environment, rounded, show, write
from icclip.models.allocator import keep_freed_memory

BATCH, CALLS = 8, 6
TOWERS: dict[str, PretrainedConfig] = {
    "EfficientNet-B2": EfficientNetConfig(
        width_coefficient=1.1, depth_coefficient=1.2, image_size=224, hidden_dim=1408
    ),
    "ViT-B/16": ViTConfig(),
}
PLAIN, KEPT = "as it is", "kept"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [
        row_of(name, [[alone(name, how) for how in (PLAIN, KEPT)] for _ in range(options.rounds)]) for name in TOWERS
    ]
    show(rows)
    about = {**environment("torch", "transformers"), "threads": torch.get_num_threads(), "batch": BATCH}
    write(__file__, {"about": about, "rows": rows})


def row_of(name: str, rounds: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds, of pairs of a plain process and one that keeps its memory."""
    row: dict[str, Any] = {"tower": name}
    for number, how in enumerate((PLAIN, KEPT)):
        for key in ("images/s", "page faults an image", "peak MiB"):
            row[f"{key}, {how}"] = rounded(statistics.median(pair[number][key] for pair in rounds))
    row["times faster"] = rounded(statistics.median(kept["images/s"] / plain["images/s"] for plain, kept in rounds))
    return row


def alone(name: str, how: str) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.allocator", "--alone", name, how]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured_here(name: str, how: str) -> dict[str, float]:
    """Images a second over some batches, after one that does not count."""
    if how == KEPT and not keep_freed_memory():
        raise SystemExit("the allocator of this machine cannot be told to keep memory")
    torch.manual_seed(0)
    model, images = AutoModel.from_config(TOWERS[name]).eval(), torch.rand(BATCH, 3, 224, 224)
    with torch.inference_mode():
        model(images)
        began, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(CALLS):
            model(images)
    taken, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "images/s": BATCH * CALLS / taken,
        "page faults an image": (used.ru_minflt - faults) / (BATCH * CALLS),
        "peak MiB": used.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(measured_here(*sys.argv[2:])))
    else:
        main()
