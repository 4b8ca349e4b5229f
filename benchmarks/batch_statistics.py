"""What BatchNorm's mode of training alone does to a start: no weight changes here.

    python -m benchmarks.batch_statistics --start START --dataset flickr8k@PATH

The first captions of validation images and the images, encoded with the statistics that the vision tower was trained with, and
with those of batches of several sizes, as the tower would see them if it trained. Everything else is in evaluation mode.
"cosine" is between an image's two embeddings; "loss" is the softmax loss of batches of 64. Writes batch_statistics.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.support.timing import environment, rounded, show, write
from icclip.config import DatasetConfig, ModelConfig
from icclip.console import Reporter
from icclip.data.gallery import load_gallery
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry

IMAGES, LOSS_BATCH = 256, 64
BATCHES = (16, 64, 256)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", required=True)
    parser.add_argument("--dataset", default="flickr8k", help="as `icclip train` takes it")
    options = parser.parse_args()
    registry = Registry.from_environment()
    loaded = open_model(registry, ModelConfig(name=options.start))
    name, _, path = options.dataset.partition("@")
    gallery = load_gallery(registry, DatasetConfig(name=name, path=path or None), "validation", Reporter(silent=True))
    inputs = loaded.feeder.image_inputs([gallery.images[row] for row in range(IMAGES)])
    first = [gallery.captions.texts[offset] for offset in gallery.captions.offsets[:IMAGES]]
    loaded.model.eval()
    with torch.inference_mode():
        texts = normalize(loaded.text_features(loaded.feeder.text_inputs(first)), dim=-1)  # [IMAGES, width]
        own = encode(loaded, inputs, LOSS_BATCH)
        use_batch_statistics(loaded)
        rows = [row_of("the tower's own", own, own, texts, loaded)]
        rows += [row_of(f"of batches of {size}", encode(loaded, inputs, size), own, texts, loaded) for size in BATCHES]
    show(rows)
    write(__file__, {"about": environment("icclip", "torch", "transformers"), "images": IMAGES, "rows": rows})


def use_batch_statistics(loaded: LoadedModel) -> None:
    """Put BatchNorm in the mode of training; what it has learned stays as it is."""
    for module in loaded.model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
            module.momentum = 0.0


def encode(loaded: LoadedModel, inputs: dict[str, Tensor], size: int) -> Tensor:
    """Embeddings of length 1, float32 [IMAGES, width], `size` images at a time."""
    features = [
        loaded.image_features({name: value[start : start + size] for name, value in inputs.items()})
        for start in range(0, IMAGES, size)
    ]
    return normalize(torch.cat(features), dim=-1)


def row_of(statistics: str, images: Tensor, own: Tensor, texts: Tensor, loaded: LoadedModel) -> dict[str, Any]:
    """How far the embeddings moved, and what it costs."""
    scale = loaded.model.logit_scale.exp()
    losses = [
        (cross_entropy(logits, target) + cross_entropy(logits.T, target)).item() / 2
        for start in range(0, IMAGES, LOSS_BATCH)
        for target in [torch.arange(LOSS_BATCH)]
        for logits in [scale * images[start : start + LOSS_BATCH] @ texts[start : start + LOSS_BATCH].T]
    ]
    moved = cosine_similarity(images, own).mean().item()
    return {"statistics": statistics, "cosine": rounded(moved), "loss": rounded(sum(losses) / len(losses))}


if __name__ == "__main__":
    main()
