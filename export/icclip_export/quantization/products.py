"""What int8 does to products with a weight: which nodes these are, and the error on real values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icclip_export.onnx.graphs import initializers, save_graph
from icclip_export.quantization.rounding import add_half, drop_unread_weights

FEWEST_COLUMNS = 32
"""A product with a narrower weight stays in float32: rounding what it reads takes longer than it saves."""


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
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def store_halves(source: Path, target: Path, names: Collection[str]) -> None:
    """Write `source` with the weights of some products in fp16; they are computed in float32.

    Runtimes restore the weights when they open the graph, so that this costs no time later.
    """
    import onnx

    model = onnx.load(str(source), load_external_data=True)
    graph, weights = model.graph, dict(initializers(model.graph, np.float32))
    for node in [node for node in quantizable(graph, weights) if node.name in names]:
        weight, node.input[1] = weights[node.input[1]], f"{node.name}_weight"
        add_half(graph, node.input[1], weight)
    drop_unread_weights(graph)
    save_graph(model, target)


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
    return _relative(rounded @ _seven_bits(weight) - exact, exact)


def _seven_bits(weight: np.ndarray) -> np.ndarray:
    """Quantize symmetrically to -64..64, because products of 8 bits saturate on CPUs without VNNI."""
    step = np.abs(weight).max(axis=0, keepdims=True) / 64
    step = np.where(step == 0, np.float32(1), step)
    return np.asarray(np.round(weight / step) * step, np.float32)


def _relative(error: np.ndarray, exact: np.ndarray) -> float:
    length = float(np.linalg.norm(exact))
    return float(np.linalg.norm(error)) / length if length else 0.0
