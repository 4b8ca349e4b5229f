"""float16 for weights and activations, except in nodes whose values would overflow."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TowerIO
from icclip.bundles.parity_record import Thresholds
from icclip_export.onnx.activations import SENTINEL, largest_values
from icclip_export.onnx.graphs import initializers, save_graph, whole_attribute
from icclip_export.precisions.value import Precision, Recipe, Sensitivity

LARGEST = 65504.0
HEADROOM = 4.0
"""Allow for other inputs with values this many times larger than the measured ones."""


def sensitivities(source: Path, io: TowerIO, inputs: np.ndarray) -> list[Sensitivity]:
    """The largest |value| that each node reads or writes.

    A value beyond LARGEST is infinite in fp16. The score alone would not show it, because onnxruntime's CPU
    provider computes most of fp16 in float32 and drops the casts in between, so that overflow only occurs on a GPU.
    """
    import onnx

    graph = onnx.load(str(source), load_external_data=True).graph
    values = largest_values(source, io, inputs)
    values |= {name: _largest(array) for name, array in initializers(graph, np.float32)}
    return [Sensitivity(node.name, _reach(node, values)) for node in graph.node if _floats(node, values)]


def _largest(weight: np.ndarray) -> float:
    absolute = np.abs(weight)
    return float(absolute.max(initial=0, where=absolute < SENTINEL))


def _floats(node: Any, values: Mapping[str, float]) -> bool:
    return any(name in values for name in node.output)


def _reach(node: Any, values: Mapping[str, float]) -> float:
    largest = max(values.get(name, 0.0) for name in (*node.input, *node.output))
    # The variance inside is a mean of squares: TensorRT and some GPUs compute it in the input's type.
    return largest**2 if node.op_type == "LayerNormalization" else largest


def build(source: Path, target: Path, kept: Sequence[str]) -> None:
    """Convert weights and activations to fp16, except for the nodes in `kept`."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        # Weights too small for fp16 become its smallest number, and masks its largest.
        warnings.filterwarnings("ignore", message="the float32 number", category=UserWarning)
        model = convert_float_to_float16(str(source), keep_io_types=True, node_block_list=list(kept))
    _forget_types_of_weights(model.graph)
    _join_float32_nodes(model.graph)
    ordered = ONNXModel(model)
    ordered.topological_sort()
    save_graph(ordered.model, target)


def _forget_types_of_weights(graph: Any) -> None:
    """Remove what a graph says of its weights' types, which the converter changes even where a weight stays in float32."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [info for info in graph.value_info if info.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _join_float32_nodes(graph: Any) -> None:
    """Join adjacent float32 nodes, between which the converter passes values through fp16, where they would overflow."""
    import onnx

    casts = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and whole_attribute(node, "to") == onnx.TensorProto.FLOAT16
    }
    for node in graph.node:
        if node.op_type == "Cast" and whole_attribute(node, "to") == onnx.TensorProto.FLOAT and node.input[0] in casts:
            node.input[0] = casts[node.input[0]]
    _drop_unread(graph, casts)


def _drop_unread(graph: Any, outputs: Iterable[str]) -> None:
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    unread = set(outputs) - read
    for node in [node for node in graph.node if unread & set(node.output)]:
        graph.node.remove(node)


PRECISION = Precision(
    name="fp16",
    suffix="_fp16",
    bytes_per_weight=2,
    # 11 bits of mantissa through a dozen layers: 1 - 1e-6 measured where nothing overflows. A
    # LayerNorm or softmax that leaves fp16's range is orders of magnitude worse.
    limits=Thresholds(
        min_cosine=0.9999,
        mean_cosine=0.99999,
        centred_min_cosine=0.999,
        embedding_abs=1e-3,
        similarity_abs=3e-3,
        drop_r1=0.003,
        drop_r5=0.002,
        drop_r10=0.002,
        top10_overlap=0.97,
    ),
    recipe=Recipe(sensitivities, build, unbearable=LARGEST / HEADROOM),
)
