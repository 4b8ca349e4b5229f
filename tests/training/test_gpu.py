"""Training on a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from icclip.config import ModelConfig
from icclip.models.opening import open_model
from icclip.runs.history import read_history
from icclip.training.feeding.collate import CaptionedImages
from icclip.training.run import train
from icclip.training.step.arguments import training_arguments
from icclip.training.step.trainer import ContrastiveTrainer

DEVICE = "cuda"
REPOSITORY = Path(__file__).parents[2]
SOURCES = os.pathsep.join(str(REPOSITORY / root) for root in (".", "plugins", "export"))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(params=["softmax", "sigmoid"])
def on_gpu(request, config, tiny):
    model = ModelConfig(name=str(tiny[request.param]))
    return dataclasses.replace(config, model=model, device=DEVICE, scheduler="constant", epochs=20, train_bs=4)


def losses(run):
    return [line["loss"] for line in read_history(run / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_float32_does(on_gpu, registry, quiet, tmp_path, precision):
    whole = on_gpu
    half = dataclasses.replace(whole, precision=precision, output_dir=tmp_path / precision)
    for config in (whole, half):
        train(config, registry, quiet)
    expected, found = losses(whole.output_dir), losses(half.output_dir)
    assert len(found) == len(expected) == 40
    last, last_half = (sum(curve[-8:]) / 8 for curve in (expected, found))
    assert last < 0.9 * expected[0]
    assert last_half == pytest.approx(last, rel=0.1)
    # The masters are float32 whatever autocast does.
    assert all(tensor.dtype == torch.float32 for tensor in load_file(half.output_dir / "model.safetensors").values())


def test_the_gradient_cache_gives_the_plain_gradients(on_gpu, registry, pictures, captions):
    # TF32 would round the products of the two ways differently.
    torch.set_float32_matmul_precision("highest")
    start = open_model(registry, on_gpu.model)
    found = []
    for micro_batch in (None, 3):
        loaded = dataclasses.replace(start, model=copy.deepcopy(start.model))
        arguments = training_arguments(dataclasses.replace(on_gpu, train_bs=16), workers=0)
        data = CaptionedImages(pictures, captions)
        trainer = ContrastiveTrainer(loaded, arguments, data, lambda _: {"rsum": 0.0}, micro_batch=micro_batch)
        trainer.current_gradient_accumulation_steps = 1
        batch = trainer.data_collator([data[0, row] for row in range(16)])
        loss = trainer.training_step(trainer.model, batch)
        assert loss.device.type == DEVICE
        found.append({name: p.grad.cpu() for name, p in loaded.model.named_parameters() if p.grad is not None})
    plain, cached = found
    assert plain.keys() == cached.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-5, rtol=1e-3)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(on_gpu, registry, quiet, tmp_path):
    whole = dataclasses.replace(on_gpu, epochs=3, save_total_limit=3)
    train(whole, registry, quiet)
    part = dataclasses.replace(whole, output_dir=tmp_path / "part")
    train(dataclasses.replace(part, epochs=1), registry, quiet)
    train(dataclasses.replace(part, resume=True), registry, quiet)
    expected, found = (load_file(run.output_dir / "checkpoint-6" / "model.safetensors") for run in (whole, part))
    for name, tensor in expected.items():
        # Sums in another order: atomic additions on the GPU have none.
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.distributed
def test_one_process_under_torchrun_gives_the_curve_of_none(on_gpu, registry, quiet, tmp_path):
    alone = dataclasses.replace(on_gpu, epochs=2)
    train(alone, registry, quiet)
    launched = [
        "train", "--model", alone.model.name, "--dataset", alone.data.path, "--val-fraction", "0.25", "--output-dir",
        tmp_path / "nccl", "--epochs", 2, "--lr", alone.lr, "--train-bs", 4, "--scheduler", "constant", "--workers", 0,
        "--device", DEVICE, "--logging-steps", 1, "--report-to", "none",
    ]  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "icclip"]
    finished = subprocess.run(
        [sys.executable, *torchrun, *map(str, launched)], env=os.environ | {"PYTHONPATH": SOURCES},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert losses(tmp_path / "nccl") == pytest.approx(losses(alone.output_dir), abs=1e-3)
