"""Open pretrained models as towers of a dual encoder, try them out, and refuse those that cannot serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from icclip.config import ModelConfig
from icclip.errors import CheckpointError
from icclip.models.opening import (
    check_vocabulary,
    image_processor_in,
    read_weights,
    resolve,
    source_label,
    tokenizer_in,
)

if TYPE_CHECKING:
    from icclip.config import Tower

TEXT_LIMIT = 512
"""Maximum length in tokens for a text tower that names no limit itself; captions are far shorter."""


@dataclass(frozen=True, slots=True)
class OpenedTower:
    """A pretrained model that has shown that it can serve as a tower."""

    model: Any
    """A transformers PreTrainedModel in float32 and evaluation mode, whose config has its pooled width as `hidden_size`."""
    feeder: Any
    """Its image processor or its tokenizer."""
    source: str
    """The source of the model, for messages."""
    new: tuple[str, ...]
    """The weights of a pooler that its checkpoint does not have and that start out random."""

    @property
    def width(self) -> int:
        """The width of its pooled output."""
        return int(self.model.config.hidden_size)


def open_vision(config: ModelConfig) -> OpenedTower:
    """Open a vision tower with its image processor.

    Raises:
        CheckpointError: the model cannot serve as a tower; the message says why.
    """
    model, source, new = _open(config, "vision", "pixel_values")
    processor = image_processor_in(resolve(config), config)
    inputs = processor(images=[Image.new("RGB", (48, 40), "red")], return_tensors="pt")
    if set(inputs) != {"pixel_values"}:
        raise CheckpointError(
            f"--vision {source}: its image processor gives {', '.join(sorted(inputs))}: "
            "a vision tower must take pixel_values of one size"
        )
    height, width = inputs["pixel_values"].shape[-2:]
    fed = f"on the {height} x {width} pixels that its image processor gives"
    expected = getattr(model.config, "image_size", None)
    hint = f" (its configuration has the image size {expected})" if expected is not None else ""
    _set_width(model, _pooled(model, inputs, f"--vision {source}", fed + hint), f"--vision {source}")
    return OpenedTower(model, processor, source, new)


def open_text(config: ModelConfig) -> OpenedTower:
    """Open a text tower with its tokenizer, whose `model_max_length` is set to what the tower can take.

    Raises:
        CheckpointError: the model cannot serve as a tower; the message says why.
    """
    model, source, new = _open(config, "text", "input_ids")
    tokenizer = tokenizer_in(resolve(config), config)
    check_vocabulary(tokenizer, model.config.vocab_size, f"--text {source}")
    where = f"--text {source}"
    _set_width(model, _pooled(model, _texts(tokenizer, "a caption"), where, "on a caption"), where)
    # A tokenizer saves the truncation it last used, so the one that is saved has not tokenized any text.
    fresh = tokenizer_in(resolve(config), config)
    fresh.model_max_length = _longest(model, tokenizer, where)
    return OpenedTower(model, fresh, source, new)


def _open(config: ModelConfig, tower: Tower, takes: str) -> tuple[Any, str, tuple[str, ...]]:
    """The model, how messages call it, and which of its weights are new."""
    source = source_label(config)
    where = f"--{tower} {source}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model, info = read_weights(resolve(config), config)
    kind = model.config.model_type
    if hasattr(model, "get_image_features"):
        raise CheckpointError(f"{where}: {kind} already has both towers: fine-tune it directly with `icclip train`")
    if model.config.is_encoder_decoder:
        raise CheckpointError(f"{where}: {kind} is an encoder-decoder model: give an encoder")
    if model.main_input_name != takes:
        raise CheckpointError(f"{where}: {kind} takes {model.main_input_name}: a {tower} tower takes {takes}")
    missing = [key for key in info["missing_keys"] if not key.endswith(".position_ids")]
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    if [key for key in missing if "pooler" not in key] or mismatched:
        raise CheckpointError(
            f"{where}: its weights do not fit its config.json: {', '.join([*missing, *mismatched][:3])}"
        )
    return model.eval(), source, tuple(missing)


def _texts(tokenizer: Any, text: str, length: int | None = None) -> Mapping[str, Tensor]:
    cut = {} if length is None else {"max_length": length, "truncation": True}
    inputs = tokenizer([text], return_tensors="pt", **cut)
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def _pooled(model: Any, inputs: Mapping[str, Tensor], where: str, on: str) -> Tensor:
    """The pooled output [1, width] of one input; `where` and `on` are for messages."""
    try:
        with torch.inference_mode():
            output = model(**inputs)
    # A model may raise any exception for inputs that it cannot take.
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{where}: {model.config.model_type} does not run {on}: {line}") from error
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        raise CheckpointError(
            f"{where}: {model.config.model_type} has no pooled output (pooler_output), which stands for the whole "
            "input: give a model that has one, such as ViT, DINOv2, ConvNeXt, EfficientNet, BERT, RoBERTa or MPNet"
        )
    # The model's forward takes the second output, its feature methods the one of this name.
    if pooled.ndim != 2 or not torch.equal(pooled, output[1]):  # noqa: PLR2004 - batch and width
        shape = " x ".join(map(str, pooled.shape))
        raise CheckpointError(f"{where}: its pooled output is {shape}: expected one vector per input")
    features: Tensor = pooled
    return features


def _set_width(model: Any, pooled: Tensor, where: str) -> None:
    """Set what transformers sizes the projections by, `hidden_size`, which convolutional networks do not have."""
    width, said = pooled.shape[1], getattr(model.config, "hidden_size", None)
    if said is None:
        model.config.hidden_size = width
    elif said != width:
        raise CheckpointError(
            f"{where}: its pooled output has {width} values and its configuration says hidden_size {said}, "
            "from which transformers sizes the projection: it cannot be used as a tower"
        )


def _longest(model: Any, tokenizer: Any, where: str) -> int:
    """The number of tokens that the tower can take: its number of positions, or slightly fewer as in RoBERTa."""
    positions = getattr(model.config, "max_position_embeddings", None) or TEXT_LIMIT
    most = int(min(tokenizer.model_max_length, positions))
    for length in (most, most - tokenizer.pad_token_id - 1):
        try:
            _pooled(model, _texts(tokenizer, "a " * most, length), where, f"on a text of {length} tokens")
        except CheckpointError:
            continue
        return length
    raise CheckpointError(
        f"{where}: it cannot take texts of {most} tokens: set model_max_length in its tokenizer_config.json"
    )
