"""What transformers' feature methods return, across its versions."""

from __future__ import annotations

from typing import Any


def pooled(output: Any) -> Any:
    """The tensor [batch, dim] in what `get_image_features` or `get_text_features` returned.

    transformers 4 returns the tensor itself, transformers 5 an output object around it.
    """
    return getattr(output, "pooler_output", output)
