"""Checkpoints of published configurations, with random weights."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from transformers import CLIPConfig, CLIPModel

from icclip.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from pathlib import Path


def write_clip_vit_base_patch16(directory: Path, tokenizer: Path) -> CLIPModel:
    """openai/clip-vit-base-patch16 in `directory`; `tokenizer` holds its tokenizer and preprocessing."""
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 12}
    text |= {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    vision |= {"image_size": 224, "patch_size": 16}
    with quiet_transformers():
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))
        model.save_pretrained(directory)
    for path in tokenizer.iterdir():
        shutil.copyfile(path, directory / path.name)
    return model
