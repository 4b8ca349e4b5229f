"""The code keeps its shape: short functions with few parameters, imports that point down, no circles."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def house(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "benchmarks.house", raising=False)
    from benchmarks import house

    return house


def test_functions_are_short_and_take_few_parameters(house):
    found = house.measure(ROOT)
    assert found["functions"] > 1000
    assert found["median_lines"] <= 7
    assert found["p90_lines"] <= 19
    assert found["longest_lines"] <= 67
    assert found["functions_with_more_than_12_parameters"] == []


def test_no_import_points_up_and_there_are_no_circles(house):
    found = house.measure(ROOT)
    assert (found["upward_imports"], found["circles_of_rooms"], found["circles_of_files"]) == ([], [], [])


def test_lines_and_parameters_are_counted(house):
    tree = ast.parse(
        "@one\n@two\ndef f(a, /, b, *, c):\n    def g():\n        pass\n    return g\nclass A:\n    def m(self, d): ...\n"
    )
    found = {one.name: (one.lines, one.parameters) for one in house.functions_of("m", tree)}
    assert found == {"m.f": (4, 3), "m.g": (2, 0), "m.m": (1, 1)}


def test_what_points_up_and_what_goes_round_is_found(house):
    texts = {
        "icclip.ground": "def late():\n    from icclip.jobs.one import work",
        "icclip.jobs.one": "import icclip.means\nfrom icclip.jobs import two",
        "icclip.jobs.two": "from icclip.jobs import one",
        "icclip.jobs": "",
        "icclip.means": "if TYPE_CHECKING:\n    from icclip.jobs import one",
        "icclip": "from icclip import ground",
    }
    edges = house.imports({name: ast.parse(text) for name, text in texts.items()})
    assert house.upward(edges, [{"jobs"}, {"means"}, {"ground"}]) == ["icclip.ground -> icclip.jobs.one"]
    assert house.circles(edges) == [["icclip.jobs.one", "icclip.jobs.two"]]
    assert house.circles(house.between_rooms({**edges, "icclip.means": {"icclip.ground"}})) == [
        ["ground", "jobs", "means"]
    ]
