"""open_clip's model of the architecture of a transformers CLIP, and how open_clip trains it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import open_clip

if TYPE_CHECKING:
    import torch
    from transformers import CLIPConfig


def open_clip_model(config: CLIPConfig) -> open_clip.CLIP:
    """The architecture of a transformers configuration, in open_clip."""
    vision, text = config.vision_config, config.text_config
    return open_clip.CLIP(
        config.projection_dim,
        {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "layers": vision.num_hidden_layers,
        },
        {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "pool_type": "eos",
            "eos_id": text.eos_token_id,
        },
        quick_gelu=config.vision_config.hidden_act == "quick_gelu",
        output_dict=True,
    )


def groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters as open_clip_train.main hands them to AdamW: norms and biases do not decay."""
    named = list(model.named_parameters())
    small = {name for name, value in named if value.ndim < 2 or "ln" in name or "bias" in name}  # noqa: PLR2004
    return [
        {"params": [value for name, value in named if name in small], "weight_decay": 0.0},
        {"params": [value for name, value in named if name not in small], "weight_decay": weight_decay},
    ]
