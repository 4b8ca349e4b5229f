"""Small weights: 8-bit integers with a step of their own for each row, or fp16 where these are not precise enough."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from icclip_export.onnx.graphs import initializers, save_graph

EIGHT_BITS = 127


def quantized(weight: np.ndarray, largest: int = EIGHT_BITS) -> tuple[np.ndarray, np.ndarray]:
    """A weight [rows, ...] as integers from -largest to largest, int8 [rows, ...], and their steps, float32 [rows, 1, ...]."""
    peak = np.abs(weight).reshape(len(weight), -1).max(axis=1).reshape(-1, *[1] * (weight.ndim - 1))
    step = np.where(peak == 0, np.float32(1), peak / np.float32(largest)).astype(np.float32)
    return np.round(weight / step).astype(np.int8), step


def restored(weight: np.ndarray, largest: int = EIGHT_BITS) -> np.ndarray:
    """A weight as it is after rounding, float32."""
    whole, step = quantized(weight, largest)
    return np.asarray(whole * step, np.float32)


def rounding_error(weight: np.ndarray) -> float:
    """|q(W) - W| / |W|."""
    return relative_error(restored(weight), weight)


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    """|found - exact| / |exact|; 0 if there is nothing."""
    length = float(np.linalg.norm(exact))
    return float(np.linalg.norm(found - exact)) / length if length else 0.0


def add_restored(graph: Any, name: str, whole: np.ndarray, step: np.ndarray) -> None:
    """Give a graph the weight `whole` x `step` under a name; runtimes compute it once, when they open the graph.

    A DequantizeLinear would stay for every run: runtimes take it for a sign of integer arithmetic, and cannot arrange the weight
    for their kernels any more. An EfficientNet takes twice as long then.
    """
    import onnx
    from onnx import helper, numpy_helper

    small, steps, cast = (f"{name}_{part}" for part in ("8bits", "step", "cast"))
    for kind, value in ((small, whole), (steps, step)):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), kind))
    graph.node.insert(0, helper.make_node("Mul", [cast, steps], [name], name=name))
    graph.node.insert(0, helper.make_node("Cast", [small], [cast], name=cast, to=onnx.TensorProto.FLOAT))


def add_half(graph: Any, name: str, weight: np.ndarray) -> None:
    """Give a graph a weight under a name that is stored in fp16; runtimes make float32 of it when they open the graph.

    A weight beyond the numbers of fp16 is stored as it is.
    """
    import onnx
    from onnx import helper, numpy_helper

    if np.abs(weight).max(initial=0) > np.finfo(np.float16).max:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight), name))
        return
    half = f"{name}_fp16"
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight, np.float16), half))
    graph.node.insert(0, helper.make_node("Cast", [half], [name], name=name, to=onnx.TensorProto.FLOAT))


def weights_of(graph: Any) -> dict[str, np.ndarray]:
    """The float32 weights by the names under which nodes read them; exporters pass some on through an Identity."""
    weights = dict(initializers(graph, np.float32))
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    return weights


def changed(source: Path, target: Path, change: Callable[[Any], None]) -> Any:
    """Write `source` after `change(graph)`, without the weights that no node reads any more; returns the model."""
    import onnx

    model = onnx.load(str(source), load_external_data=True)
    change(model.graph)
    _drop_unread_weights(model.graph)
    save_graph(model, target)
    return model


def _drop_unread_weights(graph: Any) -> None:
    """Remove weights, and the Identity nodes that only pass one on."""
    weights = {tensor.name for tensor in graph.initializer}
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]:
        if node.output[0] not in read:
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
