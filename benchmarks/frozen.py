"""A training step with a frozen vision tower: with its features from the cache, and as everyone else does it.

    python -m benchmarks.frozen --model START --dataset flickr8k@PATH [--freeze vision|both]

START is a checkpoint of `icclip assemble`. The contestants take turns, step by step, each with reading, decoding and
preprocessing in its own process, and the vision tower frozen:

- icclip: `--cache-features on`, as in every epoch after the cache is filled;
- without features: the same with `--cache-features off`, and images from icclip's image cache;
- transformers: the processor, `model(..., return_loss=True)` and AdamW over what trains, in a loop;
- open_clip: `CustomTextCLIP` around timm's `tf_efficientnet_lite2` and the same text encoder, `lock_image_tower`, its
  transform, tokenizer and loss. It takes part where START has an EfficientNet; its weights are random, of the same shapes.

Only the ratios can be compared between machines. Writes frozen.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.support.timing import environment, medians, show, times_faster, write
from benchmarks.support.turns import Turns
from icclip.config import GentleConfig, ModelConfig, TrainConfig
from icclip.console import Reporter
from icclip.data.gallery import Gallery
from icclip.data.loading import dataset_config, load_splits
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.training.feeding.collate import Collator
from icclip.training.feeding.features import FrozenTowers
from icclip.training.feeding.sources import Sources
from icclip.training.gentle.plan import Gentle
from icclip.training.step.arguments import training_arguments
from icclip.training.step.trainer import ContrastiveTrainer

OURS, WITHOUT, PLAIN, OPEN_CLIP = "icclip", "icclip without features", "transformers", "open_clip"
WARMUP, STEPS = 1, 10_000
LR, WEIGHT_DECAY = 1e-4, 0.1
QUIET = Reporter(silent=True)


@dataclass(frozen=True)
class Work:
    """What is trained, and on what."""

    model: str
    freeze: Any
    batch: int
    rounds: int
    registry: Registry
    gallery: Gallery

    def opened(self) -> LoadedModel:
        return open_model(self.registry, ModelConfig(name=self.model))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", default="flickr8k", help="as `icclip train` takes it")
    parser.add_argument("--images", type=int, default=512, help="of the training split")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--freeze", nargs="+", choices=["vision", "both"], default=["vision", "both"])
    options = parser.parse_args()
    registry = Registry.from_environment()
    splits = load_splits(registry, dataset_config(registry, options.dataset), QUIET)
    gallery = Gallery.of(splits["train"].select(range(options.images)))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ICCLIP_CACHE"] = cache
        rows = [
            measure(Work(options.model, freeze, options.batch, options.rounds, registry, gallery))
            for freeze in options.freeze
        ]
    show(rows)
    packages = ("icclip", "torch", "transformers", "open-clip-torch", "timm")
    write(__file__, {"about": {**environment(*packages), "threads": torch.get_num_threads()}, "rows": rows})


def measure(work: Work) -> dict[str, Any]:
    """One line of the table: seconds of a step, and how many times faster icclip is."""
    others = {
        WITHOUT: own_steps(work),
        PLAIN: plain_steps(work),
        **open_clip_steps(work),
    }
    turns = Turns(OURS, others, rounds=work.rounds, warmup=WARMUP)
    with tempfile.TemporaryDirectory() as folder:
        taken = turns.of(our_trainer(work, Path(folder), "on", turns))
    return {
        "freeze": work.freeze,
        "batch": work.batch,
        "rounds": work.rounds,
        **{f"{name} images/s": round(work.batch / value, 1) for name, value in medians(taken).items()},
        **{f"times faster than {name}": times_faster(taken, OURS, name) for name in others},
    }


def our_trainer(work: Work, folder: Path, mode: Any, turns: Any = None) -> ContrastiveTrainer:
    """As `icclip train` builds it, with the batches read in this process."""
    config = TrainConfig(
        model=ModelConfig(name=work.model), data=dataset_config(work.registry, "shapes"), output_dir=folder, lr=LR, train_bs=work.batch,
        report_to=(), device="cpu", cache_images="on", cache_features=mode, max_steps=STEPS, workers=0,
        gentle=GentleConfig(freeze=work.freeze),
    )  # fmt: skip
    arguments = training_arguments(config, workers=0, resuming=True)
    loaded = work.opened().ready_for(work.gallery.captions.texts)
    gentle = Gentle.prepare(loaded, config)
    frozen = FrozenTowers.of(loaded, config, arguments.device, QUIET) if mode == "on" else None
    sources = Sources(config, loaded.feeder, QUIET, frozen)
    feeder = sources.feeder_for({"train": work.gallery}, seen=STEPS)
    return ContrastiveTrainer(
        loaded, arguments, sources.training(work.gallery, seen=STEPS * work.batch), lambda _loaded: {}, gentle=gentle,
        callbacks=[turns] if turns else [], collator=Collator(feeder, config.seed),
    )  # fmt: skip


def own_steps(work: Work) -> Iterator[float]:
    """Our step without features: its batches, its forward and backward, its optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(work, Path(folder), "off")
        trainer.create_optimizer()
        for epoch in itertools.count():
            trainer._sampler.epoch = epoch  # noqa: SLF001
            for batch in trainer.get_train_dataloader():
                trainer.loaded.model.train()
                loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))  # noqa: SLF001
                loss.backward()
                trainer.optimizer.step()
                trainer.optimizer.zero_grad()
                yield loss.item()


# The others ---------------------------------------------------------------------------------------


def pairs(work: Work, collate: Any) -> Iterator[Any]:
    """Batches of decoded images and captions, for ever."""
    captions = work.gallery.captions
    rows = [(number, captions.texts[captions.offsets[number]]) for number in range(captions.n_images)]
    loader = DataLoader(rows, work.batch, shuffle=True, drop_last=True, collate_fn=collate)  # type: ignore[arg-type]
    while True:
        yield from loader


def plain_steps(work: Work) -> Iterator[float]:
    """What transformers' documentation shows, with the frozen weights left out; yields the losses."""
    loaded = work.opened()
    net, processor = loaded.model, loaded.feeder.processor
    towers = [net.vision_model, net.text_model] if work.freeze == "both" else [net.vision_model]
    for tower in towers:
        tower.requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=LR, weight_decay=WEIGHT_DECAY)

    def collate(rows: Sequence[tuple[int, str]]) -> Any:
        images = [work.gallery.images[number] for number, _ in rows]
        texts = [text for _, text in rows]
        return processor(images=images, text=texts, return_tensors="pt", padding=True, truncation=True)

    for batch in pairs(work, collate):
        net.train()
        for tower in towers:
            tower.eval()
        optimizer.zero_grad()
        loss = net(**batch, return_loss=True).loss
        loss.backward()
        optimizer.step()
        yield loss.item()


def open_clip_steps(work: Work) -> dict[str, Iterator[float]]:
    """The step of open_clip_train.train; nothing where it is not installed or has no such towers."""
    loaded = work.opened()
    try:
        import open_clip
        from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
        from open_clip.tokenizer import HFTokenizer
    except ImportError:
        return {}
    if loaded.model.config.vision_config.model_type != "efficientnet":
        return {}
    vision = CLIPVisionCfg(
        timm_model_name="tf_efficientnet_lite2", timm_model_pretrained=False, timm_pool="avg", timm_proj="linear", image_size=224
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        loaded.model.text_model.config.save_pretrained(folder)
        loaded.feeder.processor.tokenizer.save_pretrained(folder)
        text = CLIPTextCfg(
            hf_model_name=folder, hf_tokenizer_name=folder, hf_model_pretrained=False, hf_pooler_type="cls_pooler",
            hf_proj_type="linear",
        )  # fmt: skip
        net = CustomTextCLIP(loaded.model.config.projection_dim, vision, text)
        tokenizer = HFTokenizer(folder, context_length=64)
    net.lock_image_tower(unlocked_groups=0, freeze_bn_stats=True)
    if work.freeze == "both":
        net.lock_text_tower(unlocked_layers=0, freeze_layer_norm=True)
    transform = open_clip.image_transform(224, is_train=False)

    def collate(rows: Sequence[tuple[int, str]]) -> Any:
        return torch.stack([transform(work.gallery.images[number]) for number, _ in rows]), tokenizer(
            [t for _, t in rows]
        )

    return {OPEN_CLIP: open_clip_loop(net, pairs(work, collate), open_clip.ClipLoss())}


def open_clip_loop(net: Any, batches: Iterator[Any], contrast: Any) -> Iterator[float]:
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=LR, weight_decay=WEIGHT_DECAY)
    net.train()
    for images, texts in batches:
        optimizer.zero_grad()
        features, of_texts, scale = net(images, texts)[:3]
        loss = contrast(features, of_texts, scale)
        loss.backward()
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    main()
