"""Images per second in training ViT-B/16 on one GPU, and what limits them.

    python -m benchmarks.gpu.throughput [--dataset flickr8k@PATH]
    python -m benchmarks.gpu.throughput --device cpu --size tiny      shows that it works

1. The step alone, on one batch that is there already, texts padded to their full length: icclip in bf16
   at several batches (with the gradient cache from 1,024 on), compiled and not; open_clip's step in
   bf16, where open_clip can be imported; transformers' Trainer in float32, as the seed project trains.
2. The step with its data: icclip as `icclip train --bf16` does it, with images from its cache as in every
   epoch but the first, and the seed project's manner (float32, PIL processor in 4 workers, batches of 64,
   4 accumulated).
3. The data alone, and what a step's time is spent on.

MFU counts the model's own operations (forward once, backward twice) and no recomputation. Without
--dataset the images are drawn: JPEG, 500 x 375 pixels as on Flickr. Writes throughput.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from benchmarks.gpu.common import device_name, loaded, parser, peak, synchronize, write_result
from benchmarks.gpu.flops import training_flops
from benchmarks.support.checkpoints import FAMILIES
from benchmarks.support.timing import rounded, show
from benchmarks.support.turns import Turns
from icclip.config import DatasetConfig, ModelConfig, TrainConfig
from icclip.console import Reporter
from icclip.data.gallery import Gallery
from icclip.data.loading import dataset_config, load_splits
from icclip.data.split import SplitImages, caption_map
from icclip.models.loaded import LoadedModel
from icclip.plugins.registry import Registry
from icclip.training.feeding.collate import CaptionedImages, Collator, split_batch
from icclip.training.feeding.sources import Sources
from icclip.training.step.arguments import allow_fast_matmul, default_workers, training_arguments
from icclip.training.step.schedule import Cadence
from icclip.training.step.trainer import ContrastiveTrainer

SEED_BATCH, SEED_ACCUMULATION, SEED_WORKERS = 64, 4, 4
NEVER = 10**6
"""Epochs until an evaluation."""
DRAWN, DISTINCT = 8192, 256
"""Rows of the drawn split, and images that differ among them."""


@dataclass(frozen=True)
class Scale:
    """What is measured at one size."""

    plain: int
    """A batch that fits without the gradient cache."""
    cached: Sequence[int]
    micro: int
    window: int
    """Steps in one reading."""
    rounds: int


SCALES = {
    "base": Scale(plain=256, cached=(1024, 4096), micro=256, window=4, rounds=3),
    "tiny": Scale(plain=8, cached=(16,), micro=4, window=1, rounds=2),
}


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--dataset", help="as `icclip train` takes it; none: drawn images")
    made.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options = made.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    split = training_split(options.dataset)
    rows: list[dict[str, Any]] = []
    profiles: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ICCLIP_CACHE"] = folder
        for family in options.families:
            work = Work(options, family, Path(folder) / family, split)
            rows += measured(work, deadline)
            profiles[family] = profile(work)
    for family, spent in profiles.items():
        print(f"\n{family}: what a step of {SCALES[options.size].plain} is spent on")
        show(spent)
    print()
    show(rows)
    write_result(__file__, options, {"rows": rows, "profile": profiles})


def measured(work: Work, deadline: float) -> list[dict[str, Any]]:
    """The rows of one family; what the time does not allow is said."""
    rows = []
    for name, measure in cases(work).items():
        if time.monotonic() > deadline:
            print(f"{work.family}: no time left for {name}")
            continue
        rows.append(measure())
        print(*rows[-1].values(), flush=True)
    return rows


def cases(work: Work) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, the most wanted first."""
    plain, micro = work.scale.plain, work.scale.micro
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "the step": lambda: step_row(work, "icclip bf16", plain),
        "the seed project's step": lambda: seed_row(work, data=False),
        "icclip with data": lambda: our_data_row(work),
        "the seed project with data": lambda: seed_row(work, data=True),
        "the data": lambda: data_row(work),
    }
    for batch in work.scale.cached:
        name = f"the step of {batch}"
        found[name] = lambda batch=batch: step_row(work, "icclip bf16, gradient cache", batch, micro=micro)
    found["the compiled step"] = lambda: step_row(work, "icclip bf16, compiled", plain, compiled=True)
    if work.family == "clip" and importlib.util.find_spec("open_clip"):
        found["open_clip's step"] = lambda: open_clip_row(work, plain)
    return found


@dataclass
class Work:
    """A model and its data. Every measurement begins with the same weights on the device."""

    options: argparse.Namespace
    family: str
    folder: Path
    split: Dataset

    @property
    def scale(self) -> Scale:
        return SCALES[self.options.size]

    @property
    def device(self) -> str:
        return self.options.device

    @cached_property
    def loaded(self) -> LoadedModel:
        return loaded(self.family, self.options.size, self.folder)

    @property
    def text_length(self) -> int:
        return self.loaded.model.config.text_config.max_position_embeddings

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """From our Collator, repeated; pinned where there is a GPU, as the DataLoader would have it."""
        rows = CaptionedImages(SplitImages(self.split), caption_map(self.split))
        made = Collator(self.loaded.feeder, seed=0)([rows[0, i] for i in range(min(size, DISTINCT))])
        missing = self.text_length - made["input_ids"].shape[1]
        padding = self.loaded.feeder.processor.tokenizer.pad_token_id
        made["input_ids"] = functional.pad(made["input_ids"], (0, missing), value=padding)
        whole = {
            name: value.repeat(-(-size // len(value)), *[1] * (value.ndim - 1))[:size] for name, value in made.items()
        }
        return {name: value.pin_memory() for name, value in whole.items()} if torch.cuda.is_available() else whole


class Blank(CaptionedImages):
    """Rows for a collator that looks at none of them."""

    def __init__(self, rows: int) -> None:
        self.rows, self.duplicates = rows, None

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: tuple[int, int]) -> Any:
        return index


# icclip -------------------------------------------------------------------------------------------


def our_trainer(
    work: Work, turns: Turns, batch: int, *, micro: int | None = None, compiled: bool = False, data: bool = False
) -> ContrastiveTrainer:
    """As `icclip train --bf16` builds it. `data`: it reads the split; otherwise one batch over and over."""
    config = TrainConfig(
        model=ModelConfig(name=work.family), data=DatasetConfig(name="-"), output_dir=work.folder / "run",
        train_bs=batch, micro_batch=micro, precision="bf16", device=work.device, max_steps=NEVER, report_to=(), cache_images="on",
        training_args={"torch_compile": compiled},
    )  # fmt: skip
    arguments = training_arguments(config, workers=default_workers() if data else 0, resuming=True)
    allow_fast_matmul(arguments)
    loaded = work.loaded.ready_for(caption_map(work.split).texts) if data else work.loaded
    sources = Sources(config, loaded.feeder, Reporter(silent=True))
    rows = sources.training(Gallery.of(work.split), seen=NEVER) if data else Blank(batch)
    trainer = ContrastiveTrainer(
        loaded, arguments, rows, lambda _: {}, micro_batch=micro, cadence=Cadence(eval_every=NEVER), callbacks=[turns]
    )
    if not data:
        fixed = work.batch(batch)
        trainer.data_collator = lambda _rows: dict(fixed)
        arguments.dataloader_pin_memory = False  # It is pinned.
    return trainer


def timed(work: Work, build: Callable[[Turns], Trainer]) -> float:
    """Seconds of one step of a trainer: the fastest of several readings of several steps each."""
    turns = Turns(
        "step", {}, rounds=work.scale.rounds, warmup=1, window=work.scale.window,
        synchronize=lambda: synchronize(work.device),
    )  # fmt: skip
    with without_compiled_code():
        return min(turns.of(build(turns))["step"])


@contextlib.contextmanager
def without_compiled_code() -> Iterator[None]:
    """Nothing is left on the device from before, and the peak is this measurement's own."""
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield


def step_row(work: Work, name: str, batch: int, *, micro: int | None = None, compiled: bool = False) -> dict[str, Any]:
    seconds = timed(work, lambda turns: our_trainer(work, turns, batch, micro=micro, compiled=compiled))
    return row(work, name, batch, seconds, what="step")


def our_data_row(work: Work) -> dict[str, Any]:
    batch = work.scale.plain
    seconds = timed(work, lambda turns: our_trainer(work, turns, batch, data=True))
    return row(work, f"icclip bf16, {default_workers()} workers", batch, seconds, what="step with data")


def data_row(work: Work) -> dict[str, Any]:
    """Reading, decoding and preprocessing, with no model behind it."""
    batch, window = work.scale.plain, work.scale.window
    idle = Turns("step", {}, rounds=1, warmup=0)
    batches = iter(our_trainer(work, idle, batch, data=True).get_train_dataloader())
    readings = []
    for _ in range(1 + work.scale.rounds):
        started = time.perf_counter()
        for _ in range(window):
            next(batches)
        readings.append((time.perf_counter() - started) / window)
    return row(work, f"{default_workers()} workers", batch, min(readings[1:]), what="data")


# Others -------------------------------------------------------------------------------------------


def seed_row(work: Work, *, data: bool) -> dict[str, Any]:
    batch = SEED_BATCH if work.options.size == "base" else work.scale.plain
    seconds = timed(work, lambda turns: seed_trainer(work, turns, batch, data=data))
    name = "seed project: float32, Trainer" + (f", {SEED_WORKERS} workers" if data else "")
    return row(work, name, batch * SEED_ACCUMULATION, seconds, what="step with data" if data else "step")


def seed_trainer(work: Work, turns: Turns, batch: int, *, data: bool) -> Trainer:
    """Transformers' Trainer with the model's own loss, and a collator that runs the processor on PIL images."""
    # TF32 is off, as PyTorch has it unless told otherwise.
    torch.set_float32_matmul_precision("highest")
    fixed = split_batch(work.batch(batch))[0]
    arguments = TrainingArguments(
        output_dir=str(work.folder / "seed"), per_device_train_batch_size=batch, max_steps=NEVER,
        gradient_accumulation_steps=SEED_ACCUMULATION, learning_rate=1e-5, weight_decay=0.1, report_to="none",
        remove_unused_columns=False, dataloader_num_workers=SEED_WORKERS if data else 0, save_strategy="no",
        disable_tqdm=True, use_cpu=work.device == "cpu", dataloader_drop_last=True, label_names=[],
    )  # fmt: skip
    rows = work.split.cast_column("image", Image(decode=True)) if data else list(range(batch * SEED_ACCUMULATION))
    return Trainer(
        model=work.loaded.model,
        args=arguments,
        train_dataset=rows,
        data_collator=seed_collator(work) if data else lambda _rows: {**fixed, "return_loss": True},
        callbacks=[turns],
    )


def seed_collator(work: Work) -> Callable[[Sequence[dict[str, Any]]], dict[str, Any]]:
    policy, processor = work.loaded.feeder.text_policy, work.loaded.feeder.processor

    def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        images = [row["image"].convert("RGB") for row in rows]
        texts = [row["captions"][0] for row in rows]
        padding = "max_length" if policy.padding == "max_length" else True
        inputs = processor(
            text=texts,
            images=images,
            return_tensors="pt",
            padding=padding,
            truncation=True,
            max_length=policy.max_length,
        )
        return {"input_ids": inputs["input_ids"], "pixel_values": inputs["pixel_values"], "return_loss": True}

    return collate


def open_clip_row(work: Work, batch: int) -> dict[str, Any]:
    """The step of open_clip_train with `--precision amp_bf16`."""
    steps = open_clip_steps(work, batch)
    readings = []
    with without_compiled_code():
        for _ in range(1 + work.scale.rounds):
            started = time.perf_counter()
            for _ in range(work.scale.window):
                next(steps)
            synchronize(work.device)
            readings.append((time.perf_counter() - started) / work.scale.window)
    return row(work, "open_clip amp_bf16", batch, min(readings[1:]), what="step")


def open_clip_steps(work: Work, batch: int) -> Iterator[None]:
    from open_clip import ClipLoss

    from benchmarks.support.open_clip_model import groups, open_clip_model

    model, loss = open_clip_model(work.loaded.model.config).to(work.device).train(), ClipLoss()
    optimizer = torch.optim.AdamW(groups(model, 0.1), lr=1e-5, betas=(0.9, 0.98), eps=1e-6)
    fixed = work.batch(batch)
    while True:
        images, texts = (fixed[name].to(work.device, non_blocking=True) for name in ("pixel_values", "input_ids"))
        optimizer.zero_grad()
        with torch.autocast(torch.device(work.device).type, torch.bfloat16):
            total = loss(**model(images, texts))
        total.backward()
        optimizer.step()
        yield


# Rows ---------------------------------------------------------------------------------------------


def row(work: Work, name: str, batch: int, seconds: float, *, what: str) -> dict[str, Any]:
    """Images a second, the share of the device's peak that the model's own operations take, the memory."""
    flops = training_flops(work.loaded.model.config, work.text_length) * batch / seconds
    limit = peak(work.device) if what == "step" and "bf16" in name else None
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() and what != "data" else None
    return {
        "model": f"{work.family} {'ViT-B/16' if work.options.size == 'base' else work.options.size}",
        "what": what,
        "runs as": name,
        "batch": batch,
        "images/s": rounded(batch / seconds),
        "MFU": None if limit is None else round(flops / limit, 3),
        "peak GiB": None if memory is None else round(memory, 1),
        "device": device_name(work.device),
    }


def profile(work: Work, rows: int = 8) -> list[dict[str, Any]]:
    """The kernels that forward and backward of icclip's step spend most time on."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    idle = Turns("step", {}, rounds=1, warmup=0)
    trainer = our_trainer(work, idle, work.scale.plain)
    fixed = {name: value.to(work.device) for name, value in work.batch(work.scale.plain).items()}
    on_gpu = torch.device(work.device).type == "cuda"
    trainer.model.to(work.device)
    trainer.current_gradient_accumulation_steps = 1  # Trainer's loop sets it, which does not run here.
    trainer.training_step(trainer.model, dict(fixed))
    with record(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as recorded:
        trainer.training_step(trainer.model, dict(fixed))
        synchronize(work.device)
    trainer.model.zero_grad()
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events)
    return [
        {"kernel": event.key[:60], "share": round(getattr(event, name) / total, 3), "calls": event.count}
        for event in events[:rows]
    ]


# Data ---------------------------------------------------------------------------------------------


def training_split(dataset: str | None) -> Dataset:
    if dataset is None:
        return drawn_split()
    registry = Registry.from_environment()
    return load_splits(registry, dataset_config(registry, dataset), Reporter(silent=True))["train"]


def drawn_split() -> Dataset:
    """JPEGs with the grain and the size of photographs on Flickr."""
    random = np.random.default_rng(0)
    images = [{"bytes": jpeg(random), "path": None} for _ in range(DISTINCT)]
    captions = [[f"a drawn photograph, number {i} of them , and what is seen on it ."] for i in range(DRAWN)]
    features = Features({"image": Image(decode=False), "captions": List(Value("string"))})
    return Dataset.from_dict(
        {"image": list(itertools.islice(itertools.cycle(images), DRAWN)), "captions": captions}, features
    )


def jpeg(random: np.random.Generator) -> bytes:
    coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Pillow.fromarray(coarse).resize((500, 375), Pillow.Resampling.BICUBIC), np.float32)
    grain = random.normal(0, 8, smooth.shape)
    buffer = io.BytesIO()
    Pillow.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
