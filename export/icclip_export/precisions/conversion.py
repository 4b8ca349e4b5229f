"""Convert a float32 graph to another precision; nodes that would lose too much stay in float32.

Which nodes these are is measured, not listed by hand: every candidate is ranked by how much
the precision changes it on real inputs, and the fewest of that ranking with which a given score passes are left
out (`icclip_export.precisions.search`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icclip.bundles.manifest import TowerIO
from icclip_export.onnx.export import check_graph
from icclip_export.precisions.search import Found, Measures, Score, fewest_kept
from icclip_export.precisions.value import Recipe

if TYPE_CHECKING:
    import numpy as np


class Conversion:
    """One graph on its way to a precision, which may be searched more than once: what was measured is remembered.

    Args:
        recipe: the recipe of the precision.
        source: a float32 graph.
        target: the path of the result.
        io: the names of the graph's input and output.
        inputs: real inputs, [b, ...], because measurements on noise say little.
        score: measures a candidate graph.
        folder: for files of the recipe; it has to outlive the conversion.
    """

    def __init__(
        self, recipe: Recipe, source: Path, target: Path, *, io: TowerIO, inputs: np.ndarray, score: Score, folder: Path
    ) -> None:
        recipe = recipe.for_graph(source, io, inputs, folder)
        ranked = sorted(recipe.sensitivities(source, io, inputs), key=lambda s: (-s.strain, s.node))
        self._always = tuple(s.node for s in ranked if s.strain > recipe.unbearable)
        self._ranked = [s.node for s in ranked[len(self._always) :]]
        self._build = partial(_built, recipe.build, source, target, self._always)
        self._score = score
        self._known: Measures = {}

    @property
    def tried(self) -> int:
        """The number of graphs that all searches have built and measured."""
        return len(self._known)

    def search(self, bar: float) -> Found:
        """Write the graph that leaves the fewest nodes in float32 and whose error is at most `bar`.

        Its inputs and outputs stay float32. If even all candidates left in float32 do not pass, what is returned says so.
        """
        found = fewest_kept(self._ranked, self._build, self._score, bar=bar, known=self._known)
        return dataclasses.replace(found, kept=(*self._always, *found.kept))


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
