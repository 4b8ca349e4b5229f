"""The rewrites of a graph that every runtime reads, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from icclip_export.rewriting.graphs import drop_unread, open_graph, write_graph
from icclip_export.rewriting.pooled_row import compute_pooled_rows
from icclip_export.rewriting.pooling_head import fold_probes
from icclip_export.rewriting.scales import fold_scales
from icclip_export.rewriting.shapes import fold_known_sizes, measure_early

if TYPE_CHECKING:
    import onnx_ir as ir

REWRITES: Mapping[str, Callable[[ir.Graph], int]] = {
    "last layer for the pooled token": compute_pooled_rows,
    "attention with its scale in the weights": fold_scales,
    "pooling with its constant query in the weights": fold_probes,
}
"""What is done -> a function that does it wherever its pattern is found, and says how often that was."""


def rewrite(source: Path, target: Path) -> dict[str, int]:
    """Write `source` to `target` with every rewrite whose pattern it holds; returns how often each was made.

    Where no pattern is found, nothing is written.
    """
    model = open_graph(source)
    fold_known_sizes(model)
    measure_early(model.graph)
    drop_unread(model)
    made: dict[str, int] = {}
    for name, apply in REWRITES.items():
        made[name] = apply(model.graph)
        drop_unread(model)
    made = {name: count for name, count in made.items() if count}
    if made:
        write_graph(model, target)
    return made
