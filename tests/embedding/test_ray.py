"""Shards on a local cluster of Ray: the same as without it, also when a worker or the driver is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.bundle_fixtures import bundles, tinies
from support.images import photo

pytest.importorskip("ray.data", reason="pip install 'ray[data]'")
pytestmark = [pytest.mark.slow, pytest.mark.ray]
__all__ = ["bundles", "tinies"]
REPOSITORY = Path(__file__).parents[2]
COUNT, SHARDS = 40, 8


def environment():
    paths = [str(REPOSITORY), str(REPOSITORY / "plugins"), str(REPOSITORY / "export"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        photo(30 + number % 7, 40, seed=number).save(folder / f"{number:02}.png")
    (folder / "bad.png").write_bytes(b"broken")
    return folder


def command(bundle, pictures, out, *more):
    words = ("embed", bundle, pictures, "-o", out, "--shards", SHARDS, "--on-bad-image", "skip", *more)
    return [sys.executable, "-m", "icclip", *map(str, words)]


ON_RAY = ("--engine", "ray", "--actors", 2, "--actor-cpus", 0.5, "--json")


def shards_of(directory):
    """Every file of the shards with what it holds."""
    return {
        f"{path.parent.name}/{path.name}": np.load(path) if path.suffix == ".npy" else pq.read_table(path).to_pylist()
        for kind in ("img_emb", "metadata", "failed")
        for path in sorted((directory / kind).iterdir())
    }


def check_same(one, other):
    """Vectors to the last bit, names and failures as they are."""
    one, other = shards_of(one), shards_of(other)
    assert one.keys() == other.keys()
    for name, held in one.items():
        np.testing.assert_array_equal(held, other[name], err_msg=name)


def actors():
    """The processes of Ray's actors of ours, by /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if line.startswith("ray::") and "_Actor" in line:
                found.append(int(entry.name))
    return found


def wait_for(condition, process):
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def test_ray_gives_what_this_machine_gives_and_survives_two_kills(bundles, pictures, tmp_path):
    bundle = bundles["clip"]
    subprocess.run(command(bundle, pictures, tmp_path / "here"), env=environment(), check=True, capture_output=True)
    out = tmp_path / "out"
    started = subprocess.Popen(
        command(bundle, pictures, out, *ON_RAY),
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: len(list(out.glob("finished/*"))) >= 1, started)
    if started.poll() is None:
        for actor in actors()[:1]:
            os.kill(actor, signal.SIGKILL)
    wait_for(lambda: len(list(out.glob("finished/*"))) >= 2, started)
    started.kill()
    started.communicate()
    done = subprocess.run(
        command(bundle, pictures, out, *ON_RAY), env=environment(), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["finished"], said["rows"], said["failed"]) == (SHARDS, COUNT, 1)
    check_same(tmp_path / "here", out)


def test_what_the_user_can_mend_is_one_line(bundles, pictures, tmp_path):
    strict = [
        word
        for word in command(bundles["clip"], pictures, tmp_path / "out", *ON_RAY)
        if word not in ("--on-bad-image", "skip")
    ]
    done = subprocess.run(strict, env=environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pass --on-bad-image skip to leave such images out" in done.stderr
    many = command(bundles["clip"], pictures, tmp_path / "many", "--engine", "ray", "--actors", 1000)
    done = subprocess.run(many, env=environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no room for 1000 actors with --actor-cpus 1 and --actor-gpus 0; ask for fewer, or for less" in done.stderr
    lost = command(bundles["clip"], pictures, tmp_path / "lost", "--engine", "ray", "--address", "nowhere")
    done = subprocess.run(lost, env=environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--address nowhere: " in done.stderr
    for said in (done.stderr,):
        assert "Traceback" not in said
