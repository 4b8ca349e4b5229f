"""Real processes and real signals. `benchmarks/kill_test.py` does the same more often, and writes a table."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_test.py"


@pytest.fixture(scope="module")
def kill_test():
    spec = importlib.util.spec_from_file_location("kill_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_killed_runs_end_as_the_whole_one(kill_test, tmp_path):
    rows = kill_test.kill_test(tmp_path, 3, random.Random(1))
    assert len(rows) == 3
    assert all(row["identical"] and not row["lost"] for row in rows), rows


@pytest.fixture
def heard():
    """What a shell starts in the background ignores Ctrl-C, and so does what that starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_is_two_lines_and_exit_code_130(kill_test, tmp_path, number):
    run = tmp_path / "run"
    command = [*kill_test.training_command(tmp_path), "--output-dir", str(run)]
    process = subprocess.Popen(
        command, env=kill_test.environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    kill_test.wait_for(process, lambda: kill_test.last_step(run) >= 8)
    # As a terminal does it: the loaders' processes hear it too.
    os.killpg(process.pid, number)
    out, said = (stream.decode() for stream in process.communicate(timeout=100))
    assert process.returncode == 130, said
    assert "Traceback" not in said
    interrupted, error = said.splitlines()[-2:]
    assert interrupted.startswith("interrupted at step ")
    assert interrupted.endswith("to continue, run the same command with --resume")
    assert error == "error: interrupted; what was saved before is intact"
    assert out == ""
    assert kill_test.lost(run) == []
