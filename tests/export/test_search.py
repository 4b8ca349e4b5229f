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
        return Measure(error=len(missing))


@pytest.mark.parametrize("needed", [(), ("n0",), ("n3",), ("n15",), ("n1", "n9"), ("n0", "n1", "n2"), tuple(RANKED)])
def test_exactly_the_needed_nodes_are_kept(needed):
    bench = Bench(*needed)
    found = fewest_kept(RANKED, bench.build, bench.score, bar=0, giving_back=100)
    assert found.kept == needed
    assert found.passed
    assert bench.built[-1] == found.kept
    assert found.evaluations == bench.scored


def test_a_graph_that_passes_costs_one_evaluation():
    bench = Bench()
    assert fewest_kept(RANKED, bench.build, bench.score, bar=0).evaluations == 1


def test_where_nothing_passes_everything_is_kept_and_said_to_fail():
    bench = Bench("not a node")
    found = fewest_kept(RANKED, bench.build, bench.score, bar=0)
    assert found.kept == tuple(RANKED)
    assert not found.passed
    assert found.evaluations == 6  # prefixes of 0, 1, 2, 4, 8 and 16


def test_the_limit_ends_the_giving_back_with_a_graph_that_passes():
    bench = Bench("n15")
    found = fewest_kept(RANKED, bench.build, bench.score, bar=0, giving_back=2)
    assert found.passed
    assert found.evaluations == 6 + 3 + 2  # doubling, bisection, giving back
    assert len(found.kept) < len(RANKED)
    assert bench.built[-1] == found.kept


def test_without_candidates_the_graph_is_what_it_is():
    bench = Bench("n0")
    found = fewest_kept([], bench.build, bench.score, bar=0)
    assert (found.kept, found.passed) == ((), False)


def test_a_long_list_is_given_back_in_groups():
    ranked = [f"n{i}" for i in range(128)]
    bench = Bench("n3", "n127")
    found = fewest_kept(ranked, bench.build, bench.score, bar=0)
    assert found.passed
    assert len(found.kept) <= 1 + 128 // 8  # one by one, eight trials would leave 120


def test_a_stricter_search_asks_nothing_twice():
    bench, known = Bench("n1", "n9"), {}
    first = fewest_kept(RANKED, bench.build, bench.score, bar=1, known=known)
    assert first.kept in {("n1",), ("n9",)}
    tried = set(known)
    second = fewest_kept(RANKED, bench.build, bench.score, bar=0, known=known, giving_back=100)
    assert second.kept == ("n1", "n9")
    assert second.evaluations == len(set(known) - tried) == bench.scored - first.evaluations
    assert bench.built[-1] == second.kept


def test_what_is_known_already_is_on_the_disk_all_the_same():
    bench, known = Bench("n1"), {}
    fewest_kept(RANKED, bench.build, bench.score, bar=0, known=known)
    again = fewest_kept(RANKED, bench.build, bench.score, bar=0, known=known)
    assert (again.kept, again.evaluations) == (("n1",), 0)
    assert bench.built[-1] == again.kept


def test_what_is_no_number_does_not_pass():
    found = fewest_kept([], lambda _: Path("graph"), lambda _: Measure(error=float("nan")))
    assert not found.passed
