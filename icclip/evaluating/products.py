"""The products of embeddings on a GPU, for splits that are large enough to need one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from icclip.retrieval.counting import Multiply, multiply_here

if TYPE_CHECKING:
    import numpy as np

LARGE = 10**9
"""Similarities from which a GPU is worth the transfers."""


def fastest_multiply(similarities: int) -> Multiply:
    """The GPU's product where torch is loaded and has one, and numpy's otherwise.

    A process that runs a bundle without torch does not import it for this. A GPU that is set to round float32
    products (TF32) is not used, because the counts rely on their error.
    """
    torch = sys.modules.get("torch")
    if torch is None or similarities < LARGE or not torch.cuda.is_available():
        return multiply_here
    return multiply_on("cuda") if torch.get_float32_matmul_precision() == "highest" else multiply_here


def multiply_on(device: str) -> Multiply:
    """The product on a device of torch; a block of texts stays there while all images pass."""
    import torch

    def hold(texts: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        columns = torch.from_numpy(texts).to(device).T

        def multiply(images: np.ndarray) -> np.ndarray:
            product: np.ndarray = (torch.from_numpy(images).to(device) @ columns).cpu().numpy()
            return product

        return multiply

    return hold
