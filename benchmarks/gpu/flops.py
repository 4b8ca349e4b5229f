"""Operations that a model needs, counted from its configuration."""

from __future__ import annotations

from typing import Any

TRAINING = 3
"""Forward once, backward twice as much. What a gradient cache computes again is no work of the model."""


def training_flops(config: Any, text_length: int) -> float:
    """Floating-point operations of one pair's forward and backward pass, a multiply-add counted as two.

    Args:
        config: of a CLIP or SigLIP with a vision transformer.
        text_length: tokens in each text, padding included.
    """
    vision, text = config.vision_config, config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    # CLIP has a class token before the patches, SigLIP a pooling head after them.
    classes = config.model_type == "clip"
    patching = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    head = 0 if classes else _block(vision, 1, patches)
    towers = _tower(vision, patches + classes) + _tower(text, text_length)
    return TRAINING * (patching + head + towers + _projections(config))


def _tower(config: Any, tokens: int) -> float:
    return config.num_hidden_layers * _block(config, tokens, tokens)


def _block(config: Any, queries: int, keys: int) -> float:
    """Attention of `queries` to `keys`, and the layers after it."""
    width = config.hidden_size
    projections = 2 * width**2 * (2 * queries + 2 * keys)
    attention = 4 * queries * keys * width
    return projections + attention + 4 * queries * width * config.intermediate_size


def _projections(config: Any) -> float:
    """Of the pooled outputs; SigLIP has one on the text's side."""
    vision, text = config.vision_config.hidden_size, config.text_config.hidden_size
    if config.model_type == "clip":
        return 2 * config.projection_dim * (vision + text)
    return 2 * text**2
