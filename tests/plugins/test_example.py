"""The example plugin, as a stranger uses it: pip installs it, and the command line finds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "icclip-dataset-flags"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A command in a process that finds the installed example and nothing else of third parties."""
    site = tmp_path_factory.mktemp("example") / "site"
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(site), str(EXAMPLE)]
    subprocess.run(command, check=True, timeout=300)
    environment = {
        **os.environ,
        "ICCLIP_LOAD_PLUGINS": "flags",
        "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)]),
    }

    def run(*arguments, cwd=None):
        command = [sys.executable, "-m", *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=cwd, check=False, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_it_is_listed(run):
    rows = json.loads(run("icclip", "plugins", "list", "--json"))["plugins"]
    (row,) = [row for row in rows if row["name"] == "flags"]
    assert (row["kind"], row["origin"], row["status"]) == ("dataset", "icclip-dataset-flags", "ok")


def test_it_conforms(run):
    checks = json.loads(run("icclip", "plugins", "check", "flags", "--json"))["checks"]
    assert {check["status"] for check in checks} == {"ok"}
    assert "imports nothing heavy" in [check["what"] for check in checks]


def test_its_own_tests_pass(run, tmp_path):
    run("pytest", "-q", "-p", "no:cacheprovider", EXAMPLE / "test_flags.py", cwd=tmp_path)


@pytest.mark.slow
def test_it_trains_and_evaluates(run, tmp_path):
    directory = tmp_path / "run"
    run(
        "icclip", "train", "--model", "clip-tiny", "--dataset", "flags", "--output-dir", directory,
        "--max-steps", 1, "--guard", "off", "--device", "cpu",
    )  # fmt: skip
    metrics = json.loads(run("icclip", "eval", directory, "--json", "--device", "cpu"))
    assert metrics["n_images"] == 30
    assert 0 <= metrics["t2i_R@1"] <= 1
