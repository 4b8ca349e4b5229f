"""A plugin for dual encoders of two foreign towers, here a ViT and a BERT, and a checkpoint of one.

It is one file and its spec: nothing else in the project knows of these models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icclip import hookimpl
from icclip.plugins import BackendSpec, TextPolicy, TowerLayout, numbered_blocks

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "green",
    "small",
    "large",
    "circle",
    "square",
    "dog",
    "on",
    "above",
    "grass",
    "wet",
    "fence",
    "two",
]


def load(config: Any) -> Any:
    """A checkpoint from a directory."""
    from icclip.models.opening import load_pretrained

    return load_pretrained(config, BACKEND)


def unwrap(output: Any) -> Any:
    """The tensor in what the feature methods return."""
    return getattr(output, "pooler_output", output)


def text_policy(config: Any, _tokenizer: Any) -> TextPolicy:
    """BERT's: padding to the longest with a mask, and token types."""
    return TextPolicy(
        padding="longest",
        max_length=config.text_config.max_position_embeddings,
        attention_mask=True,
        token_types=True,
    )


BACKEND = BackendSpec(
    name="foreign",
    summary="two foreign towers",
    model_types=("vision-text-dual-encoder",),
    loss="softmax",
    load=load,
    text_policy=text_policy,
    unwrap=unwrap,
    vision=TowerLayout(
        module="vision_model",
        parameters=("vision_model.", "visual_projection."),
        blocks=numbered_blocks(r"vision_model\.(encoder\.layer|layers)\.\d+"),  # before transformers 5, and since
        config="vision_config",
        graph_input="pixel_values",
        graph_output="image_embeds",
    ),
    text=TowerLayout(
        module="text_model",
        parameters=("text_model.", "text_projection."),
        blocks=numbered_blocks(r"text_model\.encoder\.layer\.\d+"),
        config="text_config",
        graph_input="input_ids",
        graph_output="text_embeds",
    ),
)


@hookimpl
def icclip_model_backends() -> list[BackendSpec]:
    """The one backend."""
    return [BACKEND]


def write_checkpoint(directory: Path) -> Path:
    """A random ViT and a random BERT as one checkpoint, laid out as transformers does it."""
    import torch
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTConfig,
    )

    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(str(directory / "vocab.txt"), model_max_length=16)
    tokenizer.save_pretrained(directory)
    text = BertConfig(**SIZE, vocab_size=len(tokenizer), max_position_embeddings=16, initializer_range=0.3)
    vision = ViTConfig(**SIZE, image_size=32, patch_size=16)
    torch.manual_seed(0)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=24)
    VisionTextDualEncoderModel(config).save_pretrained(directory)
    preprocessing = {
        "image_processor_type": "ViTImageProcessor",
        "processor_class": "VisionTextDualEncoderProcessor",
        "size": {"height": 32, "width": 32},
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return directory
