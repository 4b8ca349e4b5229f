"""What int8 does to products with a weight: which nodes these are, and the error on real values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from icclip_export.onnx.graphs import initializers, whole_attribute
from icclip_export.quantization.rounding import add_half, relative_error, restored

FEWEST_COLUMNS = 32
"""A product with a narrower weight stays in float32: rounding what it reads takes longer than it saves."""
SEVEN_BITS = 64
"""The largest weight that meets integers, because sums of two products of 8 bits saturate on CPUs without VNNI."""


def quantizable(graph: Any, weights: Mapping[str, np.ndarray]) -> list[Any]:
    """The products with a weight that are worth it."""
    narrow = set(narrow_products(graph))
    return [
        node
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights and node.name not in narrow
    ]


def narrow_products(graph: Any) -> Iterator[str]:
    """The products whose weights have too few columns, by their names."""
    widths = {weight.name: weight.dims[-1] for weight in graph.initializer if weight.dims}
    for node in graph.node:
        if node.op_type == "MatMul" and widths.get(node.input[1], FEWEST_COLUMNS) < FEWEST_COLUMNS:
            yield node.name


def columns(node: Any, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """A product's weight as [in, out]."""
    weight = weights[node.input[1]]
    return weight.T if is_transposed(node) else weight


def is_transposed(node: Any) -> bool:
    """Whether a Gemm reads its weight as [out, in]."""
    return bool(whole_attribute(node, "transB"))


def store_halves(graph: Any, names: Collection[str]) -> None:
    """Have the weights of some products in fp16; they are computed in float32.

    Runtimes restore the weights when they open the graph, so that this costs no time later.
    """
    weights = dict(initializers(graph, np.float32))
    for node in [node for node in quantizable(graph, weights) if node.name in names]:
        weight, node.input[1] = weights[node.input[1]], f"{node.name}_weight"
        add_half(graph, node.input[1], weight)


def product_error(activations: np.ndarray, weight: np.ndarray, span: tuple[float, float] | None = None) -> float:
    """|x W - q(x) q(W)| / |x W|: x [..., in] as uint8 with one scale, W [in, out] as 7 bits with one per column.

    Args:
        activations: x.
        weight: W.
        span: the lowest and the highest value of what x is a part of; None means those of x.
    """
    exact = activations @ weight
    low, high = span or (min(0.0, float(activations.min())), max(0.0, float(activations.max())))
    step = (high - low) / 255 or 1.0
    rounded = np.round(activations / step) * step
    return relative_error(rounded @ restored(weight.T, SEVEN_BITS).T, exact)
