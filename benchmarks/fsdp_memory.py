"""What --fsdp saves: memory of each of two processes that train a ViT-B/32, with it and without.

    python -m benchmarks.fsdp_memory

Two processes on the CPU (gloo), 8 pairs each in micro-batches of 4, AdamW. Peak memory of a process is that of
its last step, beyond what it held before the model was loaded: weights, gradients, the optimizer's state,
activations, and what the exchange takes. Processes and ways are measured apart; their seconds are those of
gloo on one machine, which says little about GPUs. Writes fsdp_memory.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import distributed
from transformers import TrainerCallback

from benchmarks.support.checkpoints import preset, write_base
from benchmarks.support.memory import MIB, peak_since, start
from benchmarks.support.timing import environment, rounded, show, write
from icclip.config import DatasetConfig, ModelConfig, TrainConfig
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap
from icclip.training.feeding.collate import CaptionedImages
from icclip.training.step.arguments import training_arguments
from icclip.training.step.trainer import ContrastiveTrainer

PROCESSES, BATCH, MICRO, STEPS = 2, 8, 4, 4
WAYS = {"every process has the whole model": False, "--fsdp": True}
CPU = torch.device("cpu")


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_base(
            Path(folder), "clip", preset(Registry.from_environment(), "clip").feeder.processor.tokenizer, patch_size=32
        )
        rows = [{"way": way, **launched(model, fsdp)} for way, fsdp in WAYS.items()]
    whole = rows[0]["peak MiB of each process"]
    rows = [{**row, "of the whole": rounded(max(row["peak MiB of each process"]) / max(whole))} for row in rows]
    show(rows)
    about = {**environment("icclip", "torch", "transformers", "accelerate"), "processes": PROCESSES, "batch": BATCH}
    write(__file__, {"about": {**about, "micro-batch": MICRO, "steps": STEPS}, "rows": rows})


def launched(model: Path, fsdp: bool) -> dict[str, Any]:  # noqa: FBT001 # it is one of the two
    """A line of the table, from fresh processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    command = [sys.executable, *torchrun, "-m", "benchmarks.fsdp_memory", str(model), json.dumps(fsdp)]
    large_blocks_go_back_at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, check=True, env=os.environ | large_blocks_go_back_at_once, stdout=subprocess.PIPE, text=True
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


class LastStep(TrainerCallback):
    """Its peak, in bytes, and the seconds of all."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, _args: Any, _state: Any, *_more: Any, **_kwargs: Any) -> None:
        start(CPU)
        self.began = time.perf_counter()

    def on_step_end(self, _args: Any, _state: Any, *_more: Any, **_kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        self.peak = peak_since(CPU)


def measured(model: Path, fsdp: bool) -> None:  # noqa: FBT001 # it is one of the two
    """Train in one of the processes; the first prints what all have seen."""
    torch.set_num_threads(1)
    before = start(CPU)
    loaded = open_model(Registry.from_environment(), ModelConfig(name=str(model)))
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            model=ModelConfig(name=str(model)), data=DatasetConfig(name="-"), output_dir=Path(folder), train_bs=BATCH,
            micro_batch=MICRO, report_to=(), device="cpu", max_steps=STEPS, fsdp=fsdp,
        )  # fmt: skip
        arguments = training_arguments(config, workers=0, resuming=True)
        # An evaluation would save, and is none of what is measured.
        arguments.eval_strategy = arguments.save_strategy = "no"  # type: ignore[assignment] # as transformers takes it
        arguments.load_best_model_at_end = False
        rows = BATCH * PROCESSES * STEPS * 2
        data = CaptionedImages([Image.new("RGB", (224, 224))] * rows, CaptionMap.from_lists([["a dog"]] * rows))
        last = LastStep()
        ContrastiveTrainer(
            loaded, arguments, data, lambda _loaded: {"rsum": 0.0}, callbacks=[last], micro_batch=MICRO, fsdp=fsdp
        ).train()
    peaks: list[Any] = [None] * PROCESSES
    distributed.all_gather_object(peaks, round((last.peak - before) / MIB))
    if distributed.get_rank() == 0:
        print(json.dumps({"peak MiB of each process": peaks, "s a step": rounded(median(last.seconds))}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measured(Path(sys.argv[1]), json.loads(sys.argv[2]))
    else:
        main()
