"""The training entry point in a tree like `/opt/ml`, as a process, and its model through the handlers."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from amazon.conftest import write_channel
from support.images import photo

from icclip.errors import UsageError
from icclip_plugins.sagemaker.handlers import input_fn, model_fn, output_fn, predict_fn
from icclip_plugins.sagemaker.training import Container, launcher, options, print_metrics

ROOT = Path(__file__).parents[2]
HYPERPARAMETERS = [
    "--model",
    "clip-tiny",
    "--train_bs",
    "8",
    "--image-resize",
    "32",
    "--workers",
    "0",
    "--fp16",
    "false",
]


def container(base, channel, **variables):
    """The environment of a container."""
    base.mkdir(exist_ok=True)
    sources = os.pathsep.join(str(ROOT / part) for part in (".", "plugins", "export"))
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("SM_", "RANK", "WORLD_SIZE"))
    }
    return inherited | {
        "SAGEMAKER_BASE_DIR": str(base),
        "SM_CHANNEL_TRAIN": str(channel),
        "SM_MODEL_DIR": str(base / "model"),
        "SM_OUTPUT_DATA_DIR": str(base / "output" / "data"),
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_NUM_GPUS": "0",
        "PYTHONPATH": sources,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        **variables,
    }


def train(base, channel, *hyperparameters, **variables):
    command = [sys.executable, "-m", "icclip_plugins.sagemaker.training", *HYPERPARAMETERS, *hyperparameters]
    environment = container(base, channel, **variables)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def step_of(line):
    """Of `train_loss=0.0376 step=470 epoch=10.0`."""
    return int(line.split()[1].removeprefix("step="))


def answer(directory, image, texts):
    model = model_fn(str(directory))
    body = {"task": "rank", "image_b64": base64.b64encode(image).decode(), "texts": texts, "top_k": 2}
    return json.loads(output_fn(predict_fn(input_fn(json.dumps(body)), model), "application/json"))


@pytest.mark.slow
def test_from_a_manifest_to_a_ranked_answer(channel, tmp_path):
    base = tmp_path / "ml"
    done = train(base, channel, "--max-steps", "4", "--logging-steps", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    losses = [line for line in done.stdout.splitlines() if line.startswith("train_loss=")]
    assert [line.split()[1] for line in losses] == ["step=1", "step=2", "step=3", "step=4"]
    assert losses[0].split()[2].startswith("epoch=")
    assert not (base / "output" / "failure").exists()
    assert not list((base / "model").rglob("*optimizer*"))
    assert (base / "output" / "data" / "metrics.jsonl").is_file()

    assert_served(base / "model", tmp_path)


def assert_served(model, tmp_path):
    """The model ranks texts, packed as SageMaker does it and unpacked as the serving container does it."""
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(model, ".")
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "serving", filter="data")
    picture = io.BytesIO()
    photo(40, 40, seed=1).save(picture, "JPEG")
    found = answer(tmp_path / "serving", picture.getvalue(), ["picture number 1", "picture number 2", "a dog"])
    assert [sorted(row) for row in found["top_k"]] == [["score", "text"]] * 2
    assert found["top_k"][0]["score"] >= found["top_k"][1]["score"] > 0


@pytest.mark.slow
def test_a_spot_interruption_is_resumed_by_the_next_container(channel, tmp_path):
    base = tmp_path / "ml"
    # One epoch of steps ends with the first checkpoint; the rest leaves time for the signal.
    epoch, steps = 6, 60
    more = ["--max-steps", str(steps), "--logging-steps", "1", "--guard", "off"]
    command = [sys.executable, "-m", "icclip_plugins.sagemaker.training", *HYPERPARAMETERS, *more]
    with subprocess.Popen(
        command, env=container(base, channel), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        for line in job.stdout:
            if line.startswith("train_loss=") and step_of(line) > epoch:
                break
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=120)
    assert job.returncode not in (0, None)
    assert "interrupted" in (base / "output" / "failure").read_text()
    (base / "output" / "failure").unlink()

    done = train(base, channel, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (base / "checkpoints" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, steps + 1))
    # The second container starts behind the checkpoint of the first.
    first = next(line for line in done.stdout.splitlines() if line.startswith("train_loss="))
    assert step_of(first) > epoch
    assert_served(base / "model", tmp_path)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_and_channels_for_every_split(channel, tmp_path):
    validation = write_channel(tmp_path / "validation", 12, 100)
    test = write_channel(tmp_path / "test", 12, 200)
    base = tmp_path / "ml"
    variables = {"SM_NUM_GPUS": "2", "SM_CHANNEL_VALIDATION": str(validation), "SM_CHANNEL_TEST": str(test)}
    done = train(base, channel, "--max-steps", "3", "--logging-steps", "1", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((base / "model" / "icclip.json").read_text())
    assert record["processes"] == 2
    assert {name: split["images"] for name, split in record["data"]["splits"].items()} == {
        "train": 48,
        "validation": 12,
        "test": 12,
    }


def test_an_error_is_one_line_where_sagemaker_looks_for_it(channel, tmp_path):
    cases = {
        "unknown": (["--no-such-option", "1"], {}, "No such option"),
        "data": ([], {"SM_CHANNEL_TRAIN": str(tmp_path / "absent")}, "there is no channel `train`"),
        "hosts": ([], {"SM_HOSTS": "algo-1"}, "SM_HOSTS is 'algo-1': JSON is expected"),
        "value": (["--train_bs", "1"], {}, "it must be at least"),
    }
    for name, (more, variables, expected) in cases.items():
        done = train(tmp_path / name, channel, *more, **variables)
        assert done.returncode == 2, done.stdout + done.stderr
        failure = (tmp_path / name / "output" / "failure").read_text()
        assert expected in failure or name == "unknown", failure
        assert failure.count("\n") == 1
        assert not (tmp_path / name / "model").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--epochs", "5"], ["--epochs", "5"]),
        (["--bf16", "true"], ["--bf16"]),
        (["--bf16", "false"], []),
        (["--lr=1e-5"], ["--lr", "1e-5"]),
        (["--sagemaker_program", "train.py", "--seed", "1"], ["--seed", "1"]),
        (["--image-resize", ""], []),
    ],
)
def test_hyperparameters_become_options(given, expected):
    assert options(given) == expected


def test_a_hyperparameter_without_a_name():
    with pytest.raises(UsageError, match="hyperparameter '5' has no name: write it as --NAME VALUE"):
        options(["5"])


@pytest.mark.parametrize(
    ("hosts", "gpus", "expected"),
    [
        (["algo-1"], 0, ["-m", "icclip"]),
        (["algo-1"], 1, ["-m", "icclip"]),
        (["algo-1"], 4, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4", "-m", "icclip"]),
        (
            ["algo-1", "algo-2"], 1,
            [
                "-m", "torch.distributed.run", "--nnodes=2", "--node_rank=1", "--master_addr=algo-1",
                "--master_port=7777", "--nproc_per_node=1", "-m", "icclip",
            ],
        ),
    ],
)  # fmt: skip
def test_processes_are_started_for_every_gpu_of_every_machine(hosts, gpus, expected):
    environment = {"SM_HOSTS": json.dumps(hosts), "SM_CURRENT_HOST": hosts[-1], "SM_NUM_GPUS": str(gpus)}
    assert launcher(Container.of(environment)) == [sys.executable, *expected]


def test_metrics_are_printed_as_the_definitions_read_them():
    import re

    from icclip_plugins.sagemaker.calls import METRICS

    lines = []
    print_metrics({"step": 470, "loss": 0.0376, "epoch": 10.0}, lines.append)
    print_metrics({"step": 470, "eval_rsum": 598.4}, lines.append)
    assert lines == ["train_loss=0.0376 step=470 epoch=10.0\n", "validation_rsum=598.4 step=470\n"]
    for name, expected in {"train_loss": "0.0376", "step": "470", "epoch": "10.0", "validation_rsum": "598.4"}.items():
        assert re.search(METRICS[name], "".join(lines))[1] == expected


def test_hyperparameters_come_from_the_environment_where_there_are_no_arguments(channel, tmp_path):
    hps = json.dumps({"model": "clip-tiny", "train_bs": 8, "image-resize": 32, "workers": 0, "max-steps": 1})
    command = [sys.executable, "-m", "icclip_plugins.sagemaker.training"]
    environment = container(tmp_path / "ml", channel, SM_HPS=hps)
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + str(time.monotonic() - started)
    assert (tmp_path / "ml" / "model" / "model.safetensors").is_file()
