"""A step of a large exact batch: icclip's gradient cache beside what others offer for it.

    python -m benchmarks.large_batch_step [--models clip-tiny vit-b-32]

The same architecture, and the same tensors, which are there already; texts are padded to the full length,
since open_clip wants them so. Every contestant's loss sees all pairs of the batch against each other:

- icclip: its Trainer with `--micro-batch`.
- open_clip: `--accum-freq`, the loop of its train.py, which computes the loss of the whole batch once for
  each micro-batch. Its `--local-loss` is about several processes; here is one.
- sentence-transformers: CachedMultipleNegativesRankingLoss in both directions. Its temperature is not learnt.
- transformers: the whole batch at once, which is what the others avoid.

Seconds are those of steps in turns. Peak memory is that of a step in a process of its own, beyond what was
held before it: the optimizer's state and the batch are there by then, the gradients are not.
Writes large_batch_step.json. Needs open_clip_torch and sentence-transformers.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, TrainerCallback

from benchmarks.support.checkpoints import preset, write_base
from benchmarks.support.memory import MIB, measured_alone, peak_since, start
from benchmarks.support.timing import environment, medians, rounded, show, times_faster, write
from benchmarks.support.turns import EnoughError, Turns
from icclip.config import DatasetConfig, ModelConfig, TrainConfig
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap
from icclip.training.feeding.collate import IDS, CaptionedImages
from icclip.training.step.arguments import training_arguments
from icclip.training.step.trainer import ContrastiveTrainer

SIZES = {"clip-tiny": (1024, 32, 5), "vit-b-32": (32, 8, 3)}
"""Batch, micro-batch, rounds."""

OURS, OPEN_CLIP, SENTENCES, PLAIN = "icclip", "open_clip", "sentence-transformers", "transformers"
LR, WEIGHT_DECAY = 1e-4, 0.1
STEPS = 50
"""More than are taken: the end of an epoch would be evaluated."""

CPU = torch.device("cpu")

Steps = Iterator[object]
"""Each `next` is a step."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    rows = [row for name in parser.parse_args().models for row in rows_of(name)]
    show(rows)
    packages = ("icclip", "torch", "transformers", "accelerate", "open-clip-torch", "sentence-transformers")
    write(__file__, {"about": {**environment(*packages), "threads": torch.get_num_threads()}, "rows": rows})


def rows_of(name: str) -> list[dict[str, Any]]:
    """A line for each contestant."""
    batch, micro, rounds = SIZES[name]
    taken = seconds(Work(name), rounds)
    middle = medians(taken)
    peaks = {one: measured_alone("benchmarks.large_batch_step", name, one)["peak_mib"] for one in taken}
    return [
        {
            "model": name,
            "batch": batch,
            "micro-batch": "all" if one == PLAIN else micro,
            "library": one,
            "s a step": middle[one],
            "icclip is faster by": times_faster(taken, OURS, one),
            "peak MiB": peaks[one],
            "times icclip's memory": rounded(peaks[one] / peaks[OURS]),
            "rounds": rounds,
        }
        for one in taken
    ]


def seconds(work: Work, rounds: int) -> dict[str, list[float]]:
    """Of each contestant's steps, in turns."""
    others = {one: steps(work) for one, steps in OTHERS.items()}
    turns = Turns(OURS, others, rounds=rounds, warmup=1)
    with tempfile.TemporaryDirectory() as folder:
        return turns.of(our_trainer(work, Path(folder), turns))


def peak(name: str, library: str) -> dict[str, float]:
    """Of the second step of one contestant, which has its optimizer's state by then."""
    work = Work(name)
    if library == OURS:
        with tempfile.TemporaryDirectory() as folder:
            return {"peak_mib": SecondStep().of(work, Path(folder))}
    steps = OTHERS[library](work)
    next(steps)
    held = start(CPU)
    next(steps)
    return {"peak_mib": rounded((peak_since(CPU) - held) / MIB)}


class SecondStep(TrainerCallback):
    """Measures it."""

    def of(self, work: Work, folder: Path) -> float:
        """Peak memory in MiB."""
        try:
            our_trainer(work, folder, self).train()
        except EnoughError:
            return self.peak
        raise RuntimeError("training ended before its second step")

    def on_step_end(self, _args: Any, state: Any, *_more: Any, **_kwargs: Any) -> None:
        if state.global_step == 1:
            self.held = start(CPU)
            return
        self.peak = rounded((peak_since(CPU) - self.held) / MIB)
        raise EnoughError


@dataclass
class Work:
    """An architecture, and a batch for it."""

    name: str

    @property
    def batch(self) -> int:
        return SIZES[self.name][0]

    @property
    def micro(self) -> int:
        return SIZES[self.name][1]

    @cached_property
    def loaded(self) -> LoadedModel:
        registry = Registry.from_environment()
        tiny = preset(registry, "clip")
        if self.name == "clip-tiny":
            return tiny
        with tempfile.TemporaryDirectory() as folder:
            written = write_base(Path(folder), "clip", tiny.feeder.processor.tokenizer, patch_size=32)
            return open_model(registry, ModelConfig(name=str(written)))

    @property
    def config(self) -> Any:
        return self.loaded.model.config

    def copy(self) -> CLIPModel:
        """The model of transformers with the same weights."""
        model = CLIPModel(self.config)
        model.load_state_dict(self.loaded.model.state_dict())
        return model.train()

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """pixel_values float32 [batch, 3, side, side] of noise, input_ids int64 [batch, full length]."""
        side, length = self.config.vision_config.image_size, self.config.text_config.max_position_embeddings
        pixels = torch.randn(self.batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        ids = self.loaded.feeder.text_inputs([f"a dog and {number} children" for number in range(self.batch)])[
            "input_ids"
        ]
        padding = self.loaded.feeder.processor.tokenizer.pad_token_id
        return {"pixel_values": pixels, "input_ids": functional.pad(ids, (0, length - ids.shape[1]), value=padding)}

    def micro_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(pixels, ids) of each."""
        parts = (value.split(self.micro) for value in self.inputs.values())
        return zip(*parts, strict=True)


# The contestants ----------------------------------------------------------------------------------


def our_trainer(work: Work, folder: Path, callback: TrainerCallback) -> ContrastiveTrainer:
    """As `icclip train` builds it; what its dataset gives is not looked at."""
    config = TrainConfig(
        model=ModelConfig(name=work.name), data=DatasetConfig(name="-"), output_dir=folder, lr=LR,
        weight_decay=WEIGHT_DECAY, train_bs=work.batch, micro_batch=work.micro, report_to=(), device="cpu",
        max_steps=STEPS,
    )  # fmt: skip
    rows = work.batch * STEPS
    nothing = CaptionedImages([Image.new("RGB", (1, 1))] * rows, CaptionMap.from_lists([["-"]] * rows))
    ids = torch.arange(work.batch)[:, None].expand(-1, 2).contiguous()
    arguments = training_arguments(config, workers=0, resuming=True)
    trainer = ContrastiveTrainer(
        work.loaded, arguments, nothing, lambda _loaded: {}, callbacks=[callback], micro_batch=work.micro
    )
    trainer.data_collator = lambda _examples: {**work.inputs, IDS: ids}
    return trainer


def open_clip_steps(work: Work) -> Steps:
    """open_clip_train.train.train_one_epoch with `accum_freq` above one, in float32 without distillation."""
    import open_clip

    from benchmarks.support.open_clip_model import groups, open_clip_model

    model, loss = open_clip_model(work.config).train(), open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(groups(model, WEIGHT_DECAY), lr=LR, betas=(0.9, 0.98), eps=1e-6)
    while True:
        batches = list(work.micro_batches())
        features: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for images, texts in batches:
                outputs = model(images, texts)
                outputs.pop("logit_scale")
                for key, value in outputs.items():
                    features.setdefault(key, []).append(value)
        for place, (images, texts) in enumerate(batches):
            outputs = model(images, texts)
            scale = outputs.pop("logit_scale")
            inputs = {key: torch.cat([*v[:place], outputs[key], *v[place + 1 :]]) for key, v in features.items()}
            sum(loss(**inputs, logit_scale=scale, output_dict=True).values()).backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        optimizer.zero_grad()
        yield


class Towers(nn.Module):
    """A CLIPModel as a module of sentence-transformers: pixels or tokens to `sentence_embedding`."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        if "pixel_values" in features:
            return {"sentence_embedding": self.model.get_image_features(features["pixel_values"])}
        return {"sentence_embedding": self.model.get_text_features(features["input_ids"])}


def sentence_steps(work: Work) -> Steps:
    """The loss of sentence-transformers' trainer, with its micro-batches."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = work.copy()
    loss = CachedMultipleNegativesRankingLoss(
        SentenceTransformer(modules=[Towers(model)], device="cpu").train(),
        mini_batch_size=work.micro,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    while True:
        features = [{name: value} for name, value in work.inputs.items()]
        loss(features, torch.empty(0)).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def plain_steps(work: Work) -> Steps:
    """What transformers' documentation shows."""
    model = work.copy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    while True:
        model(**work.inputs, return_loss=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


OTHERS: Mapping[str, Callable[[Work], Steps]] = {
    OPEN_CLIP: open_clip_steps,
    SENTENCES: sentence_steps,
    PLAIN: plain_steps,
}


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in SIZES:  # noqa: PLR2004
        print(json.dumps(peak(sys.argv[1], sys.argv[2])))
    else:
        main()
