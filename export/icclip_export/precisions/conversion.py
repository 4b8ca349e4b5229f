"""Convert a float32 graph to another precision; nodes that would lose too much stay in float32.

Which nodes these are is measured, not listed by hand: every candidate is ranked by how much
the precision changes it on real inputs, and the fewest of that ranking with which a given score passes are left
out (`icclip_export.precisions.search`).
"""

from __future__ import annotations

import tempfile
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
        recipe: the recipe of the precision.
        source: a float32 graph.
        target: the path of the result.
        io: the names of the graph's input and output.
        inputs: real inputs, [b, ...], because measurements on noise say little.
        score: judges a candidate graph; the search ends when it passes.

    Returns:
        The nodes left in float32. If even all candidates left in float32 do not pass, `measure` tells.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        if recipe.calibrated is not None:
            recipe = recipe.calibrated(source, io, inputs, Path(folder))
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
