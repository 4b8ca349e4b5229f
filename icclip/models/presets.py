"""The parts that presets of all families are built from.

A preset's processor is written to files and opened like any other, so that training uses what a saved
checkpoint gives back, whichever image processor and tokenizer the installed transformers has.
The families themselves are in the backends.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from icclip.config import ModelConfig
from icclip.models.opening import load_processor, load_tokenizer
from icclip.models.quiet import quiet_transformers
from icclip.models.resizing import check_side
from icclip.models.tokenizers import write_tokenizer

SIDE, PATCH = 64, 16
"""The patch size gives 16 patches; patches of 8 would give 64 and about four times the work in the vision tower."""
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
VOCABULARY = 4096

PREPROCESSING: dict[str, Any] = {
    "do_resize": True,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
}


def preset_side(config: ModelConfig) -> int:
    """The side of its square images in pixels. Raises UsageError if the patches do not fill it."""
    side = config.image_resize or SIDE
    check_side(side, PATCH)
    return side


def preset_processor(
    config: ModelConfig, captions: Sequence[str], preprocessing: dict[str, Any], max_length: int
) -> Any:
    """Make a processor, with a tokenizer trained on `captions` unless `config` names one.

    Args:
        config: the configuration of the model.
        captions: texts to train the tokenizer on.
        preprocessing: the content of preprocessor_config.json.
        max_length: the maximum length of a text in tokens.

    Raises:
        CheckpointError: the tokenizer that `config` names cannot be used.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if config.tokenizer is None:
            write_tokenizer(directory, captions, vocab_size=VOCABULARY, max_length=max_length)
        else:
            load_tokenizer(config, config.tokenizer).save_pretrained(directory)
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
        return load_processor(directory)


def vocabulary_fields(tokenizer: Any, max_length: int) -> dict[str, int]:
    """The part of a text config that depends on the tokenizer."""
    return {
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,
        "max_position_embeddings": max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def seeded(model_class: Any, model_config: Any, config: ModelConfig) -> Any:
    """Initialise a model without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(config.seed)
        model = model_class(model_config)
    model.set_attn_implementation(config.attention)
    return model.eval()
