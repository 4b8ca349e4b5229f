"""A run directory has one writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OPTIONS = ["-m", "clip-tiny", "-d", "shapes", "--epochs", "2", "--workers", "0", "--report-to", "none"]


def started(run, *options, environment=None, launcher=()):
    command = [sys.executable, "-m", *(launcher or ()), *(["icclip"] if not launcher else ["-m", "icclip"])]
    return subprocess.Popen(
        [*command, "train", *OPTIONS, "-o", str(run), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.05)


@pytest.fixture
def running(tmp_path):
    """A run that has claimed its directory and begun to write."""
    process = started(tmp_path / "run")
    wait_for(tmp_path / "run" / "icclip.json", process)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--resume",), ("--overwrite",)])
def test_a_second_launch_is_refused_in_one_line_and_touches_nothing(tmp_path, running, options):
    run = tmp_path / "run"
    before = (run / "icclip.json").read_bytes()
    second = started(run, *options)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"{run} is being written by process {running.pid}" in err or f"{run} already holds a run" in err
    assert "Traceback" not in err
    assert running.poll() is None
    assert (run / "icclip.json").read_bytes() == before


@pytest.mark.slow
def test_a_killed_run_s_claim_is_taken_over_and_said(tmp_path, running):
    running.send_signal(signal.SIGKILL)
    running.wait(60)
    after = started(tmp_path / "run", "--resume", "--max-steps", "2")
    _, err = after.communicate(timeout=300)
    assert after.returncode in (0, 3), err
    assert f"process {running.pid} on " in err
    assert not (tmp_path / "run" / ".claim").exists()
    assert json.loads((tmp_path / "run" / "icclip.json").read_text())["status"] == "complete"


@pytest.mark.slow
@pytest.mark.distributed
def test_processes_whose_launcher_was_killed_end_themselves(tmp_path):
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher = started(tmp_path / "run", launcher=torchrun)
    wait_for(tmp_path / "run" / "icclip.json", launcher)
    children = subprocess.run(
        ["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 2
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    end = time.monotonic() + 60
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < end, "they go on"
        time.sleep(0.2)
    launcher.communicate()
    assert not (tmp_path / "run" / ".claim").exists()


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
