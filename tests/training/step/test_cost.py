from __future__ import annotations

import dataclasses
import json
import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from icclip.console import Reporter
from icclip.runs.history import read_history
from icclip.training.run import train
from icclip.training.step import cost
from icclip.training.step.cost import COSTS, PARTS, Costs, about_device, cost_line, is_cost, peak_flops
from icclip.training.step.trainer import ContrastiveTrainer

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def pass_by(seconds):
        now[0] += seconds

    return pass_by


@pytest.fixture
def costs(tmp_path, clock):
    return Costs(tmp_path, CPU, pairs=12)


def a_step(costs, clock):
    """Data 1 s, towers 2 + 4 s, the loss 3 s and within it exchange 5 s, the optimizer 6 s, and 100 s that are no step's."""
    costs.begin()
    clock(1)
    costs.has_data()
    clock(2)
    with costs.part("loss"):
        clock(1)
        with costs.part("exchange"):
            clock(5)
        clock(2)
    clock(3)
    costs.on_pre_optimizer_step(None, None, None)
    clock(6)
    costs.on_optimizer_step(None, None, None)
    clock(1)
    costs.on_step_end(None, None, None)
    clock(100)


SHARES = {"data": 1 / 21, "towers": 6 / 21, "loss": 3 / 21, "optimizer": 6 / 21, "exchange": 5 / 21}


def test_each_second_of_a_step_is_charged_to_one_part(costs, clock, tmp_path):
    a_step(costs, clock)
    a_step(costs, clock)
    told = costs.line(2, writes=True)
    (line,) = read_history(tmp_path / COSTS)
    assert line["step"] == 2
    assert {name: line[f"share_{name}"] for name in PARTS} == pytest.approx(SHARES, abs=1e-4)
    assert line["seconds_per_step"] == 21
    assert line["images_per_second"] == pytest.approx(12 / 21, abs=0.01)
    assert line["peak_host_mib"] > 10
    assert told == {f"cost/{name}": value for name, value in line.items() if name != "step"}


def test_a_line_is_about_the_steps_since_the_last_and_the_summary_about_all(costs, clock, tmp_path):
    a_step(costs, clock)
    costs.line(1, writes=True)
    costs.begin()
    clock(4)
    costs.on_step_end(None, None, None)
    with costs.evaluating():
        clock(9)
    costs.line(2, writes=False)
    assert len(read_history(tmp_path / COSTS)) == 1, "another process writes"
    a_step(costs, clock)
    line = costs.line(3, writes=True)
    assert "cost/evaluation_seconds" not in line
    summary = costs.summary(processes=2, accumulated=1, half=False)
    assert summary["seconds_per_step"] == pytest.approx(46 / 3)
    assert summary["evaluation_seconds"] == 9
    assert summary["processes"] == 2


def test_an_evaluation_alone_has_no_speed(costs, clock):
    with costs.evaluating():
        clock(2)
    assert costs.line(0, writes=False).keys() == {"cost/evaluation_seconds", "cost/peak_host_mib"}
    assert costs.summary(processes=1, accumulated=1, half=False) == {}


def test_operations_of_the_first_pass_are_counted_by_torchs_formulas(costs, clock):
    layer, rows = nn.Linear(5, 7, bias=False), torch.randn(3, 5, requires_grad=True)
    for _ in range(2):
        with costs.counting():
            layer(rows).sum().backward()
    a_step(costs, clock)
    # Forward and two products backward, each of 3 x 5 x 7 multiply-adds; two batches on each of two processes.
    assert costs.summary(processes=2, accumulated=2, half=False)["total_flops"] == 3 * 2 * 3 * 5 * 7 * 2 * 2


def test_mfu_where_the_peak_is_known(costs, clock, monkeypatch):
    monkeypatch.setattr(cost, "about_device", lambda _: {"device": "NVIDIA H100 80GB HBM3"})
    layer = nn.Linear(500, 700, bias=False)
    with costs.counting():
        layer(torch.randn(300, 500))
    a_step(costs, clock)
    found = costs.summary(processes=4, accumulated=1, half=True)
    assert found["mfu"] == pytest.approx(2 * 300 * 500 * 700 / 21 / 989e12, abs=1e-4)
    assert found["total_flops"] == 4 * 2 * 300 * 500 * 700


@pytest.mark.parametrize(
    ("name", "half", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", True, 989e12),
        ("NVIDIA H100 PCIe", True, 756e12),
        ("NVIDIA A100-SXM4-40GB", False, 156e12),
        ("NVIDIA L40S", True, 362e12),
        ("NVIDIA L4", True, 121e12),
        ("Some CPU", True, None),
    ],
)
def test_peaks(name, half, expected):
    assert peak_flops(name, half=half) == expected


def test_the_device_is_named_without_the_machine(monkeypatch):
    found = about_device(CPU)
    assert found["threads"] == torch.get_num_threads()
    assert found["device"]
    assert found.keys() == {"device", "threads"}


def test_what_is_said_to_people():
    shares = {
        "share_data": 0.12,
        "share_towers": 0.8,
        "share_loss": 0.05,
        "share_optimizer": 0.03,
        "share_exchange": 0.0,
    }
    found = {**shares, "images_per_second": 1234.5, "peak_host_mib": 2048.2}
    assert cost_line(found) == (
        "1,234.5 images/s; of a step: towers 80 %, data 12 %, loss 5 %, optimizer 3 %; peak memory 2,048 MiB"
    )
    assert cost_line(found | {"mfu": 0.431, "peak_device_mib": 5}).endswith("peak memory 5 MiB; MFU 43.1 %")


def test_operations_of_a_model_are_those_that_torch_counts(registry, config, tmp_path, monkeypatch):
    counts = []
    step = ContrastiveTrainer._step

    def counted(self, *args):
        with FlopCounterMode(display=False) as counter:
            loss = step(self, *args)
        counts.append(counter.get_total_flops())
        return loss

    monkeypatch.setattr(ContrastiveTrainer, "_step", counted)
    train(dataclasses.replace(config, epochs=1), registry, Reporter(silent=True))
    found = json.loads((config.output_dir / "icclip.json").read_text())["cost"]
    assert found["total_flops"] == counts[0] * len(counts)


def test_a_run_tells_what_it_cost(config, registry, capsys):
    heard = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            heard.append(logs)

    build = ContrastiveTrainer.__init__

    def with_tracker(self, *args, **options):
        build(self, *args, **options)
        self.add_callback(Tracker())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContrastiveTrainer, "__init__", with_tracker)
        train(dataclasses.replace(config, epochs=2, logging_steps=1), registry, Reporter())
    root = config.output_dir
    history, lines = read_history(root / "metrics.jsonl"), read_history(root / COSTS)
    assert [line["step"] for line in lines] == [line["step"] for line in history if "loss" in line]
    assert not any("cost" in name or "images_per" in name for line in history for name in line)
    for line in lines:
        assert sum(line[f"share_{name}"] for name in PARTS) == pytest.approx(1, abs=1e-3)
        assert all(line[f"share_{name}"] > 0 for name in ("data", "towers", "loss", "optimizer"))
    assert any("evaluation_seconds" in line for line in lines)
    assert sum(map(is_cost, heard)) == len(lines)
    summary = json.loads((root / "icclip.json").read_text())["cost"]
    assert summary["total_flops"] > 0
    assert summary["images_per_second"] > 0
    assert "mfu" not in summary, "no peak is known of a CPU"
    said = " ".join(capsys.readouterr().err.split())
    assert "images/s; of a step: " in said
    assert "images/s rsum" in said
    card = (root / "README.md").read_text()
    assert f"## Cost\n\nTrained on 1 x {summary['device']}" in card
    assert "floating-point operations in all" in card
