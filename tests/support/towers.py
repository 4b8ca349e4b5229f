"""Tiny pretrained towers, random ones, as directories that `icclip assemble` takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from support.foreign import SIZE, WORDS

from icclip.models.quiet import quiet_transformers

SIDE, POSITIONS = 32, 24
BERT_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *WORDS,
    *["one", "size", "that", "is", "tiny", "huge", "grey"],
]
TEXT = SIZE | {"vocab_size": len(BERT_WORDS), "max_position_embeddings": POSITIONS, "initializer_range": 0.2}


def vit(**options: Any) -> Any:
    return transformers.ViTConfig(**SIZE, image_size=SIDE, patch_size=16, initializer_range=0.2, **options)


def convnext() -> Any:
    return transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, patch_size=4)


def efficientnet(**options: Any) -> Any:
    """Three blocks, with BatchNorm and squeeze-and-excite; it names no `hidden_size`."""
    return transformers.EfficientNetConfig(
        **options, image_size=SIDE, width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320, dropout_rate=0.1,
        kernel_sizes=[3, 5], in_channels=[32, 32], out_channels=[32, 64], strides=[2, 1], num_block_repeats=[1, 2],
        expand_ratios=[2, 2], depthwise_padding=[], num_hidden_layers=2,
    )  # fmt: skip


def resnet() -> Any:
    return transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")


def bert(**options: Any) -> Any:
    return transformers.BertConfig(**{**TEXT, **options})


def roberta() -> Any:
    return transformers.RobertaConfig(**TEXT, pad_token_id=0, bos_token_id=2, eos_token_id=3)


def distilbert() -> Any:
    return transformers.DistilBertConfig(
        vocab_size=len(BERT_WORDS), max_position_embeddings=POSITIONS, dim=32, n_layers=1, n_heads=2, hidden_dim=64
    )


def t5() -> Any:
    return transformers.T5Config(vocab_size=len(BERT_WORDS), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)


PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": SIDE}, "crop_pct": 0.875},
    "efficientnet": {
        "image_processor_type": "EfficientNetImageProcessor", "size": {"height": SIDE, "width": SIDE},
        "include_top": True, "image_std": [0.4785, 0.4732, 0.4743], "resample": 3,
    },
}  # fmt: skip
VIT_PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": SIDE, "width": SIDE}}


def write_tower(directory: Path, config: Any, seed: int = 0, **preprocessing: Any) -> Path:
    """A random model of a configuration, with an image processor or a tokenizer."""
    directory.mkdir()
    torch.manual_seed(seed)
    with quiet_transformers():
        model = transformers.AutoModel.from_config(config)
        spread_statistics(model)
        model.save_pretrained(directory)
        if model.main_input_name == "pixel_values":
            values = {**PROCESSORS.get(config.model_type, VIT_PROCESSOR), **preprocessing}
            (directory / "preprocessor_config.json").write_text(json.dumps(values))
        else:
            (directory / "vocab.txt").write_text("\n".join(BERT_WORDS))
            transformers.BertTokenizerFast(str(directory / "vocab.txt")).save_pretrained(directory)
    return directory


def spread_statistics(model: Any) -> None:
    """BatchNorm as it is after training: the statistics of a batch are others."""
    for norm in (one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)


def assembled(icclip: Callable[..., Any], folder: Path, vision: Any, text: Any, *options: Any) -> Path:
    """A checkpoint of two random towers, by way of the command line."""
    towers = write_tower(folder / "vision", vision), write_tower(folder / "text", text, seed=1)
    done = icclip("assemble", "--vision", towers[0], "--text", towers[1], "-o", folder / "start", *options)
    assert done.code == 0, done.err
    return folder / "start"
