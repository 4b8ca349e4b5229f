"""The search for the nodes to keep, on made-up scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from icclip_export.precisions.search import Measure, fewest_kept

RANKED = [f"n{i}" for i in range(16)]


class Bench:
    """Graphs that pass where all of `needed` are kept."""

    def __init__(self, *needed):
        self.needed, self.built, self.scored = set(needed), [], 0

    def build(self, kept):
        self.built.append(tuple(kept))
        return Path("graph")

    def score(self, graph):
        self.scored += 1
        missing = self.needed - set(self.built[-1])
        return Measure(passed=not missing, error=len(missing))


@pytest.mark.parametrize("needed", [(), ("n0",), ("n3",), ("n15",), ("n1", "n9"), ("n0", "n1", "n2"), tuple(RANKED)])
def test_exactly_the_needed_nodes_are_kept(needed):
    bench = Bench(*needed)
    found = fewest_kept(RANKED, bench.build, bench.score, limit=100)
    assert found.kept == needed
    assert found.measure.passed
    assert bench.built[-1] == found.kept
    assert found.evaluations == bench.scored


def test_a_graph_that_passes_costs_one_evaluation():
    bench = Bench()
    assert fewest_kept(RANKED, bench.build, bench.score).evaluations == 1


def test_where_nothing_passes_everything_is_kept_and_said_to_fail():
    bench = Bench("not a node")
    found = fewest_kept(RANKED, bench.build, bench.score)
    assert found.kept == tuple(RANKED)
    assert not found.measure.passed
    assert found.evaluations == 6  # prefixes of 0, 1, 2, 4, 8 and 16


def test_the_limit_ends_the_giving_back_with_a_graph_that_passes():
    bench = Bench("n15")
    found = fewest_kept(RANKED, bench.build, bench.score, limit=12)
    assert found.measure.passed
    assert found.evaluations == 12
    assert bench.built[-1] == found.kept


def test_without_candidates_the_graph_is_what_it_is():
    bench = Bench("n0")
    found = fewest_kept([], bench.build, bench.score)
    assert (found.kept, found.measure.passed) == ((), False)
