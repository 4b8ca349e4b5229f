from __future__ import annotations

import tomllib

import pytest

from icclip.config.toml import toml


@pytest.mark.parametrize(
    "value",
    ["", 'a "quoted" \\ path', "two\nlines\tand \x00\x1f\x7f", "ünï 🎨", True, False, 0, -3, 1e-5, 1e22, 0.1, [], ["a", "b"], [1, 2]],
)  # fmt: skip
def test_a_value_is_read_back(value):
    written = {"key": value, "table": {"inner": value, "deeper": {"a b": value}}}
    assert tomllib.loads(toml(written)) == written


def test_tables_stand_after_values_and_nothing_is_a_comment():
    assert toml({"t": {"x": 1, "u": {}}, "a": None, "b": 2}) == "# a = (not set)\nb = 2\n\n[t]\nx = 1\n\n[t.u]\n"
