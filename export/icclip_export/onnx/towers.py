"""A dual encoder's two towers as modules that an exporter can trace: `get_image_features` and `get_text_features`.

transformers' own towers end before the projection, which is wrong for retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from icclip.bundles.manifest import Tower, TowerIO
from icclip.errors import CheckpointError
from icclip.models.loaded import LoadedModel

BATCH_AXIS, LENGTH_AXIS = "batch_size", "sequence_length"
_TRACED_BATCH = 2
"""The example's batch size; with a batch of one, the tracer would take the axis for a constant."""


@dataclass(frozen=True)
class TowerExport:
    """One tower, and what its graph looks like from outside."""

    module: torch.nn.Module
    """In evaluation mode; takes the graph's input and returns its output, the embeddings float32 [b, dim]."""
    io: TowerIO
    axes: Mapping[int, str]
    """The dynamic axes of the input, by their names; the output's first is the batch."""
    example: Tensor
    """An input that the graph is traced with."""


class ImageTower(torch.nn.Module):
    """Turns pixels, float32 [b, 3, h, w], into projected, un-normalised embeddings [b, dim]."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.model, self.config, self._loaded = loaded.model, loaded.model.config, loaded

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The embeddings."""
        return self._loaded.image_features({self._loaded.backend.vision.graph_input: pixel_values})


class TextTower(torch.nn.Module):
    """Turns token ids, int64 [b, length], into projected, un-normalised embeddings [b, dim].

    Other inputs of the text policy are computed from the ids inside the graph: the attention mask is 0 for padding,
    and token types are 0 everywhere.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.model, self.config, self._loaded = loaded.model, loaded.model.config, loaded

    def forward(self, input_ids: Tensor) -> Tensor:
        """The embeddings."""
        return self._loaded.text_features(completed(self._loaded, input_ids))


def completed(loaded: LoadedModel, ids: Tensor) -> dict[str, Tensor]:
    """Compute all inputs of the text tower from token ids, int64 [b, length]."""
    feeder = loaded.feeder
    made = {
        "attention_mask": lambda: padding_mask(ids, feeder.processor.tokenizer),
        "token_type_ids": lambda: torch.zeros_like(ids),
    }
    name = loaded.backend.text.graph_input
    return {name: ids, **{other: made[other]() for other in feeder.text_policy.inputs if other != name}}


def padding_mask(ids: Tensor, tokenizer: Any) -> Tensor:
    """Compute a mask, int64 [b, length], from ids of the same shape; it is 0 for padding at the end (or the start) of a row.

    A padding token that a user typed is inside the text, before the closing token, and is read as text.
    """
    text = ids.ne(tokenizer.pad_token_id).to(torch.int64)
    reached = text.cumsum(1) if tokenizer.padding_side == "left" else text.flip(1).cumsum(1).flip(1)
    return reached.gt(0).to(torch.int64)


def tower_exports(loaded: LoadedModel) -> dict[Tower, TowerExport]:
    """Prepare both towers of a checkpoint for export.

    Raises:
        CheckpointError: a tower takes inputs that the exported encoders do not have.
    """
    check_exportable(loaded)
    axes = {0: BATCH_AXIS}
    text_axes = axes | ({1: LENGTH_AXIS} if loaded.feeder.text_policy.padding == "longest" else {})
    ios = tower_ios(loaded)
    image, text = example_pixels(loaded, _TRACED_BATCH), example_tokens(loaded, _TRACED_BATCH)
    return {
        "vision": TowerExport(ImageTower(loaded).eval(), ios["vision"], axes, image),
        "text": TowerExport(TextTower(loaded).eval(), ios["text"], text_axes, text),
    }


def tower_ios(loaded: LoadedModel) -> dict[Tower, TowerIO]:
    """The names that the graphs give their input and output."""
    return {
        "vision": TowerIO(input=loaded.backend.vision.graph_input, output=loaded.backend.vision.graph_output),
        "text": TowerIO(input=loaded.backend.text.graph_input, output=loaded.backend.text.graph_output),
    }


def check_exportable(loaded: LoadedModel) -> None:
    """Raise CheckpointError for checkpoints whose exported encoders would silently be wrong."""
    if set(_probe(loaded)) != {loaded.backend.vision.graph_input}:
        raise CheckpointError(
            f"{loaded.source} takes images of any shape (NaFlex), which cannot be exported: "
            "use a checkpoint with a fixed resolution (its name ends in -patch16-224 or the like)"
        )
    tokenizer = loaded.feeder.processor.tokenizer
    if loaded.feeder.text_policy.attention_mask and tokenizer.pad_token_id in (
        tokenizer.eos_token_id,
        tokenizer.sep_token_id,
        tokenizer.unk_token_id,
    ):
        raise CheckpointError(
            f"{loaded.source}: the text tower needs an attention mask, and its tokenizer pads with "
            f"{tokenizer.pad_token!r}, which captions also contain, so an exported encoder cannot tell padding from text: "
            "train with a tokenizer that has a padding token of its own"
        )


def _probe(loaded: LoadedModel) -> Mapping[str, Tensor]:
    """Make the inputs of the vision tower for one image."""
    inputs: Mapping[str, Tensor] = loaded.feeder.image_inputs([Image.new("RGB", (48, 40))])
    return inputs


def example_pixels(loaded: LoadedModel, batch: int) -> Tensor:
    """Make noise, float32 [batch, 3, h, w] of the size that the processor gives; it is the same every time."""
    size = _probe(loaded)[loaded.backend.vision.graph_input].shape[1:]
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(batch))


def example_tokens(loaded: LoadedModel, batch: int, length: int | None = None) -> Tensor:
    """Make token ids, int64 [batch, length]; the end-of-text token is at a different position in each row.

    Args:
        loaded: the model, whose vocabulary is used.
        batch: the number of rows.
        length: the length; None means the full length, which models that pad to it always use.
    """
    tokenizer, policy = loaded.feeder.processor.tokenizer, loaded.feeder.text_policy
    length = policy.max_length if length is None or policy.padding == "max_length" else length
    # For BERT, texts end with the separator token.
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    padding = tokenizer.pad_token_id
    # Ids from the middle, since special tokens have the highest ids in CLIP and the lowest in SigLIP.
    special = set(tokenizer.all_special_ids)
    vocabulary = getattr(loaded.model.config, loaded.backend.text.config).vocab_size
    ordinary = torch.tensor([i for i in range(vocabulary) if i not in special])
    chosen = torch.randint(len(ordinary), (batch, length), generator=torch.Generator().manual_seed(batch * length))
    ids = ordinary[chosen]
    for row in range(batch):
        last = length - 1 - row * (length - 1) // batch
        ids[row, last] = end
        ids[row, last + 1 :] = end if padding is None else padding
    return ids
