"""A dual encoder's two towers as modules and configurations that optimum can export.

optimum's own configurations export either one graph that needs both inputs, or towers without their
projection, which are wrong for retrieval. These give `get_image_features` and `get_text_features`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from optimum.exporters.onnx.base import OnnxConfig
from optimum.exporters.onnx.model_configs import CLIPNormalizedConfig
from optimum.exporters.onnx.model_patcher import CLIPModelPatcher
from torch import Tensor

from icclip.bundles.manifest import Tower, TowerIO
from icclip.errors import CheckpointError
from icclip.models.loaded import LoadedModel

BATCH_AXIS, LENGTH_AXIS = "batch_size", "sequence_length"
_TRACED_BATCH = 2
"""A batch of one would let the tracer take the axis for a constant."""
PIXELS, TOKENS = "pixel_values", "input_ids"


@dataclass(frozen=True)
class TowerExport:
    """One tower, ready for optimum's `export_models`."""

    module: torch.nn.Module
    config: OnnxConfig
    io: TowerIO


class ImageTower(torch.nn.Module):
    """`pixel_values` float32 [b, 3, h, w] -> projected, un-normalised embeddings [b, dim]."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.model, self.config, self._loaded = loaded.model, loaded.model.config, loaded

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The embeddings."""
        return self._loaded.image_features({PIXELS: pixel_values})


class TextTower(torch.nn.Module):
    """`input_ids` int64 [b, length] -> projected, un-normalised embeddings [b, dim].

    No attention mask: CLIP's text attention is causal and pooled before the padding, SigLIP was
    trained without one.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.model, self.config, self._loaded = loaded.model, loaded.model.config, loaded

    def forward(self, input_ids: Tensor) -> Tensor:
        """The embeddings."""
        return self._loaded.text_features({TOKENS: input_ids})


class TowerOnnxConfig(OnnxConfig):  # type: ignore[misc]  # optimum ships no type information
    """One input, one output, and the example that the graph is traced with."""

    NORMALIZED_CONFIG_CLASS = CLIPNormalizedConfig
    _MODEL_PATCHER = CLIPModelPatcher

    def __init__(self, config: Any, io: TowerIO, axes: Mapping[int, str], example: Tensor) -> None:
        super().__init__(config)
        self.io, self.axes, self.example = io, dict(axes), example

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """The input's dynamic axes."""
        return {self.io.input: self.axes}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """The output's dynamic axis."""
        return {self.io.output: {0: BATCH_AXIS}}

    def generate_dummy_inputs(self, framework: str = "pt", **_shapes: Any) -> dict[str, Any]:
        """The example, as torch or numpy. optimum's own has no end-of-text token, where CLIP pools."""
        return {self.io.input: self.example if framework == "pt" else self.example.numpy()}


def tower_exports(loaded: LoadedModel) -> dict[Tower, TowerExport]:
    """Both towers of a checkpoint.

    Raises:
        CheckpointError: its towers take inputs that the exported encoders do not have.
    """
    check_exportable(loaded)
    config = loaded.model.config
    axes = {0: BATCH_AXIS}
    text_axes = axes | ({1: LENGTH_AXIS} if loaded.feeder.text_policy.padding == "longest" else {})
    ios = tower_ios(loaded)
    image, text = example_pixels(loaded, _TRACED_BATCH), example_tokens(loaded, _TRACED_BATCH)
    return {
        "vision": TowerExport(ImageTower(loaded), TowerOnnxConfig(config, ios["vision"], axes, image), ios["vision"]),
        "text": TowerExport(TextTower(loaded), TowerOnnxConfig(config, ios["text"], text_axes, text), ios["text"]),
    }


def tower_ios(loaded: LoadedModel) -> dict[Tower, TowerIO]:
    """The names that the graphs give their input and output."""
    return {
        "vision": TowerIO(input=PIXELS, output=loaded.backend.image_output),
        "text": TowerIO(input=TOKENS, output=loaded.backend.text_output),
    }


def check_exportable(loaded: LoadedModel) -> None:
    """Raises CheckpointError for what would export to encoders that are wrong without a word."""
    if not isinstance(getattr(loaded.model.config.vision_config, "image_size", None), int):
        raise CheckpointError(
            f"{loaded.source} takes images of any shape (NaFlex), which cannot be exported: "
            "use a checkpoint of a fixed resolution (its name ends in -patch16-224 or the like)"
        )
    if loaded.feeder.text_policy.attention_mask:
        raise CheckpointError(
            f"{loaded.source}: backend {loaded.backend.name!r} needs an attention mask, and exported text encoders "
            "take input_ids alone: it cannot be exported"
        )


def example_pixels(loaded: LoadedModel, batch: int) -> Tensor:
    """Noise, float32 [batch, 3, side, side]; the same every time."""
    side = loaded.model.config.vision_config.image_size
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))


def example_tokens(loaded: LoadedModel, batch: int, length: int | None = None) -> Tensor:
    """Token ids int64 [batch, length], each row ending in its own place with the end-of-text token.

    Args:
        loaded: whose vocabulary.
        batch: rows.
        length: None, or any where the model pads to its full length: the full length.
    """
    tokenizer, policy = loaded.feeder.processor.tokenizer, loaded.feeder.text_policy
    length = policy.max_length if length is None or policy.padding == "max_length" else length
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    # Special tokens, which could end a text early, have the highest ids in CLIP and the lowest in SigLIP.
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor([i for i in range(loaded.model.config.text_config.vocab_size) if i not in special])
    chosen = torch.randint(len(ordinary), (batch, length), generator=torch.Generator().manual_seed(batch * length))
    ids = ordinary[chosen]
    for row in range(batch):
        last = length - 1 - row * (length - 1) // batch
        ids[row, last] = end
        ids[row, last + 1 :] = end if padding is None else padding
    return ids
