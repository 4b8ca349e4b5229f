"""With --json, every command prints one JSON document to stdout and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import towers

from icclip.reference import commands, options_of

SHAPES = ("--dataset", "shapes")
CPU = ("--device", "cpu")
PLAIN = {
    "config show": ("--model", "clip-tiny", *SHAPES),
    "config check": ("run.toml",),
    "data inspect": ("shapes",),
    "plugins list": (),
    "plugins check": ("r-precision",),
    "cache list": (),
    "cache clear": ("--yes",),
    "doctor": (),
}
"""Command -> arguments that let it print a result, of the commands that need no model."""
OF_A_RUN = {
    "eval": ("run", *CPU),
    "blend": ("run", "--with", "other", "--output-dir", "blended", *CPU, *SHAPES),
    "embed": ("run", *SHAPES, "--output", "found.npy", *CPU),
    "export": ("run", "--output-dir", "bundle", *CPU),
    "verify": ("bundle",),
    "assemble": ("--vision", "vision", "--text", "text", "--output-dir", "assembled"),
}
"""The same of the commands that need a run; `verify` reads what `export` wrote."""
ELSEWHERE = {
    "train": "commands/test_json.py", "quickstart": "test_quickstart.py", "push": "publishing/test_push.py",
    "compare": "comparing/test_compare.py", "report": "presenting/test_report.py", "plot": "presenting/test_plot.py",
    "search": "searching/test_index.py",
    **{name: "searching/test_index.py" for name in commands() if name.startswith("index ")},
    **{name: "amazon/test_commands.py" for name in commands() if name.startswith("sagemaker ")},
}  # fmt: skip
"""Command -> the file below tests/ that runs it with --json."""


NO_RESULT = {"serve"}
"""Commands that run until they are stopped."""


def test_no_command_is_forgotten():
    assert set(commands()) - NO_RESULT == PLAIN.keys() | OF_A_RUN.keys() | ELSEWHERE.keys()
    tests = Path(__file__).parents[1]
    assert all('"--json"' in (tests / file).read_text() for file in ELSEWHERE.values())


@pytest.mark.parametrize("name", sorted(set(commands()) - NO_RESULT))
def test_every_command_offers_json(name):
    assert "--json" in {flag for row in options_of(name) for flag in row.flags}


@pytest.mark.parametrize("name", PLAIN)
def test_what_looks_at_something_prints_json_alone(icclip, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("run.toml").write_text('[model]\nname = "clip-tiny"\n[data]\nname = "shapes"\n')
    check(icclip(*name.split(), *PLAIN[name], "--json"))


@pytest.mark.slow
def test_what_works_on_a_model_prints_json_alone(icclip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, run in enumerate(("run", "other")):
        small = ("--max-steps", 2, "--train-bs", 8, "--guard", "off", "--report-to", "none", "--seed", seed)
        check(icclip("train", "-m", "clip-tiny", *SHAPES, "--output-dir", run, *small, *CPU, "--json"))
    towers.write_tower(Path("vision"), towers.vit())
    towers.write_tower(Path("text"), towers.bert())
    for name, arguments in OF_A_RUN.items():
        check(icclip(name, *arguments, "--json"))


def check(outcome):
    assert outcome.code == 0, outcome.err
    assert isinstance(json.loads(outcome.out), dict)
    assert outcome.out.count("\n") == 1
