"""int8, the dynamic quantization of matrix products and embedding tables, with weights of 7 bits; attention is one operator."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TowerIO
from icclip.bundles.parity_record import Thresholds
from icclip_export.onnx.activations import captured
from icclip_export.onnx.export import quiet_export
from icclip_export.onnx.graphs import external_data, initializers, save_graph
from icclip_export.precisions.value import Precision, Recipe, Sensitivity

MEASURED_INPUTS = 8
"""Number of inputs that sensitivity is measured on; the products of a base-size tower read 50 MB for each."""
QUANTIZED = ("MatMul", "Gather")
"""The operators that are quantized: products with weights, and embedding tables. A patch convolution is slower in int8."""

FEWEST_COLUMNS = 32
"""A product with a narrower weight stays in float32: rounding what it reads takes longer than it saves."""


def sensitivities(source: Path, io: TowerIO, inputs: np.ndarray) -> list[Sensitivity]:
    """The relative error of each quantizable node's output when it alone is quantized."""
    import onnx

    graph = onnx.load(str(source), load_external_data=True).graph
    weights = dict(initializers(graph, np.float32))
    tables = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in weights]
    narrow = set(_narrow_products(graph))
    products = [
        node
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights and node.name not in narrow
    ]
    activations = captured(source, io, inputs[:MEASURED_INPUTS], {node.input[0] for node in products})
    return [
        *(Sensitivity(node.name, table_error(weights[node.input[0]])) for node in tables),
        *(
            Sensitivity(node.name, product_error(activations[node.input[0]], _columns(node, weights)))
            for node in products
        ),
    ]


def _narrow_products(graph: Any) -> Iterator[str]:
    """The products whose weights have too few columns, by their names."""
    columns = {weight.name: weight.dims[-1] for weight in graph.initializer if weight.dims}
    for node in graph.node:
        if node.op_type == "MatMul" and columns.get(node.input[1], FEWEST_COLUMNS) < FEWEST_COLUMNS:
            yield node.name


def _columns(node: Any, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """A product's weight as [in, out]."""
    weight = weights[node.input[1]]
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight.T if transposed else weight


def product_error(activations: np.ndarray, weight: np.ndarray) -> float:
    """|x W - q(x) q(W)| / |x W|: x [..., in] as uint8 with one scale, W [in, out] as 7 bits with one per column."""
    exact = activations @ weight
    low, high = min(0.0, float(activations.min())), max(0.0, float(activations.max()))
    step = (high - low) / 255 or 1.0
    rounded = np.round(activations / step) * step
    return _relative(rounded @ _seven_bits(weight, axis=0) - exact, exact)


def table_error(table: np.ndarray) -> float:
    """The relative error of an embedding table [rows, dim], which has one scale."""
    return _relative(_seven_bits(table, axis=None) - table, table)


def _seven_bits(weight: np.ndarray, axis: int | None) -> np.ndarray:
    """Quantize symmetrically to -64..64, because products of 8 bits saturate on CPUs without VNNI."""
    step = np.abs(weight).max(axis=axis, keepdims=True) / 64
    step = np.where(step == 0, np.float32(1), step)
    return np.asarray(np.round(weight / step) * step, np.float32)


def _relative(error: np.ndarray, exact: np.ndarray) -> float:
    length = float(np.linalg.norm(exact))
    return float(np.linalg.norm(error)) / length if length else 0.0


def build(source: Path, target: Path, kept: Sequence[str]) -> None:
    """Quantize dynamically, except for the nodes in `kept`, with 7-bit weights in int8 and a scale for every output channel.

    The reduced range makes it correct on CPUs without VNNI, where sums of two products of 8 bits saturate; with
    VNNI it costs nothing.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from icclip_export.rewriting.contrib import fuse_attention

    excluded = [*kept, *_narrow_products(onnx.load(str(source), load_external_data=False).graph)]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, quiet_export():
        quantized = Path(folder) / target.name
        quantize_dynamic(
            source,
            quantized,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # The quantizer turns a Gemm into a MatMul of this name.
            nodes_to_exclude=[*excluded, *(f"{name}_MatMul" for name in excluded)],
            use_external_data_format=bool(external_data(source)),
        )
        save_graph(onnx.load(str(quantized)), target)
    # Only onnxruntime (on CPUs, CUDA and in browsers) and OpenVINO read these graphs, and both have the operator.
    fuse_attention(target, target)


PRECISION = Precision(
    name="int8",
    suffix="_int8",
    bytes_per_weight=1,
    # What an 8-bit weight costs is a choice of the user's, so retrieval itself is the measure: one
    # point of R@1 is what a fine-tuning seed moves. Saturating kernels fall to .95 and below. Single
    # components wander, so that they are not held to anything. What tells 8 bits from 4 is the mean of
    # the centred cosines: noise on all inputs alike moves it, and neither one bad input nor a common
    # part does. On ten small trained models of both families int8 measured 1 - 6e-4 at worst, weights of
    # 4 bits 1 - 4.7e-3 at best.
    limits=Thresholds(
        min_cosine=0.995,
        mean_cosine=0.998,
        centred_min_cosine=0.95,
        centred_mean_cosine=0.998,
        similarity_abs=5e-2,
        drop_r1=0.01,
        drop_r5=0.005,
        drop_r10=0.005,
        top10_overlap=0.90,
    ),
    recipe=Recipe(sensitivities, build),
    # Below this, it is worth leaving single nodes unquantized.
    doubtful_below=0.98,
)
