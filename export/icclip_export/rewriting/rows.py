"""Which row of [b, s, ...] a tower reads after its last layer, and the selection of that row anywhere else.

    FixedRow     the class token (0), or the last token (-1)
    RowOfText    the end-of-text token, at another place in every text

A row keeps its axis, which then has the size 1, so that everything that works on rows works on one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icclip_export.rewriting.graphs import LARGEST_INDEX, Builder, constant, integer, made_by, only_user, rank

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FixedRow:
    """The same row of every item of a batch."""

    index: int

    def of(self, builder: Builder, value: ir.Value) -> ir.Value:
        """[b, s, d] -> [b, 1, d]."""
        return self._slice(builder, value, axis=1)

    def of_mask(self, builder: Builder, mask: ir.Value) -> ir.Value:
        """[.., .., s or 1, s] -> [.., .., 1, s]."""
        return self._slice(builder, mask, axis=2)

    def _slice(self, builder: Builder, value: ir.Value, axis: int) -> ir.Value:
        end = self.index + 1 or int(LARGEST_INDEX)
        return builder("Slice", value, *map(builder.integers, (self.index, end, axis)))


@dataclass(frozen=True)
class RowOfText:
    """Another row for each item of a batch."""

    index: ir.Value
    """int64 [b]"""

    def of(self, builder: Builder, value: ir.Value) -> ir.Value:
        """[b, s, d] -> [b, 1, d]."""
        index = builder("Unsqueeze", self.index, builder.integers(1, 2))
        return builder("GatherND", value, index, batch_dims=1)

    def of_mask(self, builder: Builder, mask: ir.Value) -> ir.Value:
        """A mask that broadcasts to [b, 1, s, s] -> [b, 1, 1, s]."""
        one = builder.integers(1)
        batch = builder("Concat", builder("Shape", self.index), one, one, one, axis=0)
        whole = builder("Squeeze", builder("Expand", mask, batch), one)
        return builder("Unsqueeze", self.of(builder, whole), one)


@dataclass(frozen=True)
class Pooling:
    """Where a tower goes on with a single row."""

    value: ir.Value
    """[b, s, d]"""
    row: FixedRow | RowOfText
    pooled: ir.Value
    """[b, d]"""
    nodes: tuple[ir.Node, ...]
    """The nodes that read `value` to select the row."""


def poolings(graph: ir.Graph) -> Iterator[Pooling]:
    """Every selection of a single row."""
    for node in graph:
        if node.domain == "" and node.op_type in ("Gather", "GatherND"):
            found = (_fixed if node.op_type == "Gather" else _nested)(node) or _flat(node)
            if found is not None:
                yield found


def _fixed(node: ir.Node) -> Pooling | None:
    """`value[:, index]`."""
    value, index = node.inputs[0], constant(node.inputs[1])
    if value is None or rank(value) != 3 or index is None or index.shape or integer(node, "axis", 0) != 1:  # noqa: PLR2004  b, s, d
        return None
    return Pooling(value, FixedRow(int(index)), node.outputs[0], (node,))


def _nested(node: ir.Node) -> Pooling | None:
    """`value[arange(b), index]` by torch's newer exporter: indices of two axes side by side."""
    value, pairs = node.inputs[0], made_by(node.inputs[1], "Concat")
    if value is None or rank(value) != 3 or pairs is None or len(pairs.inputs) != 2 or integer(node, "batch_dims", 0):  # noqa: PLR2004  b, s, d; a pair
        return None
    counted, index = (_squeezed(one) for one in pairs.inputs)
    if made_by(counted, "Range") is None or index is None or rank(index) != 1:
        return None
    return Pooling(value, RowOfText(index), node.outputs[0], (node,))


def _squeezed(value: ir.Value | None) -> ir.Value | None:
    """What was given a last axis."""
    node = made_by(value, "Unsqueeze")
    axes = constant(node.inputs[1]) if node else None
    if node is None or axes is None or axes.tolist() not in ([-1], [1]):
        return None
    return node.inputs[0]


def _flat(node: ir.Node) -> Pooling | None:
    """`value[arange(b), index]` by torch's older exporter: a row of [b * s, d], at index + arange(b) * s."""
    flat, place = made_by(node.inputs[0], "Flatten"), made_by(node.inputs[1], "Add")
    if flat is None or place is None or integer(flat, "axis", 1) != 2 or integer(node, "axis", 0) != 0:  # noqa: PLR2004  after b and s
        return None
    value = flat.inputs[0]
    index = next((one for one, other in (place.inputs, place.inputs[::-1]) if _counted(other)), None)
    if value is None or rank(value) != 3 or index is None or only_user(flat.outputs[0], "Gather") is None:  # noqa: PLR2004  b, s, d
        return None
    pooled = node.outputs[0]
    # The exporter gives the result the shape that it already has.
    while reshape := only_user(pooled, "Reshape"):
        pooled = reshape.outputs[0]
    return Pooling(value, RowOfText(index), pooled, (flat,))


def _counted(value: ir.Value | None) -> bool:
    """Whether a value is arange(b) times a number."""
    node = made_by(value, "Mul")
    return node is not None and any(made_by(one, "Range") for one in node.inputs)
