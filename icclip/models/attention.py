"""Choose the implementation of attention that a model uses."""

from __future__ import annotations

import contextlib
from typing import Any

from icclip.models.quiet import quiet_transformers


def set_attention(model: Any, wanted: str) -> None:
    """Set it for a whole model; a tower without it, such as a convolutional network, stays as it is.

    Args:
        model: a transformers PreTrainedModel, which may contain others.
        wanted: the implementation, such as `sdpa` or `eager`.
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
