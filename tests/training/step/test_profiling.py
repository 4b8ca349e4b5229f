from __future__ import annotations

import dataclasses
import json

import pytest

from icclip.console import Reporter
from icclip.errors import ConfigError
from icclip.training.run import train
from icclip.training.step.profiling import TRACE


@pytest.fixture
def traced(config, registry, capsys):
    """Train eight steps, some of which are traced -> the trace, and what was said."""

    def run(steps):
        train(dataclasses.replace(config, profile=steps), registry, Reporter())
        trace = json.loads((config.output_dir / TRACE).read_text())
        return trace, " ".join(capsys.readouterr().err.split())

    return run


def products(trace):
    return sum(event.get("name") == "aten::addmm" for event in trace["traceEvents"])


def test_a_trace_holds_the_operations_of_the_steps_that_were_asked_for(traced):
    one, said = traced(1)
    assert products(one) > 0
    assert "a trace of 1 step; https://ui.perfetto.dev opens it" in said


def test_a_run_that_ends_before_leaves_what_it_has(traced):
    trace, said = traced(50)
    assert products(trace) > 0
    assert "a trace of 7 steps" in said


def test_no_steps_are_no_trace(config):
    values = config.to_mapping() | {"profile": 0}
    with pytest.raises(ConfigError, match="profile is 0: it must be at least 1"):
        type(config).from_mapping(values)
