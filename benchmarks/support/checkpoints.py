"""Checkpoints of published sizes with random weights: speed does not depend on their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from icclip.config import ModelConfig
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry

CAPTIONS = ("a dog runs over the wet grass", "two children in red coats", "a man on a bicycle, seen from behind")
"""What the tokenizers are trained on where nothing else is at hand."""


def ends(tokenizer: Any) -> dict[str, int]:
    """The tokens around a text, for a text configuration."""
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}


def clip(patch_size: int, tokenizer: Any) -> tuple[Any, Any]:
    """CLIP ViT-B at 224 pixels; of transformers' defaults only the patch differs."""
    config = CLIPConfig(text_config=ends(tokenizer), vision_config={"patch_size": patch_size})
    return CLIPModel(config), CLIPImageProcessor()


def siglip(patch_size: int, tokenizer: Any) -> tuple[Any, Any]:
    """SigLIP ViT-B at 224 pixels, as transformers' defaults have it."""
    config = SiglipConfig(text_config=ends(tokenizer), vision_config={"patch_size": patch_size})
    return SiglipModel(config), SiglipImageProcessor()


FAMILIES: Mapping[str, Callable[[int, Any], tuple[Any, Any]]] = {"clip": clip, "siglip": siglip}


def preset(registry: Registry, family: str) -> LoadedModel:
    """The family's from-scratch preset, untrained."""
    return open_model(registry, ModelConfig(name=f"{family}-tiny"), lambda: CAPTIONS)


def write_base(folder: Path, family: str, tokenizer: Any, *, patch_size: int) -> Path:
    """Put a checkpoint of base size into `folder`, in transformers' layout."""
    model, image_processor = FAMILIES[family](patch_size, tokenizer)
    for part in (model, image_processor, tokenizer):
        part.save_pretrained(folder)
    return folder
