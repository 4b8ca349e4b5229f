"""A float32 graph in another precision, with the nodes that cannot bear it left in float32.

Which nodes these are is measured, not listed by hand: every candidate is ranked by what the
precision does to it on real inputs, and the fewest of that ranking with which a given score passes
are left out (`icclip_export.precisions.search`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icclip.bundles.manifest import TowerIO
from icclip_export.onnx.export import check_graph
from icclip_export.precisions.search import Found, Score, fewest_kept
from icclip_export.precisions.value import Recipe

if TYPE_CHECKING:
    import numpy as np


def convert(recipe: Recipe, source: Path, target: Path, *, io: TowerIO, inputs: np.ndarray, score: Score) -> Found:
    """Write `source` in another precision to `target`; its inputs and outputs stay float32.

    Args:
        recipe: the precision's.
        source: a float32 graph.
        target: where the result goes.
        io: the graph's names.
        inputs: [b, ...], real ones: what is measured on noise says little.
        score: judges a candidate graph; the search ends where it passes.

    Returns:
        The nodes left in float32. Where even all candidates left in float32 do not pass, `measure` says so.
    """
    ranked = sorted(recipe.sensitivities(source, io, inputs), key=lambda s: (-s.strain, s.node))
    always = [s.node for s in ranked if s.strain > recipe.unbearable]
    build = partial(_built, recipe.build, source, target, always)
    found = fewest_kept([s.node for s in ranked[len(always) :]], build, score)
    return Found((*always, *found.kept), found.measure, found.evaluations)


def _built(
    build: Callable[[Path, Path, Sequence[str]], None],
    source: Path,
    target: Path,
    always: Sequence[str],
    kept: Sequence[str],
) -> Path:
    build(source, target, [*always, *kept])
    check_graph(target)
    return target
