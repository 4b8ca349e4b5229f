"""Attention pooling by a learned query, as SigLIP's images are pooled, without keys and values of the single tokens.

The query of such a `torch.nn.MultiheadAttention` is the same for every image, so it is a constant q, and what is left
of the attention reads the tokens x themselves. For each head h,

    scores    q_h (x Wk_h + bk_h)^T  =  (x Wk_h q_h^T)^T + a number that the softmax does not see
    values    softmax(scores) (x Wv_h + bv_h)  =  (softmax(scores) x) Wv_h + bv_h

so that the keys and values of all tokens, two large products, become one product with a column for each head and
one with a row for each head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icclip_export.rewriting.graphs import (
    Builder,
    constant,
    integer,
    integers,
    made_by,
    only_user,
    replace,
    scalar,
    size,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_SWAP_FIRST = (1, 0, 2)
"""[b, s, d] <-> [s, b, d], and [s, b * heads, width] -> [b * heads, s, width]"""
_TO_KEYS = (1, 2, 0)
"""[s, b * heads, width] -> [b * heads, width, s]"""
_UNPACK = (3, 1, 2, 0, 4)
"""[1, s, b, 2, d] -> [2, s, b, 1, d]: keys and values, which come out of one product"""


@dataclass(frozen=True)
class PoolingHead:
    """The attention of one learned query to all tokens, with its output projection."""

    probe: np.ndarray
    """[d], what the query is projected from"""
    tokens: ir.Value
    """[b, s, d]"""
    weight: np.ndarray
    """[3 d, d]: the projections of queries, keys and values, each [out, in]"""
    bias: np.ndarray
    """[3 d]"""
    heads: int
    projection: np.ndarray
    """[d, d] of the output, [in, out]"""
    projection_bias: np.ndarray
    """[d]"""
    out: ir.Value
    """[b, 1, d]"""


def fold_probes(graph: ir.Graph) -> int:
    """Write every pooling by a learned query anew, with the query inside the weights; returns how many there were."""
    found = list(pooling_heads(graph))
    builder = Builder(graph)
    for head in found:
        replace(head.out, written(builder, head))
    return len(found)


# Looking ------------------------------------------------------------------------------------------


def pooling_heads(graph: ir.Graph) -> Iterator[PoolingHead]:
    """Every pooling by a learned query."""
    for node in graph:
        if node.domain == "" and node.op_type == "Softmax" and integer(node, "axis", -1) in (-1, 2):
            found = _pooling_head(node)
            if found is not None:
                yield found


def _pooling_head(softmax: ir.Node) -> PoolingHead | None:
    scores, product = made_by(softmax.inputs[0], "MatMul"), only_user(softmax.outputs[0], "MatMul")
    if scores is None or product is None or product.inputs[0] is not softmax.outputs[0]:
        return None
    query, output = _query(scores.inputs[0]), _output(product.outputs[0])
    keys = _chosen(_before(scores.inputs[1], _TO_KEYS, "Reshape"), 0)
    values = _chosen(_before(product.inputs[1], _SWAP_FIRST, "Reshape"), 1)
    if query is None or output is None or keys is None or keys is not values:
        return None
    both = _linear(_before(keys, "Squeeze", _UNPACK, "Unsqueeze", "Reshape"))
    tokens = None if both is None else _before(both.source, _SWAP_FIRST)
    if both is None or tokens is None:
        return None
    weight, bias = _whole(query.layer.weight, both.weight), _whole(query.layer.bias, both.bias)
    dim = len(query.probe)
    if weight is None or bias is None or weight.shape != (3 * dim, dim) or bias.shape != (3 * dim,):
        return None
    if dim % query.width or output.weight.shape != (dim, dim):
        return None
    heads = dim // query.width
    return PoolingHead(query.probe, tokens, weight, bias, heads, output.weight, output.bias, output.out)


@dataclass(frozen=True)
class _Linear:
    """source W^T + bias, of which W and bias are cut out of the weights of all three projections."""

    source: ir.Value
    weight: ir.Value
    bias: ir.Value


@dataclass(frozen=True)
class _Query:
    probe: np.ndarray
    layer: _Linear
    width: int
    """of a head"""


@dataclass(frozen=True)
class _Output:
    weight: np.ndarray
    bias: np.ndarray
    out: ir.Value


def _query(value: ir.Value | None) -> _Query | None:
    """A query that is the same for every image, [b * heads, 1, width], with its scale.

    torch scales the query by one over the root of a head's width. One of the exporters asks the graph as it runs for the
    width itself, so it is read from the scale.
    """
    scaling = made_by(value, "Mul")
    scale = scalar(scaling.inputs[1]) if scaling else None
    if scaling is None or scale is None or scale <= 0:
        return None
    cut = _before(scaling.inputs[0], _SWAP_FIRST)
    layer = _linear(_before(cut, "Reshape"))
    probe = None if layer is None else _repeated(_before(layer.source, _SWAP_FIRST))
    width = round(scale**-2)
    if cut is None or layer is None or probe is None or not np.isclose(width**-0.5, scale, rtol=1e-5):
        return None
    return _Query(probe, layer, width) if size(cut, -1) in (None, width) else None


def _repeated(value: ir.Value | None) -> np.ndarray | None:
    """The vector that a value repeats for each item of the batch: [b, 1, d] -> [d]."""
    while node := made_by(value, "Tile", "Expand"):
        value = node.inputs[0]
        array = constant(value)
        if array is not None:
            return array.reshape(-1) if array.shape[:-1] == (1, 1) else None
    return None


def _linear(value: ir.Value | None) -> _Linear | None:
    added = made_by(value, "Add")
    for plain, bias in (added.inputs, added.inputs[::-1]) if added else ():
        product = made_by(plain, "MatMul")
        weight = _before(product.inputs[1], (1, 0)) if product else None
        if product is not None and product.inputs[0] is not None and weight is not None and bias is not None:
            return _Linear(product.inputs[0], weight, bias)
    return None


def _whole(first: ir.Value, others: ir.Value) -> np.ndarray | None:
    """The constant of which the queries have the first part, and keys and values what follows it."""
    start, rest = made_by(first, "Split", "Slice"), made_by(others, "Split", "Slice")
    if start is None or rest is None or start.inputs[0] is not rest.inputs[0]:
        return None
    if start.op_type == "Split":
        follows = start is rest and start.outputs[0] is first and start.outputs[1] is others
    else:
        # Where a part ends is asked of the graph as it runs; what is asked is that the others start there.
        follows = scalar(start.inputs[1]) == 0 and start.inputs[2] is rest.inputs[1]
    return constant(start.inputs[0]) if follows else None


def _output(value: ir.Value) -> _Output | None:
    """The output projection, to which the heads go side by side: [b * heads, 1, width] -> [b, 1, d]."""
    joined = _after(value, _SWAP_FIRST, "Reshape")
    node = _reader(joined)
    if joined is None or node is None or node.op_type != "Gemm" or node.inputs[0] is not joined:
        return None
    out = _after(node.outputs[0], "Reshape", _SWAP_FIRST)
    weight = constant(node.inputs[1])
    if out is None or weight is None or not _is_linear(node):
        return None
    # The exporters leave out a bias of zeros.
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(len(weight), weight.dtype)  # noqa: PLR2004  x, W, bias
    return None if bias is None else _Output(weight.T, bias, out)


def _is_linear(gemm: ir.Node) -> bool:
    """Whether it computes x W^T + bias, and no multiple of either."""
    factors = [gemm.attributes[name].as_float() for name in ("alpha", "beta") if name in gemm.attributes]
    return integer(gemm, "transB", 0) == 1 and not integer(gemm, "transA", 0) and all(one == 1 for one in factors)


def _chosen(value: ir.Value | None, index: int) -> ir.Value | None:
    """What a value is the part with this number of: [2, s, b, d] -> [s, b, d]."""
    node = made_by(value, "Gather")
    if node is None or integer(node, "axis", 0) != 0 or scalar(node.inputs[1]) != index:
        return None
    return node.inputs[0]


def _before(value: ir.Value | None, *steps: str | tuple[int, ...]) -> ir.Value | None:
    """What a value was before operators, the last one first; a tuple is a transposition of these axes."""
    for step in steps:
        node = made_by(value, "Transpose" if isinstance(step, tuple) else step)
        if node is None or not _is(node, step):
            return None
        value = node.inputs[0]
    return value


def _after(value: ir.Value | None, *steps: str | tuple[int, ...]) -> ir.Value | None:
    """What becomes of a value by operators, the first one first, if nothing else reads what is between them."""
    for step in steps:
        node = _reader(value)
        if node is None or not _is(node, step):
            return None
        value = node.outputs[0]
    return value


def _is(node: ir.Node, step: str | tuple[int, ...]) -> bool:
    if isinstance(step, tuple):
        return node.op_type == "Transpose" and integers(node, "perm") == step
    return node.op_type == step


def _reader(value: ir.Value | None) -> ir.Node | None:
    """The only node of ONNX that reads more of a value than its sizes."""
    if value is None or value.is_graph_output():
        return None
    readers = [use.node for use in value.uses() if use.node.op_type != "Shape"]
    return readers[0] if len(readers) == 1 and readers[0].domain == "" else None


# Writing ------------------------------------------------------------------------------------------


def written(builder: Builder, head: PoolingHead) -> ir.Value:
    """Write a pooling head with the operators of ONNX: [b, 1, d]."""
    (query, keys, values), (query_bias, _, value_bias) = (
        np.split(array.astype(np.float64), 3) for array in (head.weight, head.bias)
    )
    dim, width = len(query), len(query) // head.heads

    def weight(array: np.ndarray, name: str) -> ir.Value:
        return builder.weight(array.astype(head.weight.dtype), f"pooling.{name}")

    q = (query @ head.probe + query_bias).reshape(head.heads, width) * width**-0.5
    columns = np.einsum("hw,hwd->dh", q, keys.reshape(head.heads, width, dim))
    scores = builder("MatMul", head.tokens, weight(columns, "scores"))
    pooled = builder("MatMul", builder("Softmax", builder("Transpose", scores, perm=(0, 2, 1)), axis=-1), head.tokens)
    # The values of all heads for the average that every head made, and of these each head's own: [b, heads, d] ->
    # [b, 1, d]. A product for each head alone would be smaller, but could not be quantized by column.
    own = np.repeat(np.eye(head.heads), width, axis=1)
    every = builder("Mul", builder("MatMul", pooled, weight(values.T, "values")), weight(own, "own"))
    joined = builder("ReduceSum", every, builder.integers(1), keepdims=1)
    # The weights of a softmax sum to 1, so the bias of the values goes straight on to the output projection.
    bias = value_bias @ head.projection + head.projection_bias
    product = builder("MatMul", joined, weight(head.projection, "projection"))
    return builder("Add", product, weight(bias, "bias"))
