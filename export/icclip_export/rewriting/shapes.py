"""Sizes, read where the batch comes in instead of after the last layer.

The older of torch's exporters asks values deep inside a tower for their sizes, which says nothing new: a
normalisation or a residual connection has the shape of its input, and keys have as many rows as there are tokens.
Asked of the first value of that size, the question is the same for all layers, and no value is computed
only to be measured.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from onnxscript import optimizer

from icclip_export.rewriting.graphs import Builder, constant, integer, integers, made_by, rank, replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

_SAME_SHAPE = frozenset({"LayerNormalization", "Softmax", "Sigmoid", "Tanh", "Erf", "Gelu", "Identity"})
Order = dict["ir.Value", int]
"""Values in the order in which they are computed."""


def fold_known_sizes(model: ir.Model) -> None:
    """Replace what is computed from sizes that are fixed, such as the scale of attention, by its value."""
    builder = Builder(model.graph)
    for node in list(model.graph):
        shape = made_by(node.inputs[0], "Shape") if node.op_type == "Slice" and node.domain == "" else None
        sizes = _fixed_sizes(node, shape.inputs[0]) if shape is not None else None
        if sizes is not None:
            replace(node.outputs[0], builder.weight(sizes, "sizes"))
    # It warns of every constant that it leaves alone.
    logger = logging.getLogger("onnxscript.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        optimizer.fold_constants(model, onnx_shape_inference=False)
    finally:
        logger.setLevel(level)


def _fixed_sizes(node: ir.Node, value: ir.Value | None) -> np.ndarray | None:
    """The sizes that are cut out of a shape, int64 [n], if they are all fixed."""
    start, end = (constant(one) for one in node.inputs[1:3])
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1, np.int64)  # noqa: PLR2004  data, start, end, axes, steps
    if value is None or value.shape is None or start is None or end is None or steps is None or steps.item() != 1:
        return None
    sizes = list(value.shape)[start.item() : end.item()]
    return np.array(sizes, np.int64) if all(isinstance(one, int) for one in sizes) else None


def measure_early(graph: ir.Graph) -> None:
    """Let everything that reads one size of a value read it from the earliest value that has it."""
    order = {value: number for number, node in enumerate(graph) for value in node.outputs}
    builder = Builder(graph)
    for node in list(graph):
        index = constant(node.inputs[1]) if node.op_type == "Gather" and integer(node, "axis", 0) == 0 else None
        shape = made_by(node.inputs[0], "Shape") if index is not None else None
        value = shape.inputs[0] if shape is not None and not shape.attributes else None
        if index is None or value is None or index.size != 1 or rank(value) is None:
            continue
        origin, axis = _earliest(value, int(index.item()) % (rank(value) or 1), order)
        if origin is not value:
            found = builder(
                "Gather", builder("Shape", origin), builder.weight(np.full_like(index, axis), f"axis_{axis}"), axis=0
            )
            replace(node.outputs[0], found)


def _earliest(value: ir.Value, axis: int, order: Order) -> tuple[ir.Value, int]:
    while found := list(_same_size(value, axis)):
        value, axis = min(found, key=lambda pair: order.get(pair[0], -1))
    return value, axis


def _same_size(value: ir.Value, axis: int) -> Iterator[tuple[ir.Value, int]]:
    """Inputs of the node behind a value, each with an axis that has the same size."""
    node = value.producer()
    first = node.inputs[0] if node is not None and node.domain == "" and node.inputs else None
    if node is None or first is None:
        return
    if node.op_type in _SAME_SHAPE:
        yield first, axis
    elif node.op_type == "Transpose":
        yield first, integers(node, "perm")[axis]
    elif node.op_type in {"Add", "Mul", "Div"}:
        # A value could be broadcast, unless its size is known to be that of the result.
        yield from ((one, axis) for one in node.inputs if one is not None and _equal(value, axis, one))
    elif (node.op_type == "MatMul" and _keeps_rows(value, first, axis)) or (
        node.op_type == "Reshape" and _cut_into_heads(value, first, axis)
    ):
        yield first, axis


def _equal(value: ir.Value, axis: int, other: ir.Value) -> bool:
    """Whether the sizes of an axis are known to be equal: the same number, or the same unknown."""
    if value.shape is None or other.shape is None or len(value.shape) != len(other.shape):
        return False
    return _same(value.shape[axis], other.shape[axis])


def _same(first: int | ir.SymbolicDim, second: int | ir.SymbolicDim) -> bool:
    return first == second and (isinstance(first, int) or first.value is not None)


def _keeps_rows(value: ir.Value, first: ir.Value, axis: int) -> bool:
    return value.shape is not None and rank(first) == len(value.shape) and axis < len(value.shape) - 1


def _cut_into_heads(value: ir.Value, first: ir.Value, axis: int) -> bool:
    """Whether a reshape goes from [b, s, heads * d] to [b, s, heads, d], and the axis is one of the first two."""
    if value.shape is None or first.shape is None or (len(first.shape), len(value.shape)) != (3, 4) or axis > 1:
        return False
    if _same(value.shape[axis], first.shape[axis]):
        return True
    (batch, _, whole), (same_batch, _, heads, width) = first.shape, value.shape
    whole_heads = (
        isinstance(whole, int) and isinstance(heads, int) and isinstance(width, int) and whole == heads * width
    )
    return whole_heads and _same(batch, same_batch)
