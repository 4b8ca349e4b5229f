"""Attention as one operator of onnxruntime's own, for the graphs that only onnxruntime reads (those in int8).

`com.microsoft.MultiHeadAttention` takes queries, keys and values [b, s, heads * d] as the projections give them, so that
nothing is transposed in memory; onnxruntime has it on CPUs, on CUDA and in the browser.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxscript.rewriter import RewriteRule, RewriteRuleSet
from onnxscript.rewriter.pattern import MatchResult

from icclip_export.rewriting.attention import HEADS_FIRST, HEADS_FIRST_TRANSPOSED
from icclip_export.rewriting.graphs import MICROSOFT, constant, load_graph, write_graph

if TYPE_CHECKING:
    import onnx_ir as ir

_CUT = 4
"""[b, s, heads, d], the shape that queries, keys and values are given."""


def fuse_attention(source: Path, target: Path) -> int:
    """Write `source` to `target` with every attention of `attention.written` as one operator; returns how many there were."""
    model = load_graph(source)
    count = RULES.apply_to_model(model)
    if count:
        model.graph.opset_imports[MICROSOFT] = 1
        write_graph(model, target)
    return count


def _attention(op: Any, q: Any, k: Any, v: Any, *, cut: Any, join: Any, mask: Any = None) -> Any:
    q, v = (op.Transpose(op.Reshape(one, cut), perm=HEADS_FIRST) for one in (q, v))
    scores = op.MatMul(q, op.Transpose(op.Reshape(k, cut), perm=HEADS_FIRST_TRANSPOSED))
    if mask is not None:
        scores = op.Add(scores, mask)
    values = op.MatMul(op.Softmax(scores, axis=-1), v)
    return op.Reshape(op.Transpose(values, perm=HEADS_FIRST), join)


# The parameters of a pattern are its values, by name.
def _plain(op: Any, q: Any, k: Any, v: Any, cut: Any, join: Any) -> Any:  # noqa: PLR0917
    return _attention(op, q, k, v, cut=cut, join=join)


def _masked(op: Any, q: Any, k: Any, v: Any, cut: Any, join: Any, mask: Any) -> Any:  # noqa: PLR0917
    return _attention(op, q, k, v, cut=cut, join=join, mask=mask)


def _fused(op: Any, *, q: Any, k: Any, v: Any, cut: Any, mask: Any = None, **_others: Any) -> Any:
    shape = constant(cut)
    assert shape is not None, "the pattern was checked"
    added = [] if mask is None else [None, None, mask]
    return op.MultiHeadAttention(q, k, v, *added, num_heads=int(shape[2]), scale=1.0, _domain=MICROSOFT)


def _cut_is_known(_context: Any, cut: ir.Value, **_: Any) -> MatchResult:
    shape = constant(cut)
    result = MatchResult()
    return result if shape is not None and len(shape) == _CUT and shape[2] > 0 else result.fail("unknown heads")


RULES = RewriteRuleSet(
    [RewriteRule(_plain, _fused, _cut_is_known), RewriteRule(_masked, _fused, _cut_is_known)], commute=False
)
