"""The exported encoders on onnxruntime's CUDA provider: parity, latency and throughput.

    python -m benchmarks.gpu.onnxruntime_cuda
    python -m benchmarks.gpu.onnxruntime_cuda --device cpu --size tiny      shows that it works

ViT-B/16 of both families with random weights. First the export with its gate, for which the CUDA
provider runs float32 (without TF32) and fp16; then each tower at batches of 1, 8, 64 and 256, inputs
copied to the device and outputs back, beside torch in bf16 (eager and compiled). Contestants take
turns. TensorRT has a row that says why there is no number in it. Writes onnxruntime_cuda.json.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.common import loaded, parser, synchronize, write_result
from benchmarks.support.checkpoints import FAMILIES
from benchmarks.support.timing import medians, rounded, show, take_turns, times_faster
from icclip.bundles.manifest import Tower
from icclip.config import DatasetConfig, EncoderConfig, ExportConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.exporting.request import ExportResult
from icclip.exporting.run import export
from icclip.models.loaded import LoadedModel
from icclip.plugins.registry import Registry
from icclip.runtime.providers import Provider, choose_provider, cuda_options
from icclip.runtime.sessions import open_session
from icclip.runtime.threads import default_threads
from icclip_export.onnx.towers import example_pixels, example_tokens, tower_ios
from icclip_export.precisions import graph_name

if TYPE_CHECKING:
    import numpy as np

PRECISIONS = ("fp32", "fp16")
BATCHES = {"base": (1, 8, 64, 256), "tiny": (1, 8)}
ROUNDS = {1: 100, 8: 50, 64: 20, 256: 10}
SAMPLE = {"base": 400, "tiny": 16}
EAGER, COMPILED = "torch bf16", "torch bf16, compiled"
TOWERS: tuple[Tower, ...] = ("vision", "text")


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options = made.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    parity, speed = [], []
    for family in options.families:
        with tempfile.TemporaryDirectory() as folder:
            work = Work(options, family, Path(folder))
            parity += parity_rows(work)
            for tower, batch in itertools.product(TOWERS, BATCHES[options.size]):
                if time.monotonic() > deadline:
                    print(f"{family}: no time left for {tower} at batch {batch}")
                    continue
                speed += speed_rows(work, tower, batch)
    tensorrt = tensorrt_row()
    print()
    show(parity)
    show(speed)
    show([tensorrt])
    write_result(__file__, options, {"parity": parity, "speed": speed, "tensorrt": tensorrt})


@dataclass
class Work:
    """A checkpoint and its bundle."""

    options: argparse.Namespace
    family: str
    folder: Path

    @property
    def provider(self) -> Provider:
        return "cpu" if self.options.device == "cpu" else "cuda"

    @cached_property
    def loaded(self) -> LoadedModel:
        return loaded(self.family, self.options.size, self.folder / "checkpoint")

    @cached_property
    def exported(self) -> ExportResult:
        assert self.loaded, "the checkpoint is written"
        config = ExportConfig(
            encoder=EncoderConfig(
                checkpoint=str(self.folder / "checkpoint"), provider=self.provider, device=self.options.device
            ),
            data=DatasetConfig(name="shapes"), output_dir=self.folder / "bundle", precisions=PRECISIONS,
            sample=SAMPLE[self.options.size],
        )  # fmt: skip
        return export(config, Registry.from_environment(), Reporter(silent=True))

    def ours(self, tower: Tower, precision: str) -> Callable[[np.ndarray], np.ndarray]:
        session = open_session(
            self.exported.bundle / graph_name(tower, precision),
            tower_ios(self.loaded)[tower],
            self.provider,
            options=cuda_options() if self.provider == "cuda" else {},
            threads=default_threads(),
        )
        return session.run


def parity_rows(work: Work) -> list[dict[str, Any]]:
    """What the gate measured; it raises where it refuses."""
    return [
        {
            "model": work.family,
            "precision": one.precision,
            "provider": one.provider,
            "passed": one.passed,
            **{
                f"{tower}: 1 - lowest cosine": rounded(1 - one.measured["towers"][tower]["min_cosine"])
                for tower in TOWERS
            },
        }
        for one in work.exported.parity.results
    ]


def speed_rows(work: Work, tower: Tower, batch: int) -> list[dict[str, Any]]:
    """Milliseconds a batch, rows a second, and how many times faster than torch in bf16."""
    taken = take_turns(calls(work, tower, batch), rounds=ROUNDS[batch], warmup=3)
    found = [
        {
            "model": work.family,
            "tower": tower,
            "batch": batch,
            "runs as": name,
            "ms": round(1000 * middle, 3),
            "a second": rounded(batch / middle),
            f"times faster than {EAGER}": times_faster(taken, name, EAGER),
        }
        for name, middle in medians(taken).items()
    ]
    for one in found:
        print(*one.values(), flush=True)
    return found


def calls(work: Work, tower: Tower, batch: int) -> Mapping[str, Callable[[], object]]:
    """From an array on the host to an array on the host."""
    inputs = (example_pixels if tower == "vision" else example_tokens)(work.loaded, batch)
    array = inputs.numpy()
    torch.compiler.reset()
    eager = torch_tower(work, tower)
    contestants = {EAGER: on_device(work, eager, inputs)}
    contestants[COMPILED] = on_device(work, torch.compile(eager, dynamic=False), inputs)
    for precision in PRECISIONS:
        run = work.ours(tower, precision)
        contestants[f"icclip {precision}, {work.provider}"] = lambda run=run: run(array)
    return contestants


def torch_tower(work: Work, tower: Tower) -> Callable[[torch.Tensor], torch.Tensor]:
    work.loaded.model.to(work.options.device)
    if tower == "vision":
        return lambda pixels: work.loaded.image_features({"pixel_values": pixels})
    return lambda ids: work.loaded.text_features({"input_ids": ids})


def on_device(work: Work, encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> Callable[[], object]:
    device = torch.device(work.options.device)

    def call() -> object:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            features = encode(inputs.to(device)).float().cpu()
        synchronize(work.options.device)
        return features

    return call


def tensorrt_row() -> dict[str, str]:
    """The provider, or why it cannot be had."""
    try:
        choose_provider("tensorrt")
    except UsageError as error:
        return {"runs as": "icclip, tensorrt", "not measured": str(error)}
    return {"runs as": "icclip, tensorrt", "not measured": "it works here, and this script does not know it yet"}


if __name__ == "__main__":
    main()
