"""Which nodes to leave in float32: the fewest, of a ranking, with which a graph passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_EVALUATIONS = 24
"""Each builds and runs a graph, which takes up to half a minute for a large tower."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What a score says of a graph."""

    passed: bool
    error: float
    """How far it is from the checkpoint; smaller is better."""
    detail: str = ""


Score = Callable[[Path], Measure]
Build = Callable[[Sequence[str]], Path]
"""Names of the nodes to leave in float32 -> the graph."""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a search."""

    kept: tuple[str, ...]
    """Nodes left in float32, the most sensitive first."""
    measure: Measure
    evaluations: int


@dataclass
class _Trials:
    """Builds, scores and counts; the last graph that it built is the one on the disk."""

    build: Build
    score: Score
    count: int = 0
    built: tuple[str, ...] | None = None
    results: dict[tuple[str, ...], Measure] = field(default_factory=dict)

    def __call__(self, kept: Sequence[str]) -> Measure:
        key = tuple(kept)
        if key not in self.results:
            self.count += 1
            self.results[key] = self.score(self.put(key))
        return self.results[key]

    def put(self, kept: tuple[str, ...]) -> Path:
        """Make the graph on the disk the one with these nodes."""
        self.built = kept
        return self.build(kept)


def fewest_kept(ranked: Sequence[str], build: Build, score: Score, *, limit: int = MAX_EVALUATIONS) -> Found:
    """Search how many of the most sensitive nodes must stay in float32, then which of these need not.

    Doubling, then bisection over the prefixes of the ranking, then one pass that gives nodes back one by
    one. Deterministic. When it returns, the graph that `build` wrote last is the one found.

    Args:
        ranked: names of nodes, the most sensitive first.
        build: writes the graph.
        score: judges it.
        limit: evaluations after which no node is given back any more.

    Returns:
        The first set found that passes; where not even keeping all of them does, all of them, with a
        measure that did not pass.
    """
    trials = _Trials(build, score)
    kept = _shortest_prefix(ranked, trials)
    if trials(kept).passed:
        kept = _without_the_needless(kept, trials, limit)
    measure = trials(kept)
    if trials.built != kept:
        trials.put(kept)
    return Found(kept, measure, trials.count)


def _shortest_prefix(ranked: Sequence[str], trials: _Trials) -> tuple[str, ...]:
    """All of them where none passes."""

    def prefix(length: int) -> tuple[str, ...]:
        return tuple(ranked[:length])

    failing, length = -1, 0
    while not trials(prefix(length)).passed:
        if length >= len(ranked):
            return prefix(length)
        failing, length = length, min(max(1, 2 * length), len(ranked))
    while length - failing > 1:
        middle = (failing + length) // 2
        if trials(prefix(middle)).passed:
            length = middle
        else:
            failing = middle
    return prefix(length)


def _without_the_needless(kept: tuple[str, ...], trials: _Trials, limit: int) -> tuple[str, ...]:
    """Give back what was kept only for standing before the node that mattered."""
    # The last one of the shortest prefix is known to matter.
    for name in reversed(kept[:-1]):
        if trials.count >= limit:
            break
        fewer = tuple(other for other in kept if other != name)
        if trials(fewer).passed:
            kept = fewer
    return kept
