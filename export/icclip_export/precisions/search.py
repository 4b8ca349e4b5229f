"""Find the fewest nodes of a ranking that must stay in float32 for a graph to pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

GIVING_BACK = 8
"""The number of trials for giving nodes back; each builds and runs a graph, up to half a minute for a large tower."""
GROUPS = 8
"""A long list of nodes is given back in so many groups first."""


@dataclass(frozen=True, slots=True)
class Measure:
    """The result of a score for a graph."""

    error: float
    """The distance from the checkpoint; smaller is better."""
    detail: str = ""


Score = Callable[[Path], Measure]
Build = Callable[[Sequence[str]], Path]
"""A function that builds the graph with the given nodes left in float32."""
Measures = dict[tuple[str, ...], Measure]
"""Nodes left in float32 -> the measure of the graph."""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a search."""

    kept: tuple[str, ...]
    """The nodes left in float32, the most sensitive first."""
    measure: Measure
    passed: bool
    evaluations: int


@dataclass
class _Trials:
    """Builds, scores and counts graphs; the last one that it built is on the disk."""

    build: Build
    score: Score
    bar: float
    known: Measures
    count: int = 0
    built: tuple[str, ...] | None = None

    def passes(self, kept: tuple[str, ...]) -> bool:
        # Never where it is not a number.
        return self.measure(kept).error <= self.bar

    def measure(self, kept: tuple[str, ...]) -> Measure:
        if kept not in self.known:
            self.count += 1
            self.known[kept] = self.score(self.put(kept))
        return self.known[kept]

    def put(self, kept: tuple[str, ...]) -> Path:
        """Make sure that the graph on the disk is the one with these nodes."""
        self.built = kept
        return self.build(kept)


def fewest_kept(
    ranked: Sequence[str],
    build: Build,
    score: Score,
    *,
    bar: float = 1.0,
    known: Measures | None = None,
    giving_back: int = GIVING_BACK,
) -> Found:
    """Search how many of the most sensitive nodes must stay in float32, then which of these need not.

    Doubling, then bisection over the prefixes of the ranking, then nodes are given back: in groups, and one by
    one. Deterministic. When it returns, the graph that `build` wrote last is the one found.

    Args:
        ranked: the names of the nodes, the most sensitive first.
        build: writes the graph.
        score: measures the graph.
        bar: the largest error that passes.
        known: what earlier searches of the same graph have measured; this one adds to it.
        giving_back: the number of trials for giving nodes back.

    Returns:
        The first set found that passes; if not even keeping all nodes passes, all of them.
    """
    trials = _Trials(build, score, bar, {} if known is None else known)
    kept = _shortest_prefix(ranked, trials)
    if trials.passes(kept):
        kept = _without_the_needless(kept, trials, trials.count + giving_back)
    if trials.built != kept:
        trials.put(kept)
    return Found(kept, trials.measure(kept), trials.passes(kept), trials.count)


def _shortest_prefix(ranked: Sequence[str], trials: _Trials) -> tuple[str, ...]:
    """The shortest prefix of the ranking that passes; all nodes if none does."""

    def prefix(length: int) -> tuple[str, ...]:
        return tuple(ranked[:length])

    failing, length = -1, 0
    while not trials.passes(prefix(length)):
        if length >= len(ranked):
            return prefix(length)
        failing, length = length, min(max(1, 2 * length), len(ranked))
    while length - failing > 1:
        middle = (failing + length) // 2
        if trials.passes(prefix(middle)):
            length = middle
        else:
            failing = middle
    return prefix(length)


def _without_the_needless(kept: tuple[str, ...], trials: _Trials, limit: int) -> tuple[str, ...]:
    """Give back nodes that were kept only because they came before the node that mattered."""
    # The last one of the shortest prefix is known to matter.
    needed, size = kept[-1:], max(1, len(kept) // GROUPS)
    while size:
        # The least sensitive ones first.
        for end in range(len(kept) - len(needed), 0, -size):
            if trials.count >= limit:
                return kept
            fewer = kept[: max(0, end - size)] + kept[end:]
            if trials.passes(fewer):
                kept = fewer
        size //= 2
    return kept
