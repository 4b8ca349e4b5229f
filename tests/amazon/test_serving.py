"""The serving container's command as a process, with SageMaker's environment, over plain HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.images import photo

from icclip.errors import UsageError
from icclip_plugins.sagemaker.handlers import input_fn, model_fn, predict_fn
from icclip_plugins.sagemaker.serving import command

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def call(port, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


def wait_for(port, process):
    for _ in range(600):
        assert process.poll() is None, process.stderr.read()
        try:
            return call(port, "/ping")
        except OSError:
            time.sleep(0.2)
    raise AssertionError("it never answered")


@pytest.mark.slow
def test_the_container_answers_the_seed_projects_json(bundles, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    shutil.copytree(bundles["clip"], tmp_path / "model")
    port = free_port()
    sources = os.pathsep.join(str(ROOT / part) for part in (".", "plugins", "export"))
    environment = os.environ | {
        "SAGEMAKER_BASE_DIR": str(tmp_path), "SAGEMAKER_BIND_TO_PORT": str(port), "PYTHONPATH": sources,
    }  # fmt: skip
    words = [sys.executable, "-m", "icclip_plugins.sagemaker.serving", "serve"]
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(port, process)
            buffer = io.BytesIO()
            photo(50, 40).save(buffer, "PNG")
            body = {
                "task": "rank", "image_b64": base64.b64encode(buffer.getvalue()).decode(), "texts": ["a", "two dogs", "snow"],
                "top_k": 2,
            }  # fmt: skip
            found = call(port, "/invocations", body)
            expected = predict_fn(input_fn(json.dumps(body)), model_fn(str(tmp_path / "model")))
            assert [row["text"] for row in found["top_k"]] == [row["text"] for row in expected["top_k"]]
            scores = [row["score"] for row in expected["top_k"]]
            assert [row["score"] for row in found["top_k"]] == pytest.approx(scores, rel=1e-4)
            with pytest.raises(urllib.error.HTTPError) as caught:
                call(port, "/invocations", {"task": "translate"})
            assert 400 <= caught.value.code < 500
            caught.value.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)


def test_where_the_bundle_is_looked_for(bundles, tmp_path):
    shutil.copytree(bundles["clip"], tmp_path / "model" / "bundle")
    words = command({"SAGEMAKER_BASE_DIR": str(tmp_path), "SAGEMAKER_BIND_TO_PORT": "9000"})
    assert words[1:] == [
        "-m",
        "icclip",
        "serve",
        str(tmp_path / "model" / "bundle"),
        "--host",
        "0.0.0.0",
        "--port",
        "9000",
    ]


def test_without_a_bundle_one_line_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="holds no bundle: make one with `icclip export`"):
        command({"SAGEMAKER_BASE_DIR": str(tmp_path)})
    done = subprocess.run(
        [sys.executable, "-m", "icclip_plugins.sagemaker.serving"], env=os.environ | {"SAGEMAKER_BASE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
