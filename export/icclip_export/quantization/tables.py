"""Embedding tables with 8-bit weights and a step for each row: rows of words that are rare in training are much smaller than others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from icclip_export.onnx.graphs import initializers, whole_attribute
from icclip_export.quantization.rounding import quantized

TABLE = 2
"""The dimensions of an embedding table [rows, dim]."""


def tables(graph: Any, weights: Mapping[str, np.ndarray]) -> list[Any]:
    """The nodes that look rows up in a weight."""
    lookups = [node for node in graph.node if node.op_type == "Gather" and not whole_attribute(node, "axis")]
    return [node for node in lookups if weights.get(node.input[0], np.empty(0)).ndim == TABLE]


def quantize_tables(graph: Any, kept: Collection[str]) -> None:
    """Have the embedding tables of a graph in 8 bits, except for those of the nodes in `kept`."""
    import onnx
    from onnx import helper, numpy_helper

    weights = dict(initializers(graph, np.float32))
    for node in tables(graph, weights):
        if node.name in kept:
            continue
        own, (table, ids), (output,) = node.name, node.input, node.output
        values = zip(("8bits", "step"), quantized(weights[table]), strict=True)
        graph.initializer.extend(numpy_helper.from_array(value, f"{own}_{name}") for name, value in values)
        place = list(graph.node).index(node)
        graph.node.remove(node)
        # The row is looked up before it is scaled, so that no table in float32 is ever in memory.
        for made in (
            helper.make_node("Mul", [f"{own}_cast", f"{own}_steps"], [output], name=f"{own}_scaled"),
            helper.make_node("Gather", [f"{own}_step", ids], [f"{own}_steps"], name=f"{own}_steps"),
            helper.make_node("Cast", [f"{own}_row"], [f"{own}_cast"], name=f"{own}_cast", to=onnx.TensorProto.FLOAT),
            helper.make_node("Gather", [f"{own}_8bits", ids], [f"{own}_row"], name=own),
        ):
            graph.node.insert(place, made)
