"""Small dual encoders to train from scratch, one of each family.

A preset's processor is written as files and opened like any other, so that what trains is what a
saved checkpoint gives back, whichever image processor and tokenizer the installed transformers has.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from icclip.config import ModelConfig
from icclip.models.loaded import LoadedModel
from icclip.models.opening import load_processor, load_tokenizer
from icclip.models.quiet import quiet_transformers
from icclip.models.resizing import check_side
from icclip.models.tokenizers import write_tokenizer
from icclip.plugins.specs import BackendSpec

SIDE, PATCH = 64, 16
"""16 patches; patches of 8 would be 64, and about four times the work in the vision tower."""
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
VOCABULARY = 4096
CLIP_LENGTH = 48
PRESET_BATCH = 64
"""What the presets' training defaults say, and SigLIP's bias starts from."""
SIGLIP_LENGTH = 32
"""Every text is padded to it, so that it costs time: 99 of 100 captions of Flickr8k are shorter."""

PREPROCESSING: dict[str, Any] = {
    "do_resize": True,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
}
CLIP_PREPROCESSING = PREPROCESSING | {
    "image_processor_type": "CLIPImageProcessor",
    "processor_class": "CLIPProcessor",
    "do_center_crop": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SIGLIP_PREPROCESSING = PREPROCESSING | {
    "image_processor_type": "SiglipImageProcessor",
    "processor_class": "SiglipProcessor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def clip_tiny(config: ModelConfig, captions: Sequence[str], backend: BackendSpec) -> LoadedModel:
    """An untrained CLIP; its weights depend on `config.seed`, its tokenizer on `captions`.

    Raises:
        UsageError: `config.image_resize` is no multiple of the patch size.
        CheckpointError: the tokenizer that `config` names cannot be used.
    """
    side = _side(config)
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    processor = _processor(config, captions, CLIP_PREPROCESSING | size, CLIP_LENGTH)
    with quiet_transformers():
        model_config = CLIPConfig(
            text_config=TEXT | _vocabulary(processor.tokenizer, CLIP_LENGTH),
            vision_config=VISION | {"image_size": side, "patch_size": PATCH},
            projection_dim=VISION["hidden_size"],
        )
    return LoadedModel.of(_seeded(CLIPModel, model_config, config), processor, backend, config.name)


def siglip_tiny(config: ModelConfig, captions: Sequence[str], backend: BackendSpec) -> LoadedModel:
    """An untrained SigLIP; its weights depend on `config.seed`, its tokenizer on `captions`.

    Raises:
        UsageError: `config.image_resize` is no multiple of the patch size.
        CheckpointError: the tokenizer that `config` names cannot be used.
    """
    side = _side(config)
    size = {"size": {"height": side, "width": side}}
    processor = _processor(config, captions, SIGLIP_PREPROCESSING | size, SIGLIP_LENGTH)
    with quiet_transformers():
        model_config = SiglipConfig(
            text_config=TEXT | _vocabulary(processor.tokenizer, SIGLIP_LENGTH),
            vision_config=VISION | {"image_size": side, "patch_size": PATCH},
        )
    model = _seeded(SiglipModel, model_config, config)
    # Section 3.2 of the SigLIP paper (Zhai et al. 2023): nearly all pairs are negatives, and the first
    # steps must not be spent on learning just that. transformers starts both at zero. The paper's bias
    # of -10 is the log-odds of a pair among its 32 Ki; a preset meets one in 64, and from -10 its
    # positives' gradients would be drowned for the first epochs.
    torch.nn.init.constant_(model.logit_scale, math.log(10))
    torch.nn.init.constant_(model.logit_bias, -math.log(PRESET_BATCH - 1))
    return LoadedModel.of(model, processor, backend, config.name)


def _side(config: ModelConfig) -> int:
    side = config.image_resize or SIDE
    check_side(side, PATCH)
    return side


def _processor(config: ModelConfig, captions: Sequence[str], preprocessing: dict[str, Any], max_length: int) -> Any:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if config.tokenizer is None:
            write_tokenizer(directory, captions, vocab_size=VOCABULARY, max_length=max_length)
        else:
            load_tokenizer(config, config.tokenizer).save_pretrained(directory)
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
        return load_processor(directory)


def _vocabulary(tokenizer: Any, max_length: int) -> dict[str, int]:
    """The part of a text config that depends on the tokenizer."""
    return {
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,
        "max_position_embeddings": max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _seeded(model_class: Any, model_config: Any, config: ModelConfig) -> Any:
    """An initialised model, without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(config.seed)
        model = model_class(model_config)
    model.set_attn_implementation(config.attention)
    return model.eval()
