"""A training step and a whole evaluation: icclip beside open_clip and a plain transformers loop.

    python -m benchmarks.training_step [--dataset flickr8k@PATH]

The same architecture (open_clip's is built from our configuration), the same tokenizer, the same batch,
the same images; each in its own manner otherwise:

- icclip: its Trainer, with images from its cache as in all epochs but the first, and its evaluation, which
  also gives confidence intervals.
- open_clip: its transform, tokenizer, loss, and the step of its train.py; recall as CLIP_benchmark takes it.
- transformers: the processor, `model(..., return_loss=True)` and AdamW in a loop; recall likewise.

What is measured: a step on tensors that are there already, all padded alike ("step"); a step with
reading, decoding and preprocessing in the same process ("step with data"); and the whole test split
("evaluation"). Only the ratios can be compared between machines. Writes training_step.json.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPModel

from benchmarks.support.checkpoints import write_base
from benchmarks.support.open_clip_model import groups, open_clip_model
from benchmarks.support.timing import environment, medians, show, take_turns, times_faster, write
from benchmarks.support.turns import Turns
from icclip.config import DatasetConfig, ModelConfig, TrainConfig
from icclip.console import Reporter
from icclip.data.gallery import Gallery
from icclip.data.loading import dataset_config, load_splits
from icclip.data.split import SplitImages, caption_map
from icclip.evaluating.run import evaluate_split
from icclip.models.encoder import TorchEncoder
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap
from icclip.training.feeding.collate import CaptionedImages, Collator
from icclip.training.feeding.sources import Sources
from icclip.training.step.arguments import training_arguments
from icclip.training.step.trainer import ContrastiveTrainer

if TYPE_CHECKING:
    from PIL import Image

BATCHES = {"clip-tiny": 64, "ViT-B/32": 16}
ROUNDS = {"clip-tiny": {"step": 30, "evaluation": 5}, "ViT-B/32": {"step": 10, "evaluation": 1}}
WARMUP = 2
STEPS = 10_000
"""More than are taken."""

IMAGE_BATCH, TEXT_BATCH, WORKERS = 128, 256, 2
OURS, OPEN_CLIP, PLAIN = "icclip", "open_clip", "transformers"
LR, WEIGHT_DECAY = 1e-4, 0.1


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="flickr8k", help="as `icclip train` takes it")
    parser.add_argument("--models", nargs="+", choices=BATCHES, default=list(BATCHES))
    options = parser.parse_args()
    registry = Registry.from_environment()
    splits = load_splits(registry, dataset_config(registry, options.dataset), Reporter(silent=True))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ICCLIP_CACHE"] = cache
        measured = {name: measure(name, registry, splits) for name in options.models}
    show([row for rows in measured.values() for row in rows])
    packages = ("icclip", "torch", "transformers", "accelerate", "datasets", "pillow", "open-clip-torch", "torchvision")
    about = {**environment(*packages), "threads": torch.get_num_threads(), "evaluation_workers": WORKERS}
    write(__file__, {"about": about, "rows": list(itertools.chain(*measured.values()))})


def measure(name: str, registry: Registry, splits: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The three comparisons for one architecture."""
    work = Work(name, registry, splits["train"], splits["test"])
    rounds = ROUNDS[name]
    step = train_in_turns(work, [work.fixed_batch], rounds["step"])
    with_data = train_in_turns(work, None, rounds["step"])
    evaluation = take_turns(evaluations(work), rounds=rounds["evaluation"], warmup=0)
    taken = {"step": step, "step with data": with_data, "evaluation": evaluation}
    return [row(work, what, own) for what, own in taken.items()]


def row(work: Work, what: str, taken: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """One line of the table: seconds, and how many times faster icclip is."""
    return {
        "model": work.name,
        "parameters": work.parameters,
        "batch": IMAGE_BATCH if what == "evaluation" else work.batch,
        "what": what,
        **{f"{name} s": value for name, value in medians(taken).items()},
        **{f"times faster than {name}": times_faster(taken, OURS, name) for name in (OPEN_CLIP, PLAIN)},
        "rounds": len(taken[OURS]),
    }


# What is trained ----------------------------------------------------------------------------------


@dataclass
class Work:
    """One architecture in the three libraries, and the data."""

    name: str
    registry: Registry
    train: Any
    test: Any

    @property
    def batch(self) -> int:
        return BATCHES[self.name]

    @cached_property
    def captions(self) -> CaptionMap:
        return caption_map(self.train)

    @cached_property
    def loaded(self) -> LoadedModel:
        """Ours; the plain loop has a copy of its weights."""
        preset = open_model(self.registry, ModelConfig(name="clip-tiny"), lambda: self.captions.texts)
        return preset if self.name == "clip-tiny" else base_model(self.registry, preset.feeder.processor.tokenizer)

    @cached_property
    def plain(self) -> CLIPModel:
        model = CLIPModel(self.loaded.model.config)
        model.load_state_dict(self.loaded.model.state_dict())
        return model

    @cached_property
    def twin(self) -> open_clip.CLIP:
        """open_clip's model of the same architecture."""
        twin = open_clip_model(self.loaded.model.config)
        assert sum(p.numel() for p in twin.parameters()) == self.parameters
        return twin

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.loaded.model.parameters())

    @property
    def context_length(self) -> int:
        return self.loaded.model.config.text_config.max_position_embeddings

    @cached_property
    def tokenizer(self) -> HFTokenizer:
        """open_clip's, around the tokenizer that all three use."""
        with tempfile.TemporaryDirectory() as folder:
            self.loaded.feeder.processor.tokenizer.save_pretrained(folder)
            return HFTokenizer(folder, context_length=self.context_length)

    @cached_property
    def transform(self) -> Callable[[Image.Image], torch.Tensor]:
        return open_clip.image_transform(self.loaded.model.config.vision_config.image_size, is_train=False)

    @cached_property
    def fixed_batch(self) -> dict[str, torch.Tensor]:
        """From our Collator, the texts padded to the full length."""
        rows = CaptionedImages(SplitImages(self.train), self.captions)
        batch = Collator(self.loaded.feeder, seed=0)([rows[0, i] for i in range(self.batch)])
        ids = batch["input_ids"]
        padding = self.loaded.feeder.processor.tokenizer.pad_token_id
        batch["input_ids"] = functional.pad(ids, (0, self.context_length - ids.shape[1]), value=padding)
        return batch


def base_model(registry: Registry, tokenizer: Any) -> LoadedModel:
    """CLIP ViT-B/32 with the preset's tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        return open_model(registry, ModelConfig(name=str(write_base(Path(folder), "clip", tokenizer, patch_size=32))))


# Training -----------------------------------------------------------------------------------------


def train_in_turns(
    work: Work, batches: Sequence[dict[str, torch.Tensor]] | None, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each library's steps. `batches`: on these, over and over; None: each reads the data itself."""
    others = {OPEN_CLIP: open_clip_steps(work, batches), PLAIN: plain_steps(work, batches)}
    turns = Turns(OURS, others, rounds=rounds, warmup=WARMUP)
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(work, Path(folder), turns)
        if batches is not None:
            trainer.data_collator = lambda _examples: dict(batches[0])
        return turns.of(trainer)


def our_trainer(work: Work, folder: Path, turns: Turns) -> ContrastiveTrainer:
    """As `icclip train` builds it, with the batches read in this process."""
    config = TrainConfig(
        model=ModelConfig(name=work.name), data=DatasetConfig(name="-"), output_dir=folder, lr=LR,
        weight_decay=WEIGHT_DECAY, train_bs=work.batch, report_to=(), device="cpu", cache_images="on", max_steps=STEPS,
    )  # fmt: skip
    arguments = training_arguments(config, workers=0, resuming=True)
    loaded = work.loaded.ready_for(work.captions.texts)
    data = Sources(config, loaded.feeder, Reporter(silent=True)).training(
        Gallery.of(work.train), seen=STEPS * work.batch
    )
    return ContrastiveTrainer(loaded, arguments, data, lambda _loaded: {}, callbacks=[turns])


def open_clip_steps(work: Work, batches: Sequence[dict[str, torch.Tensor]] | None) -> Iterator[float]:
    """The step of open_clip_train.train, with the parameter groups of its main; yields the losses."""
    model, loss = work.twin, open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(groups(model, WEIGHT_DECAY), lr=LR, betas=(0.9, 0.98), eps=1e-6)
    pairs = itertools.repeat((batches[0]["pixel_values"], batches[0]["input_ids"])) if batches else open_clip_data(work)
    model.train()
    for images, texts in pairs:
        optimizer.zero_grad()
        outputs = model(images, texts)
        total = sum(loss(**outputs, output_dict=True).values())
        total.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        yield total.item()


def plain_steps(work: Work, batches: Sequence[dict[str, torch.Tensor]] | None) -> Iterator[float]:
    """What transformers' documentation shows; yields the losses."""
    model = work.plain
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    names = ("pixel_values", "input_ids")
    inputs = itertools.repeat({name: batches[0][name] for name in names}) if batches else plain_data(work)
    model.train()
    for batch in inputs:
        optimizer.zero_grad()
        outputs = model(**batch, return_loss=True)
        outputs.loss.backward()
        optimizer.step()
        yield outputs.loss.item()


# The data of the others ---------------------------------------------------------------------------


@dataclass
class Rows(Dataset[Any]):
    """A split as open_clip's own datasets give it: (transformed image, tokens of one caption)."""

    split: Any
    captions: CaptionMap
    transform: Callable[[Image.Image], Any]
    tokenize: Callable[[str], Any]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        caption = self.captions.texts[self.captions.offsets[index]]
        return self.transform(self.split[index]["image"]), self.tokenize(caption)


def decoded(split: Any) -> Any:
    """The split with images that datasets decodes."""
    from datasets import Image as ImageFeature

    return split.cast_column("image", ImageFeature(decode=True))


def open_clip_data(work: Work) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    rows = Rows(decoded(work.train), work.captions, work.transform, lambda caption: work.tokenizer([caption])[0])
    return iter(DataLoader(rows, work.batch, shuffle=True, drop_last=True))


def plain_data(work: Work) -> Iterator[Mapping[str, torch.Tensor]]:
    processor = work.loaded.feeder.processor

    def collate(pairs: Sequence[tuple[Image.Image, str]]) -> Mapping[str, torch.Tensor]:
        images, texts = zip(*pairs, strict=True)
        return processor(images=list(images), text=list(texts), return_tensors="pt", padding=True, truncation=True)

    rows = Rows(decoded(work.train), work.captions, lambda image: image, lambda caption: caption)
    return iter(DataLoader(rows, work.batch, shuffle=True, drop_last=True, collate_fn=collate))


# Evaluation ---------------------------------------------------------------------------------------


def evaluations(work: Work) -> dict[str, Callable[[], object]]:
    """The test split, from the files to the recalls."""
    captions = caption_map(work.test)
    encoder = TorchEncoder(work.loaded, device="cpu", workers=WORKERS)
    images = SplitImages(work.test)
    return {
        OURS: lambda: evaluate_split(encoder, images, captions, image_batch=IMAGE_BATCH, text_batch=TEXT_BATCH),
        OPEN_CLIP: lambda: recalls(*open_clip_embeddings(work, captions), captions),
        PLAIN: lambda: recalls(*plain_embeddings(work, captions), captions),
    }


@torch.inference_mode()
def open_clip_embeddings(work: Work, captions: CaptionMap) -> tuple[torch.Tensor, torch.Tensor]:
    model = work.twin.eval()
    rows = Rows(decoded(work.test), captions, work.transform, lambda _caption: 0)
    batches = DataLoader(rows, IMAGE_BATCH, num_workers=WORKERS)
    images = [model.encode_image(pixels, normalize=True) for pixels, _ in batches]
    texts = [model.encode_text(work.tokenizer(list(part)), normalize=True) for part in parts(captions.texts)]
    return torch.cat(images), torch.cat(texts)


@torch.inference_mode()
def plain_embeddings(work: Work, captions: CaptionMap) -> tuple[torch.Tensor, torch.Tensor]:
    model, processor = work.plain.eval(), work.loaded.feeder.processor

    def collate(pairs: Sequence[tuple[Image.Image, str]]) -> torch.Tensor:
        return processor(images=[image for image, _ in pairs], return_tensors="pt").pixel_values

    rows = Rows(decoded(work.test), captions, lambda image: image, lambda caption: caption)
    batches = DataLoader(rows, IMAGE_BATCH, num_workers=WORKERS, collate_fn=collate)
    images = [model.get_image_features(pixels) for pixels in batches]
    texts = [
        model.get_text_features(**processor(text=list(part), return_tensors="pt", padding=True, truncation=True))
        for part in parts(captions.texts)
    ]
    return functional.normalize(torch.cat(images), dim=-1), functional.normalize(torch.cat(texts), dim=-1)


def parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + TEXT_BATCH] for start in range(0, len(texts), TEXT_BATCH))


def recalls(images: torch.Tensor, texts: torch.Tensor, captions: CaptionMap) -> dict[str, float]:
    """R@1/5/10 from the whole matrix of similarities, as CLIP_benchmark's zeroshot_retrieval does."""
    scores = texts @ images.T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[np.arange(captions.n_texts), captions.image_of_text] = True
    return {
        f"{name}_R@{k}": hits(matrix, right, k)
        for name, matrix, right in (("t2i", scores, positive), ("i2t", scores.T, positive.T))
        for k in (1, 5, 10)
    }


def hits(scores: torch.Tensor, positive: torch.Tensor, k: int) -> float:
    return positive.gather(1, scores.topk(k, dim=1).indices).any(dim=1).float().mean().item()


if __name__ == "__main__":
    main()
