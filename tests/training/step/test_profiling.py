from __future__ import annotations

import json

import pytest

from icclip.console import Reporter
from icclip.training.run import train
from icclip.training.step.profiling import TRACE, Profile
from icclip.training.step.trainer import ContrastiveTrainer


@pytest.fixture
def traced(config, registry, monkeypatch, capsys):
    """Train eight steps, some of which are traced -> the trace, and what was said."""

    def run(steps):
        build = ContrastiveTrainer.__init__

        def with_profile(self, *args, **options):
            build(self, *args, **options)
            self.add_callback(Profile(config.output_dir, steps, Reporter()))

        monkeypatch.setattr(ContrastiveTrainer, "__init__", with_profile)
        train(config, registry, Reporter(silent=True))
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
