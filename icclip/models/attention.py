"""Which implementation of attention a model computes with."""

from __future__ import annotations

import contextlib
from typing import Any

from icclip.models.quiet import quiet_transformers


def set_attention(model: Any, wanted: str) -> None:
    """Set it for a whole model; a tower that does not have it, such as a convolutional network, keeps what it has.

    Args:
        model: a transformers PreTrainedModel, which may consist of others.
        wanted: `sdpa`, `eager`.
    """
    from transformers import PreTrainedModel

    with quiet_transformers():
        try:
            model.set_attn_implementation(wanted)
        except ValueError:
            for part in model.children():
                if isinstance(part, PreTrainedModel):
                    with contextlib.suppress(ValueError):
                        part.set_attn_implementation(wanted)
