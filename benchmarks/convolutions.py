"""What it saves that a tower of convolutions reads its images with the channels of a pixel side by side, on a CPU.

    python -m benchmarks.convolutions --vision EFFICIENTNET [--rounds 7]

A trained tower of convolutions (random ones compute with numbers near zero, which is slow in itself), in transformers, on
batches of 16 images of 260 pixels: encoding, and a training step (forwards and backwards), in float32 and in bf16 (autocast). "as it is" and "channels last" take turns, and ratios are medians over the rounds.
Writes convolutions.json.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from benchmarks.support.timing import environment, medians, rounded, show, take_turns, times_faster, write
from icclip.models.allocator import keep_freed_memory
from icclip.models.convolutions import lay_out_channels_last

BATCH, PIXELS = 16, 260
PLAIN, OURS = "as it is", "channels last"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vision", required=True, help="a directory or a hub id of a transformers vision model")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    keep_freed_memory()
    plain = AutoModel.from_pretrained(options.vision).eval()
    ours = copy.deepcopy(plain)
    lay_out_channels_last(ours)
    rows = [
        row_of(what, precision, {PLAIN: call(plain, bf16), OURS: call(ours, bf16)}, options.rounds)
        for what, call in (("encode", encoding), ("train", training))
        for precision, bf16 in (("fp32", False), ("bf16", True))
    ]
    show(rows)
    write(
        __file__, {"about": {**environment("torch", "transformers"), "threads": torch.get_num_threads()}, "rows": rows}
    )


def row_of(what: str, precision: str, calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """Images a second of both, and how many times faster ours is."""
    taken = take_turns(calls, rounds=rounds, warmup=1)
    middle = medians(taken)
    rates = {f"images/s, {name}": rounded(BATCH / seconds) for name, seconds in middle.items()}
    return {"step": what, "precision": precision, **rates, "times faster": times_faster(taken, OURS, PLAIN)}


def encoding(tower: nn.Module, bf16: bool) -> Callable[[], object]:  # noqa: FBT001  a row's setting
    """Features of a batch."""
    pixels = torch.randn(BATCH, 3, PIXELS, PIXELS)

    def call() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return tower(pixels).pooler_output

    return call


def training(tower: nn.Module, bf16: bool) -> Callable[[], object]:  # noqa: FBT001  a row's setting
    """Forwards and backwards, BatchNorm with its statistics as they are."""
    pixels = torch.randn(BATCH, 3, PIXELS, PIXELS)

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features = tower(pixels).pooler_output
        features.float().square().mean().backward()

    return call


if __name__ == "__main__":
    main()
