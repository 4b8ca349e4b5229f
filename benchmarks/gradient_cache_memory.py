"""Peak memory of one training step against the batch size, with micro-batches of 32 and without.

    python -m benchmarks.gradient_cache_memory

Each line is a process of its own that makes its batch, takes a step of 32 pairs to have everything in
place, and measures a step of the batch: on a GPU what torch allocates beyond what it held before, on a
CPU the same of the process's resident memory (Linux). The batch's inputs are not in these numbers: they
lie in the CPU's memory before the step, grow with the batch, and stand in a column of their own.

Writes gradient_cache_memory.json beside itself. Compare the ratios between machines.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.support.memory import MIB, measured_alone, peak_since, start
from icclip.config import DatasetConfig, ModelConfig, TrainConfig
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap
from icclip.training.feeding.collate import IDS, CaptionedImages
from icclip.training.step.arguments import training_arguments
from icclip.training.step.trainer import ContrastiveTrainer

MICRO = 32
BATCHES = (256, 1024, 4096)
PLAIN = (256, 1024)
PRESETS = {"softmax": "clip-tiny", "sigmoid": "siglip-tiny"}
SIDE = 64
RESULT = Path(__file__).with_suffix(".json")


def main() -> None:
    """Measure, print, write."""
    rows = []
    print(f"{'loss':<9}{'batch':>6}{'encoded':>9}{'peak MiB':>10}{'to 256':>8}{'inputs MiB':>12}")
    for loss in PRESETS:
        cases = [(batch, MICRO) for batch in BATCHES] + [(batch, None) for batch in PLAIN]
        measured = [
            measured_alone("benchmarks.gradient_cache_memory", loss, batch, micro or 0) for batch, micro in cases
        ]
        first = {row["micro_batch"]: row["peak_mib"] for row in measured if row["batch"] == BATCHES[0]}
        for row in measured:
            row["ratio_to_256"] = round(row["peak_mib"] / first[row["micro_batch"]], 2)
            encoded = row["micro_batch"] or "all"
            print(
                f"{loss:<9}{row['batch']:>6}{encoded:>9}{row['peak_mib']:>10.0f}{row['ratio_to_256']:>8.2f}"
                f"{row['inputs_mib']:>12.0f}"
            )
        rows += measured
    about = {"torch": torch.__version__, "transformers": version("transformers"), "python": platform.python_version()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    result = {"device": device, "image_side": SIDE, "models": PRESETS, **about, "rows": rows}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measured(loss: str, batch: int, micro: int | None) -> dict[str, Any]:
    """Peak memory of a step beyond what was there, in MiB."""
    trainer = trainer_for(loss, batch, micro)
    trainer.training_step(trainer.model, inputs(trainer, MICRO))
    whole = inputs(trainer, batch)
    before = start(trainer.args.device)
    trainer.training_step(trainer.model, whole)
    peak = (peak_since(trainer.args.device) - before) / MIB
    held = sum(value.numel() * value.element_size() for value in whole.values()) / MIB
    return {
        "loss": loss, "batch": batch, "micro_batch": micro, "peak_mib": round(peak, 1), "inputs_mib": round(held, 1),
    }  # fmt: skip


def trainer_for(loss: str, batch: int, micro: int | None) -> ContrastiveTrainer:
    """Of a preset, with nothing to train on: the steps are taken by hand."""
    config = TrainConfig(
        model=ModelConfig(name=PRESETS[loss], image_resize=SIDE),
        data=DatasetConfig(name="shapes"),
        output_dir=Path(tempfile.mkdtemp()),
        train_bs=batch,
        micro_batch=micro,
        report_to=(),
    )
    captions = ["a photo of a red square", "two dogs run across the wet grass"]
    loaded = open_model(Registry.from_environment(), config.model, captions=lambda: captions)
    nothing = CaptionedImages([Image.new("RGB", (SIDE, SIDE))], CaptionMap.from_lists([captions]))
    arguments = training_arguments(config, workers=0)
    trainer = ContrastiveTrainer(loaded, arguments, nothing, lambda _: {}, micro_batch=micro)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def inputs(trainer: ContrastiveTrainer, batch: int) -> dict[str, torch.Tensor]:
    """A batch of noise, in the CPU's memory, as the loader leaves it."""
    generator = torch.Generator().manual_seed(batch)
    text = trainer.loaded.feeder.text_inputs(["a photo of a red square"] * batch)
    pixels = torch.randn(batch, 3, SIDE, SIDE, generator=generator)
    ids = torch.arange(batch)[:, None].expand(-1, 2).contiguous()
    return {"pixel_values": pixels, **text, IDS: ids}


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print(json.dumps(measured(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) or None)))
