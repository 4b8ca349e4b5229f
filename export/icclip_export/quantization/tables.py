"""Embedding tables with 8-bit weights and a step for each row: rows of words that are rare in training are much smaller than others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icclip_export.onnx.graphs import initializers, save_graph
from icclip_export.quantization.rounding import drop_unread_weights, quantized


def tables(graph: Any, weights: Mapping[str, np.ndarray]) -> list[Any]:
    """The nodes that look rows [dim] up in a weight [rows, dim]."""
    return [
        node
        for node in graph.node
        if node.op_type == "Gather" and weights.get(node.input[0], np.empty(0)).ndim == 2 and not _axis(node)  # noqa: PLR2004
    ]


def quantize_tables(source: Path, target: Path, kept: Sequence[str]) -> None:
    """Write `source` with its embedding tables in 8 bits, except for those of the nodes in `kept`."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source), load_external_data=True)
    graph, weights = model.graph, dict(initializers(model.graph, np.float32))
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
    drop_unread_weights(graph)
    save_graph(model, target)


def _axis(node: Any) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0)
