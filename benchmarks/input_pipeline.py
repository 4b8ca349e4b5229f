"""Images per second of the input pipeline alone: captions and 224-pixel CLIP images, in batches of 64.

    python -m benchmarks.input_pipeline PATH [--processor DIR] [--images 2000] [--repeats 5]

PATH is a local copy of Flickr8k. Every pipeline shuffles, reads with the same number of workers, and
ends in float32 pixels and token ids in the main process:

- ours, first epoch: hashing the images, tokenizing all captions, filling an empty cache, one epoch;
- ours, later: an epoch from the cache;
- plain: a datasets.Dataset that decodes, CLIPProcessor (the slow image processor) in the collator;
- fast: the same with torchvision's image processor, where torchvision is installed;
- open_clip: its transform and tokenizer, where it is installed.

The pipelines take turns, so that a busy machine slows them alike: compare the ratios. Writes
input_pipeline.json beside itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast

from icclip.config import ModelConfig
from icclip.console import Reporter
from icclip.data.loading import dataset_config, load_splits
from icclip.data.sameness import image_digests
from icclip.data.split import SplitImages, caption_map
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.training.feeding.cache import cache_path, cached_images
from icclip.training.feeding.collate import CaptionedImages, Collator, EpochSampler

BATCH, WORKERS = 64, 2
RESULT = Path(__file__).with_suffix(".json")
QUIET = Reporter(silent=True)
LOADER: dict[str, Any] = {"batch_size": BATCH, "num_workers": WORKERS, "persistent_workers": True}


def main() -> None:
    """Measure, print, write."""
    asked = _arguments()
    registry = Registry(load_plugins=frozenset())
    split = load_splits(registry, dataset_config(registry, f"flickr8k@{asked.path}"), QUIET)["train"]
    split = split.select(range(asked.images))
    loaded = _clip(registry, asked.processor)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ICCLIP_CACHE"] = folder
        pipelines = {
            "ours_first_epoch": lambda: ours(split, loaded, empty=True),
            "ours_later": _later(split, loaded),
            "plain": _epochs_of(plain(split, loaded.feeder.processor)),
            **_optional(split, asked.processor),
        }
        seconds = {name: [] for name in pipelines}
        for _ in range(asked.repeats):
            for name, epoch in pipelines.items():
                seconds[name].append(epoch())
                print(f"{name:18}{asked.images / seconds[name][-1]:10.1f} images/s", flush=True)
    result = _result(asked, seconds, SplitImages(split)[0].size)
    print(json.dumps(result, indent=2))
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--processor", default="openai/clip-vit-base-patch16")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def _clip(registry: Registry, processor: str) -> LoadedModel:
    """OpenAI CLIP's processor; the model is never called."""
    loaded = open_model(registry, ModelConfig(name="clip-tiny"), lambda: ["a caption"])
    return dataclasses.replace(
        loaded, feeder=dataclasses.replace(loaded.feeder, processor=_processor(CLIPImageProcessor, processor))
    )


def _processor(kind: type[Any], source: str) -> CLIPProcessor:
    return CLIPProcessor(kind.from_pretrained(source), CLIPTokenizerFast.from_pretrained(source))


def seconds_of(batches: Iterable[Any]) -> float:
    """How long it takes to have them all."""
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


def _epochs_of(loader: DataLoader[Any]) -> Callable[[], float]:
    """Epochs after one that starts the workers."""
    seconds_of(loader)
    return lambda: seconds_of(loader)


# Ours ---------------------------------------------------------------------------------------------


def ours(split: datasets.Dataset, loaded: LoadedModel, *, empty: bool) -> float:
    """Everything that a run does before and in its first epoch."""
    if empty:
        for file in Path(os.environ["ICCLIP_CACHE"]).rglob("*.npy"):
            file.unlink()
    started = time.perf_counter()
    seconds_of(_our_batches(split, loaded))
    return time.perf_counter() - started


def _later(split: datasets.Dataset, loaded: LoadedModel) -> Callable[[], float]:
    """An epoch from a cache, with workers that have been started."""
    batches = _our_batches(split, loaded)
    seconds_of(batches)
    return lambda: seconds_of(batches)


class _Batches:
    """The loader's, with pixels as the model gets them."""

    def __init__(self, loader: DataLoader[Any], loaded: LoadedModel) -> None:
        self.loader, self.loaded = loader, loaded

    def __iter__(self) -> Any:
        for batch in self.loader:
            yield {**batch, "pixel_values": self.loaded.feeder.pixels.normalised(batch["pixel_values"])}


def _our_batches(split: datasets.Dataset, loaded: LoadedModel) -> _Batches:
    captions = caption_map(split)
    loaded = loaded.ready_for(captions.texts)
    images, path = SplitImages(split), cache_path(image_digests(split), loaded.feeder.pixels)
    cache = cached_images(images, path, loaded.feeder.pixels, "on", workers=WORKERS, reporter=QUIET)
    data, sampler = CaptionedImages(cache, captions), EpochSampler(len(split), seed=0)
    return _Batches(
        DataLoader(data, sampler=sampler, collate_fn=Collator(loaded.feeder, seed=0), prefetch_factor=4, **LOADER),
        loaded,
    )


# Theirs -------------------------------------------------------------------------------------------


def plain(split: datasets.Dataset, processor: CLIPProcessor) -> DataLoader[Any]:
    """What examples show."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        captions = [row["captions"][0] for row in rows]
        images = [row["image"].convert("RGB") for row in rows]
        return processor(text=captions, images=images, padding=True, truncation=True, return_tensors="pt")

    return DataLoader(split.cast_column("image", datasets.Image()), shuffle=True, collate_fn=collate, **LOADER)


def _optional(split: datasets.Dataset, processor: str) -> dict[str, Callable[[], float]]:
    found = {}
    try:
        from transformers import CLIPImageProcessorFast

        found["fast"] = _epochs_of(plain(split, _processor(CLIPImageProcessorFast, processor)))
    except ImportError as error:
        print(f"fast: skipped ({error})")
    try:
        found["open_clip"] = _epochs_of(open_clip_loader(split))
    except ImportError as error:
        print(f"open_clip: skipped ({error})")
    return found


def open_clip_loader(split: datasets.Dataset) -> DataLoader[Any]:
    """Its evaluation transform, so that the pixels are those of the others; its own for training crop at random."""
    from open_clip import SimpleTokenizer
    from open_clip.transform import image_transform

    preprocess, tokenize = image_transform(224, is_train=False), SimpleTokenizer()

    class Pairs(torch.utils.data.Dataset[Any]):
        rows = split.cast_column("image", datasets.Image())

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> Any:
            row = self.rows[index]
            return preprocess(row["image"]), tokenize([row["captions"][0]])[0]

    return DataLoader(Pairs(), shuffle=True, **LOADER)


# The result ---------------------------------------------------------------------------------------


def _result(asked: argparse.Namespace, seconds: dict[str, list[float]], first_size: tuple[int, int]) -> dict[str, Any]:
    rates = {name: asked.images / statistics.median(values) for name, values in seconds.items()}
    versions = {
        name: _version(name)
        for name in ("torch", "torchvision", "transformers", "datasets", "pillow", "open_clip_torch")
    }
    return {
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "times_plain": {name: round(_ratio(seconds["plain"], values), 2) for name, values in seconds.items()},
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "images": asked.images,
        "size_of_the_first": list(first_size),
        "batch": BATCH,
        "workers": WORKERS,
        "repeats": asked.repeats,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        **versions,
    }


def _ratio(plain_seconds: list[float], values: list[float]) -> float:
    """Of pairs that ran one after the other."""
    return statistics.median(one / other for one, other in zip(plain_seconds, values, strict=True))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
