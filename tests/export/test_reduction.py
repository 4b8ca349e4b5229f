"""A precision that fails the gate is made again where the failure comes from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from icclip.bundles.parity_record import PrecisionParity
from icclip.console import Reporter
from icclip_export.precisions import precision as find_precision
from icclip_export.precisions.search import Found, Measure
from icclip_export.reduction import FIRST_BAR, STRICTER, Reducer, to_blame

LIMITS = find_precision("int8").limits
ERRORS = {"vision": 0.4, "text": 0.1}


def result(*failed):
    checks = [{"name": name, "passed": False} for name in failed] + [{"name": "i2t.R@5", "passed": True}]
    return PrecisionParity(
        precision="int8", provider="cpu", passed=not failed, thresholds=LIMITS, metrics={}, measured={"checks": checks}
    )


@pytest.mark.parametrize(
    ("failed", "blamed"),
    [
        (["text.cosine"], ["text"]),
        (["probes.text.difference"], ["text"]),
        (["vision.cosine", "text.mean_cosine"], ["vision", "text"]),
        (["vision.neighbours", "t2i.R@1"], ["vision"]),
        (["t2i.R@1"], ["vision"]),
        (["similarity", "i2t.top10"], ["vision"]),
        (["runs"], ["vision"]),
    ],
)
def test_a_tower_is_to_blame_for_its_own_numbers_and_the_worse_one_for_what_both_give(failed, blamed):
    assert to_blame(result(*failed), ERRORS) == blamed


class Towers(Reducer):
    """Nothing is made; the distance from torch is a tenth of what is asked for."""

    def _conversion(self, tower, precision, limits, folder):
        def search(bar):
            first = bar == FIRST_BAR
            self.made.append((tower, bar))
            conversion.tried += 3
            return Found((tower,), Measure(error=ERRORS[tower] if first else bar / 10), passed=True, evaluations=3)

        conversion = SimpleNamespace(search=search, tried=0)
        return conversion


def reducer(tmp_path, reporter=None):
    towers = Towers(tmp_path / "bundle", dict.fromkeys(ERRORS), reporter or Reporter(silent=True))
    object.__setattr__(towers, "made", [])
    return towers


def test_only_the_tower_to_blame_is_made_again(tmp_path, capsys):
    towers, results = reducer(tmp_path, Reporter()), iter([result("text.cosine"), result("text.cosine"), result()])
    found = towers.reduce_until_passed("int8", LIMITS, lambda: next(results))
    assert towers.made == [
        ("vision", FIRST_BAR),
        ("text", FIRST_BAR),
        ("text", STRICTER * ERRORS["text"]),
        ("text", pytest.approx(STRICTER * STRICTER * ERRORS["text"] / 10)),
    ]
    assert found.passed
    assert found.attempts == 3
    assert {tower: search.tried for tower, search in found.search.items()} == {"vision": 3, "text": 9}
    said = capsys.readouterr().err
    assert said.count("int8 did not pass: searching the text tower again with stricter limits") == 2


def test_the_last_attempt_stands_even_if_it_fails(tmp_path):
    towers = reducer(tmp_path)
    found = towers.reduce_until_passed("int8", LIMITS, lambda: result("vision.cosine"), attempts=2)
    assert not found.passed
    assert [tower for tower, _ in towers.made] == ["vision", "text", "vision"]
    assert found.attempts == 2


def test_each_tower_has_its_own_attempts(tmp_path):
    """One that was to blame first does not use up those of the other."""
    towers = reducer(tmp_path)
    failures = iter(["vision.cosine", "text.cosine", "text.cosine", "vision.cosine", "vision.cosine"])
    found = towers.reduce_until_passed("int8", LIMITS, lambda: result(next(failures)), attempts=3)
    assert [tower for tower, _ in towers.made] == ["vision", "text", "vision", "text", "text", "vision"]
    assert not found.passed
    assert found.attempts == 5
