"""Find the fewest nodes of a ranking that must stay in float32 for a graph to pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_EVALUATIONS = 24
"""The maximum number of trials; each builds and runs a graph, up to half a minute for a large tower."""


@dataclass(frozen=True, slots=True)
class Measure:
    """The result of a score for a graph."""

    passed: bool
    error: float
    """The distance from the checkpoint; smaller is better."""
    detail: str = ""


Score = Callable[[Path], Measure]
Build = Callable[[Sequence[str]], Path]
"""A function that builds the graph with the given nodes left in float32."""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a search."""

    kept: tuple[str, ...]
    """The nodes left in float32, the most sensitive first."""
    measure: Measure
    evaluations: int


@dataclass
class _Trials:
    """Builds, scores and counts graphs; the last one that it built is on the disk."""

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
        """Make sure that the graph on the disk is the one with these nodes."""
        self.built = kept
        return self.build(kept)


def fewest_kept(ranked: Sequence[str], build: Build, score: Score, *, limit: int = MAX_EVALUATIONS) -> Found:
    """Search how many of the most sensitive nodes must stay in float32, then which of these need not.

    Doubling, then bisection over the prefixes of the ranking, then one pass that gives nodes back one by
    one. Deterministic. When it returns, the graph that `build` wrote last is the one found.

    Args:
        ranked: the names of the nodes, the most sensitive first.
        build: writes the graph.
        score: judges the graph.
        limit: the number of trials after which no more nodes are given back.

    Returns:
        The first set found that passes; if not even keeping all nodes passes, all of them, with a measure that did
        not pass.
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
    """The shortest prefix of the ranking that passes; all nodes if none does."""

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
    """Give back nodes that were kept only because they came before the node that mattered."""
    # The last one of the shortest prefix is known to matter.
    for name in reversed(kept[:-1]):
        if trials.count >= limit:
            break
        fewer = tuple(other for other in kept if other != name)
        if trials(fewer).passed:
            kept = fewer
    return kept
