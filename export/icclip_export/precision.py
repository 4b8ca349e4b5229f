"""A float32 graph -> fp16 or int8, with the nodes that cannot bear it left in float32.

Which nodes these are is measured, not listed by hand: every candidate is ranked by what the
precision does to it on real inputs, and the fewest of that ranking with which a given score passes
are left out (`icclip_export.search`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TowerIO
from icclip_export.activations import captured, largest_values
from icclip_export.graphs import external_data, initializers, save_graph
from icclip_export.onnx import check_graph, quiet_export
from icclip_export.search import Found, Score, fewest_kept

FP16_LARGEST = 65504.0
FP16_HEADROOM = 4.0
"""Other inputs than the measured ones may reach so many times further."""
INT8_INPUTS = 8
"""Inputs that int8's strain is measured on: what every product of a base-size tower reads is 50 MB for each."""
QUANTIZED = ("MatMul", "Gather")
"""Products with weights, and embedding tables. The patch convolution is slower as int8 than as float32."""


@dataclass(frozen=True)
class Sensitivity:
    """How a precision strains one node; the larger, the earlier it is left in float32."""

    node: str
    strain: float


def convert(precision: str, source: Path, target: Path, *, io: TowerIO, inputs: np.ndarray, score: Score) -> Found:
    """Write `source` in another precision to `target`; its inputs and outputs stay float32.

    Args:
        precision: `fp16` or `int8`.
        source: a float32 graph.
        target: where the result goes.
        io: the graph's names.
        inputs: [b, ...], real ones: what is measured on noise says little.
        score: judges a candidate graph; the search ends where it passes.

    Returns:
        The nodes left in float32. Where even all candidates left in float32 do not pass, `measure` says so.
    """
    recipe = RECIPES[precision]
    ranked = sorted(recipe.sensitivities(source, io, inputs), key=lambda s: (-s.strain, s.node))
    always = [s.node for s in ranked if s.strain > recipe.unbearable]
    build = partial(_built, recipe.build, source, target, always)
    found = fewest_kept([s.node for s in ranked[len(always) :]], build, score)
    return Found((*always, *found.kept), found.measure, found.evaluations)


def _built(
    build: Callable[[Path, Path, Sequence[str]], None],
    source: Path,
    target: Path,
    always: Sequence[str],
    kept: Sequence[str],
) -> Path:
    build(source, target, [*always, *kept])
    check_graph(target)
    return target


# fp16 ---------------------------------------------------------------------------------------------


def fp16_sensitivities(source: Path, io: TowerIO, inputs: np.ndarray) -> list[Sensitivity]:
    """The largest |value| that each node reads or writes.

    A value beyond FP16_LARGEST is infinite in fp16. The score alone would not tell: onnxruntime's CPU
    provider computes most of fp16 in float32 and drops the casts between, so that overflow shows only
    on a GPU.
    """
    import onnx

    graph = onnx.load(str(source), load_external_data=True).graph
    values = largest_values(source, io, inputs)
    values |= {name: float(np.abs(array).max(initial=0)) for name, array in initializers(graph, np.float32)}
    return [Sensitivity(node.name, _reach(node, values)) for node in graph.node if _floats(node, values)]


def _floats(node: Any, values: Mapping[str, float]) -> bool:
    return any(name in values for name in node.output)


def _reach(node: Any, values: Mapping[str, float]) -> float:
    largest = max(values.get(name, 0.0) for name in (*node.input, *node.output))
    # The variance inside is a mean of squares: TensorRT and some GPUs compute it in the input's type.
    return largest**2 if node.op_type == "LayerNormalization" else largest


def build_fp16(source: Path, target: Path, kept: Sequence[str]) -> None:
    """Weights and activations to fp16, but for the nodes in `kept`."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        # Weights too small for fp16 become its smallest number, and masks its largest.
        warnings.filterwarnings("ignore", message="the float32 number", category=UserWarning)
        model = convert_float_to_float16(str(source), keep_io_types=True, node_block_list=list(kept))
    _join_float32_nodes(model.graph)
    ordered = ONNXModel(model)
    ordered.topological_sort()
    save_graph(ordered.model, target)


def _join_float32_nodes(graph: Any) -> None:
    """Between two nodes left in float32 the converter passes the value through fp16, where it would overflow."""
    import onnx

    casts = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and _cast_type(node) == onnx.TensorProto.FLOAT16
    }
    for node in graph.node:
        if node.op_type == "Cast" and _cast_type(node) == onnx.TensorProto.FLOAT and node.input[0] in casts:
            node.input[0] = casts[node.input[0]]
    _drop_unread(graph, casts)


def _cast_type(node: Any) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")


def _drop_unread(graph: Any, outputs: Iterable[str]) -> None:
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    unread = set(outputs) - read
    for node in [node for node in graph.node if unread & set(node.output)]:
        graph.node.remove(node)


# int8 ---------------------------------------------------------------------------------------------


def int8_sensitivities(source: Path, io: TowerIO, inputs: np.ndarray) -> list[Sensitivity]:
    """The relative error of each quantizable node's output when it alone is quantized."""
    import onnx

    graph = onnx.load(str(source), load_external_data=True).graph
    weights = dict(initializers(graph, np.float32))
    tables = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in weights]
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights]
    activations = captured(source, io, inputs[:INT8_INPUTS], {node.input[0] for node in products})
    return [
        *(Sensitivity(node.name, table_error(weights[node.input[0]])) for node in tables),
        *(
            Sensitivity(node.name, product_error(activations[node.input[0]], _columns(node, weights)))
            for node in products
        ),
    ]


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
    """The same of an embedding table [rows, dim], which has one scale."""
    return _relative(_seven_bits(table, axis=None) - table, table)


def _seven_bits(weight: np.ndarray, axis: int | None) -> np.ndarray:
    """Symmetric, -64..64: products of 8 bits saturate on CPUs without VNNI."""
    step = np.abs(weight).max(axis=axis, keepdims=True) / 64
    step = np.where(step == 0, np.float32(1), step)
    return np.asarray(np.round(weight / step) * step, np.float32)


def _relative(error: np.ndarray, exact: np.ndarray) -> float:
    length = float(np.linalg.norm(exact))
    return float(np.linalg.norm(error)) / length if length else 0.0


def build_int8(source: Path, target: Path, kept: Sequence[str]) -> None:
    """Dynamic quantization, but for the nodes in `kept`: 7-bit weights in int8, a scale for every output channel.

    The reduced range is what makes it right on CPUs without VNNI, where sums of two products of 8 bits
    saturate; with VNNI it costs nothing.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

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
            nodes_to_exclude=[*kept, *(f"{name}_MatMul" for name in kept)],
            use_external_data_format=bool(external_data(source)),
        )
        save_graph(onnx.load(str(quantized)), target)


@dataclass(frozen=True)
class Recipe:
    """How a precision is made."""

    sensitivities: Callable[[Path, TowerIO, np.ndarray], list[Sensitivity]]
    build: Callable[[Path, Path, Sequence[str]], None]
    unbearable: float = float("inf")
    """Strain beyond which a node stays in float32 whatever the score says."""


RECIPES: Mapping[str, Recipe] = {
    "fp16": Recipe(fp16_sensitivities, build_fp16, FP16_LARGEST / FP16_HEADROOM),
    "int8": Recipe(int8_sensitivities, build_int8),
}
