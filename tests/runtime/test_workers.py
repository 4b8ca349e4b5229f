"""One exercise in every kind of worker, each in processes of its own: threads, forks, pools, servers, asyncio, Ray."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support.exercise import exercise, exercise_in_threads

from icclip.errors import CheckpointError, UsageError
from icclip.runtime import Encoder, Limits
from icclip.runtime.workers import Shared

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 120
"""Seconds after which a process is taken to hang."""

BEGIN = """
import multiprocessing, os, sys, threading, time
from support.exercise import exercise, exercise_in_threads, opened
bundle = sys.argv[1]
"""


def environment(**more):
    paths = [str(REPOSITORY / "tests"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def run(script, bundle, **variables):
    """What a script printed; it must exit with 0, and print nothing to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script, str(bundle)],
        env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.split()


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles["clip"]


@pytest.fixture(scope="module")
def expected(bundle):
    return exercise(Encoder.open(bundle, provider="cpu", threads=2))


def test_threads(bundle, expected):
    assert exercise_in_threads(Encoder.open(bundle, provider="cpu", threads=2), 8) == expected


FORK = """
encoder = opened(bundle)
print(exercise(encoder), flush=True)  # Both towers and their pools of threads are used before the fork.
child = os.fork()
if child == 0:
    print(exercise_in_threads(encoder), flush=True)
    sys.exit(0)
print(os.waitpid(child, 0)[1], exercise(encoder), flush=True)
"""


def test_a_fork_after_use_encodes_and_exits(bundle, expected):
    assert run(FORK, bundle) == [expected, expected, "0", expected]


FORK_WHILE_LOADING = """
from icclip.runtime import sessions as module
load = module.open_session
loading = threading.Event()
def slowly(*arguments, **options):
    loading.set()
    time.sleep(1)
    return load(*arguments, **options)
module.open_session = slowly
encoder = opened(bundle)
thread = threading.Thread(target=exercise, args=(encoder,))
thread.start()
loading.wait()
child = os.fork()
if child == 0:
    print(exercise(encoder), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
thread.join()
"""


def test_a_fork_while_a_tower_loads_leaves_nobody_waiting(bundle, expected):
    assert run(FORK_WHILE_LOADING, bundle) == [expected, "0"]


FORK_WHILE_PREPARING = """
from icclip.runtime import encoder as module
owner, name = {owner}, "{name}"
make = getattr(owner, name)
making = threading.Event()
def slowly(*arguments, **options):
    making.set()
    time.sleep(1)
    return make(*arguments, **options)
setattr(owner, name, slowly)
encoder = opened(bundle)
thread = threading.Thread(target=exercise, args=(encoder,))
thread.start()
making.wait()
child = os.fork()
if child == 0:
    print(exercise(encoder), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
thread.join()
"""


@pytest.mark.parametrize(("owner", "name"), [("module", "Preprocessor"), ("module.Tokenization", "open")])
def test_a_fork_while_inputs_are_made_ready_leaves_nobody_waiting(bundle, expected, owner, name):
    """The lock of the standard library's cached_property (until Python 3.11) would stay locked in the child."""
    assert run(FORK_WHILE_PREPARING.format(owner=owner, name=name), bundle) == [expected, "0"]


FORK_AFTER_IMPORT = """
from icclip.runtime.providers import import_onnxruntime
import_onnxruntime()
for _ in range(4):
    child = os.fork()
    if child == 0:
        sys.exit(0)
    print(os.waitpid(child, 0)[1], os.environ["ORT_DISABLE_TELEMETRY"])
"""


def test_children_of_a_process_that_imported_onnxruntime_exit(bundle):
    assert run(FORK_AFTER_IMPORT, bundle) == ["0", "1"] * 4


def test_the_users_choice_of_telemetry_stays(bundle):
    script = "encoder = opened(bundle)\nprint(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run(script, bundle, ORT_DISABLE_TELEMETRY="0") == ["0"]


POOL = """
if __name__ == "__main__":
    encoder = opened(bundle)
    if "{method}" == "fork":
        exercise(encoder)
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        print(*pool.map(exercise, [encoder] * 4))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_processes(bundle, expected, method):
    # The main module of `python -c` cannot be imported again; that of a spawned worker is not needed.
    assert run(POOL.format(method=method), bundle) == [expected] * 4


def test_pickles_carry_the_path_and_options(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(bundle.parent)
    encoder = Encoder.open(bundle.name, provider="cpu", threads=1, limits=Limits(characters_per_text=9))
    # Neither pickling nor what is loaded later depends on the working directory.
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(pickle.dumps(encoder))
    assert again == encoder
    assert hash(again) == hash(encoder)
    assert again.bundle == bundle
    assert again.limits.characters_per_text == 9
    assert again != Encoder.open(bundle, provider="cpu", threads=2)


def test_another_bundle_at_the_path_is_noticed(bundles, tmp_path):
    import shutil

    place = tmp_path / "bundle"
    shutil.copytree(bundles["clip"], place)
    pickled = pickle.dumps(Encoder.open(place, provider="cpu"))
    shutil.rmtree(place)
    shutil.copytree(bundles["siglip"], place)
    with pytest.raises(CheckpointError, match="is not the bundle that the encoder was pickled with"):
        pickle.loads(pickled)


def test_a_gpu_that_was_used_before_a_fork_is_refused():
    shared = Shared(1, lost_by_fork="a GPU")
    shared.check_usable()
    shared.in_child()
    with pytest.raises(UsageError, match=r"opened on a GPU before this process was forked: open it in each worker"):
        shared.session("text", lambda _: pytest.fail("loaded"))


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("preload", [True, False], ids=["preload", "no preload"])
def test_gunicorn_answers_and_stops(bundle, expected, port, preload, tmp_path):
    if importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed: pip install gunicorn")
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", "--no-control-socket"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, *(["--preload"] if preload else []), "support.worker_app:app"],
            env=environment(BUNDLE=str(bundle)), stdout=log, stderr=log,
        )  # fmt: skip
        try:
            workers = answers(port, expected, server)
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(30)
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert len(workers) == 2
    assert "SIGKILL" not in said
    assert "Traceback" not in said


def answers(port, expected, server):
    """Ask until both workers have answered, each with the right embeddings."""
    workers, until = set(), time.monotonic() + PATIENCE
    while len(workers) < 2 and time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
                worker, found = response.read().decode().split()
        except OSError:
            time.sleep(0.2)
            continue
        assert found == expected
        workers.add(worker)
    return workers


ASYNCIO = """
import asyncio
async def main():
    encoder = opened(bundle)
    under_way = [asyncio.create_task(asyncio.to_thread(exercise, encoder)) for _ in range(6)]
    await asyncio.sleep(0.01)
    for task in under_way[::2]:
        task.cancel()
    done = await asyncio.gather(*under_way, return_exceptions=True)
    print(*(d if isinstance(d, str) else type(d).__name__ for d in done))
    print(await asyncio.to_thread(exercise, encoder))
asyncio.run(main())
"""


def test_asyncio_with_cancellation(bundle, expected):
    assert run(ASYNCIO, bundle) == ["CancelledError", expected] * 3 + [expected]


JOBLIB = """
from joblib import Parallel, delayed
if __name__ == "__main__":
    print(*Parallel(2)(delayed(exercise)(encoder) for encoder in [opened(bundle)] * 3))
"""


def test_joblib(bundle, expected):
    if importlib.util.find_spec("joblib") is None:
        pytest.skip("joblib is not installed: pip install joblib")
    assert run(JOBLIB, bundle) == [expected] * 3


RAY = """
import logging, ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
@ray.remote(num_cpus=0.5)
class Worker:
    def __init__(self, encoder):
        self.encoder = encoder
    def work(self):
        return exercise(self.encoder)
encoder = opened(bundle)
workers = [Worker.remote(encoder) for _ in range(2)]
print(*ray.get([worker.work.remote() for worker in workers]))
ray.shutdown()
"""


@pytest.mark.slow
def test_ray_actors(bundle, expected):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install ray")
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + RAY, str(bundle)],
        env=environment(RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0"), capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [expected] * 2
