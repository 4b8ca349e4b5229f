"""The last layer computed for one row: what a tower pools is selected before the layer instead of after it.

Everything behind the last attention treats each row by itself: the output projection, the residual
connections, the normalisations and the feed-forward part. Of the attention, only the queries do; keys and
values need all rows. So the selection of a row moves up through all of these until it meets a value
that is needed whole: the input of the last layer, and its normalisation, which the keys and values read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from icclip_export.rewriting.attention import Attention, attentions, written
from icclip_export.rewriting.graphs import Builder, constant, copy_of, integer, rank, replace
from icclip_export.rewriting.rows import FixedRow, Pooling, RowOfText, poolings

if TYPE_CHECKING:
    import onnx_ir as ir

_ELEMENTWISE = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Sigmoid",
        "Tanh",
        "Erf",
        "Relu",
        "Sqrt",
        "Neg",
        "Exp",
        "Gelu",
        "Softplus",
        "Identity",
    ]
)


def compute_pooled_rows(graph: ir.Graph) -> int:
    """Move selections of a row before the last layer; returns how many were moved."""
    builder = Builder(graph)
    return sum(_move(graph, builder, pooling) for pooling in list(poolings(graph)))


def _move(graph: ir.Graph, builder: Builder, pooling: Pooling) -> bool:
    layers = {attention.out: attention for attention in attentions(graph)}
    rows = _row_by_row(graph, pooling, layers)
    if not any(value in layers for value in rows):
        return False
    selected = _Selected(builder, pooling.row, rows, layers)
    replace(pooling.pooled, builder("Squeeze", selected(pooling.value), builder.integers(1)))
    return True


def _row_by_row(graph: ir.Graph, pooling: Pooling, layers: Mapping[ir.Value, Attention]) -> dict[ir.Value, ir.Node]:
    """Values of which nothing but the pooled row is needed, each with the node that computes it."""
    needed = set(pooling.nodes)
    found: dict[ir.Value, ir.Node] = {}
    crossed = False
    for node in reversed(list(graph)):
        value = node.outputs[0]
        users = {use.node for use in value.uses()}
        if not users or not users <= needed or value.is_graph_output():
            continue
        is_layer = value in layers
        if not is_layer and not _is_row_by_row(node):
            continue
        if is_layer and crossed:
            continue
        crossed = crossed or is_layer
        found[value] = node
        needed.add(node)
    return found


def _is_row_by_row(node: ir.Node) -> bool:
    if node.domain != "" or len(node.outputs) != 1 or rank(node.outputs[0]) != 3:  # noqa: PLR2004  b, s, d
        return False
    if node.op_type == "LayerNormalization":
        return integer(node, "axis", -1) in (-1, 2)
    if node.op_type == "MatMul":
        weight = constant(node.inputs[1])
        return weight is not None and weight.ndim == 2  # noqa: PLR2004  a matrix
    return node.op_type in _ELEMENTWISE


class _Selected:
    """The pooled row of a value, [b, 1, d]: computed from the rows of what it is made of, or selected."""

    def __init__(
        self,
        builder: Builder,
        row: FixedRow | RowOfText,
        rows: Mapping[ir.Value, ir.Node],
        layers: Mapping[ir.Value, Attention],
    ) -> None:
        self.builder, self.row, self.rows, self.layers = builder, row, rows, layers
        self.made: dict[ir.Value, ir.Value] = {}

    def __call__(self, value: ir.Value) -> ir.Value:
        """The row of `value`, [b, s, d]."""
        if value not in self.made:
            self.made[value] = self._make(value)
        return self.made[value]

    def _make(self, value: ir.Value) -> ir.Value:
        if value not in self.rows:
            return self.row.of(self.builder, value)
        if value in self.layers:
            layer = self.layers[value]
            mask = None if layer.mask is None else self.row.of_mask(self.builder, layer.mask)
            return written(self.builder, layer, source=self(layer.q.source), mask=mask)
        node = self.rows[value]
        inputs = {one: self(one) for one in node.inputs if one is not None and self._has_rows(one)}
        return copy_of(self.builder, node, inputs)

    @staticmethod
    def _has_rows(value: ir.Value) -> bool:
        """Weights, biases and numbers are the same for every row."""
        array = constant(value)
        return array is None or array.ndim > 2  # noqa: PLR2004  a matrix
