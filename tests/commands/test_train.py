from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file
from support import towers

from icclip.config import TrainConfig
from icclip.errors import ConfigError, MissingExtraError, UsageError
from icclip.plugins.registry import Registry
from icclip.runs.history import read_history
from icclip.training.request import train_config

REPOSITORY = Path(__file__).parents[2]
SOURCES = os.pathsep.join(str(REPOSITORY / root) for root in (".", "plugins", "export"))


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of parquet: 24 images of one caption each, the same in every split."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(24)]
    rows = {"image": pictures, "captions": [[f"picture number {i} of them"] for i in range(24)]}
    features = Features(image=ImageFeature(), captions=Sequence(Value("string")))
    for split in ("train", "validation", "test"):
        Dataset.from_dict(rows, features).to_parquet(folder / f"{split}.parquet")
    return folder


def arguments(images, output, *more, resize=("--image-resize", "32")):
    return [
        "train", "--model", "clip-tiny", "--dataset", images, "--output-dir", output, *resize,
        "--device", "cpu", "--workers", "0", "--report-to", "none", "--logging-steps", "1", "--guard", "off", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_train_then_eval(icclip, images, tmp_path):
    run = tmp_path / "run"
    outcome = icclip(*arguments(images, run, "--epochs", 1, "--train_bs", 8, "--json"))
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["steps"] == 3
    assert "7 per positive and step" in outcome.err
    measured = icclip("eval", run, "--split", "validation", "--json")
    assert json.loads(measured.out)["rsum"] == pytest.approx(result["best"]["rsum"])
    assert "icclip eval" in (run / "README.md").read_text()
    by_train = json.loads((run / "test_metric.json").read_text())
    by_eval = json.loads(icclip("eval", run, "--json").out)
    assert list(by_eval) == list(by_train)
    assert {**by_eval, "about": None} == {**by_train, "about": None}


def test_bad_requests_are_one_line_each(icclip, images, tmp_path):
    for options, message in [
        (["--model", "clip-tinny", "--dataset", "shapes"], "unknown model 'clip-tinny'; did you mean 'clip-tiny'?"),
        (["--dataset", "shapes"], "no model is named: give --model"),
        (["--model", "clip-tiny"], "no data is named: give --dataset"),
        (["--model", "clip-tiny", "--dataset", "shapes", "--set", "x"], "--set x: write it as --set NAME=VALUE"),
        (["--model", "clip-tiny", "--dataset", "shapes", "--lr", "-1"], "--lr is -1.0: it must be at least 0"),
        (
            ["--model", "clip-tiny", "--dataset", "shapes", "--batch-size", "8", "--micro-batch", "9"],
            "--micro-batch is 9: it must be at most --batch-size, which is 8",
        ),
    ]:
        outcome = icclip("train", "--output-dir", tmp_path / "none", *options)
        assert outcome.code == 2
        assert f"error: {message}" in outcome.err
        assert len(outcome.err.strip().splitlines()) <= 2
    assert not (tmp_path / "none" / "icclip.json").exists()


def test_an_option_wins_over_the_file_and_that_over_the_preset(tmp_path):
    registry = Registry(load_plugins=frozenset())
    found = registry.preset("clip-tiny")
    assert found is not None
    preset = (
        TrainConfig.__dataclass_fields__["lr"].default if "lr" not in found[1].defaults else found[1].defaults["lr"]
    )
    file = tmp_path / "run.toml"
    file.write_text('epochs = 7\n[model]\nname = "clip-tiny"\n[data]\nname = "shapes"\nseed = 3\n')
    config = train_config(registry, file, None, None, {"epochs": 9, "seed": None})
    assert (config.epochs, config.data.seed, config.lr, config.seed) == (9, 3, preset, 42)
    assert config.output_dir == Path("runs/clip-tiny-shapes")
    file.write_text(file.read_text() + "sead = 1\n")
    with pytest.raises(ConfigError, match=r"unknown key 'data.sead'.*did you mean"):
        train_config(registry, file, None, None, {})


def test_a_runs_record_repeats_it(tmp_path):
    registry = Registry(load_plugins=frozenset())
    first = train_config(registry, None, "clip-tiny", "shapes", {"lr": 0.5})
    record = tmp_path / "icclip.json"
    record.write_text(json.dumps({"config": first.to_mapping()}))
    again = train_config(registry, record, None, None, {"output_dir": first.output_dir})
    assert again == first
    record.write_text("{}")
    with pytest.raises(UsageError, match=r"is not the icclip.json of a run"):
        train_config(registry, record, None, None, {})
    with pytest.raises(UsageError, match=r"cannot read the configuration .*No such file"):
        train_config(registry, tmp_path / "none.json", None, None, {})


def test_gentle_options_reach_the_config_as_tables(tmp_path):
    registry = Registry(load_plugins=frozenset())
    file = tmp_path / "run.toml"
    file.write_text('captions = "all"\n[gentle]\nlayer_decay = 0.75\n[lora]\nrank = 4\n')
    config = train_config(registry, file, "clip-tiny", "shapes", {"gentle": {"ema": 0.9}, "lora": {"rank": None}})
    assert (config.captions, config.gentle.layer_decay, config.gentle.ema, config.lora.rank) == ("all", 0.75, 0.9, 4)


def test_adapters_without_peft_are_one_line(monkeypatch):
    monkeypatch.setattr("icclip.training.request.find_spec", lambda _: None)
    with pytest.raises(
        MissingExtraError, match=r"--lora-rank needs peft, not installed here: pip install 'icclip\[lora\]'"
    ):
        train_config(Registry(load_plugins=frozenset()), None, "clip-tiny", "shapes", {"lora": {"rank": 4}})


def test_repeated_options(icclip):
    options = (
        "--set",
        "max-grad-norm=1",
        "--set",
        "a=b=c",
        "--report-to",
        "tensorboard,none",
        "--report_to",
        "tensorboard",
    )
    shown = icclip("config", "show", "--model", "clip-tiny", "--dataset", "shapes", *options, "--json")
    values = json.loads(shown.out)
    assert values["training_args"] == {"max_grad_norm": "1", "a": "b=c"}
    assert values["report_to"] == ["tensorboard", "tensorboard"]
    none = icclip("config", "show", "--model", "clip-tiny", "--dataset", "shapes", "--report-to", "none", "--json")
    assert json.loads(none.out)["report_to"] == []


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def launched(launcher, options):
    environment = os.environ | {"PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1", "ICCLIP_LOAD_PLUGINS": ""}
    command = [sys.executable, "-m", *launcher, "-m", "icclip", *map(str, options)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        TORCHRUN,
        # On a machine without GPUs this is how accelerate starts several processes at all.
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
         "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"],
    ],
    ids=["torchrun", "accelerate"],
)  # fmt: skip
def test_two_processes_give_the_curve_of_one_with_the_doubled_batch(icclip, images, tmp_path, launcher):
    alone = icclip(*arguments(images, tmp_path / "one", "--epochs", 2, "--train-bs", 8))
    assert alone.code == 0, alone.err
    two = arguments(images, tmp_path / "two", "--epochs", 2, "--batch-size", 4, "--micro-batch", 3, "--json")
    finished = launched(launcher, two)
    # One JSON document: the second process says nothing.
    assert json.loads(finished.stdout)["steps"] == 6
    one, two = (curve(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [step for step, _ in two] == [step for step, _ in one]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=2e-4)
    assert len(one) == 6


GENTLE = (
    "--lora-rank",
    2,
    "--ema",
    0.5,
    "--layer-decay",
    0.5,
    "--freeze-blocks",
    1,
    "--captions",
    "all",
    "--epochs",
    2,
)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_adapt_and_average_as_one_does(icclip, images, tmp_path):
    alone = icclip(*arguments(images, tmp_path / "one", *GENTLE, "--train-bs", 8))
    assert alone.code == 0, alone.err
    launched(TORCHRUN, arguments(images, tmp_path / "two", *GENTLE, "--train-bs", 4))
    one, two = (load_file(tmp_path / name / "checkpoint-6" / "weight_average.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, average in one.items():
        torch.testing.assert_close(two[name], average, atol=2e-5, rtol=0)
    assert any(average.abs().max() > 1e-3 for name, average in one.items() if ".lora_B." in name)


WHOLE = ("--micro-batch", 3, "--grad-ckpt")
FSDP = ("--fsdp", *WHOLE)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("model", ["clip-tiny", "siglip-tiny"])
def test_a_divided_model_learns_as_a_whole_one(icclip, images, tmp_path, model):
    gently = (*GENTLE, "--model", model, "--guard", "off")
    alone = icclip(*arguments(images, tmp_path / "one", *gently, "--train-bs", 8))
    assert alone.code == 0, alone.err
    finished = launched(TORCHRUN, arguments(images, tmp_path / "two", *gently, "--train-bs", 4, *FSDP))
    assert "sharded across 2 processes" in finished.stderr
    assert "Warning" not in finished.stderr
    written = sorted(path.name for path in (tmp_path / "one" / "checkpoint-6").iterdir())
    for name in written:
        ours = tmp_path / "two" / "checkpoint-6" / name.replace("rng_state.pth", "rng_state_1.pth")
        assert ours.exists()
        if name.endswith(".safetensors"):
            one, two = load_file(tmp_path / "one" / "checkpoint-6" / name), load_file(ours)
            assert one.keys() == two.keys()
            for key, weight in one.items():
                torch.testing.assert_close(two[key], weight, atol=2e-5, rtol=0)
    assert (tmp_path / "two" / "config.json").read_text() == (tmp_path / "one" / "config.json").read_text()
    by_train = json.loads((tmp_path / "two" / "test_metric.json").read_text())
    by_eval = json.loads(icclip("eval", tmp_path / "two", "--json").out)
    assert by_eval["rsum"] == by_train["rsum"]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("divided", [(), ("--fsdp",)], ids=["whole", "divided"])
def test_two_processes_with_kept_statistics_learn_as_one(icclip, images, tmp_path, divided):
    """A tower with BatchNorm trains."""
    # Dropout would fall otherwise in two parts than in one.
    text = towers.bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    start = towers.assembled(icclip, tmp_path, towers.efficientnet(drop_connect_rate=0.0, initializer_range=1.0), text)
    # Some gradients are nothing but rounding errors, of which Adam would make whole steps.
    options = (
        "--model",
        start,
        "--freeze-bn-stats",
        "--epochs",
        1,
        "--lr",
        0.01,
        "--weight-decay",
        0,
        "--set",
        "adam_epsilon=1e-3",
    )
    alone = icclip(*arguments(images, tmp_path / "one", *options, "--train-bs", 8, resize=()))
    assert alone.code == 0, alone.err
    launched(TORCHRUN, arguments(images, tmp_path / "two", *options, "--train-bs", 4, *divided, resize=()))
    before, one, two = (
        load_file(run / "model.safetensors")
        for run in (start, *(tmp_path / name / "checkpoint-3" for name in ("one", "two")))
    )
    assert one.keys() == two.keys()
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, atol=2e-6, rtol=0)
    moved = {key: (one[key] - before[key]).abs().max() for key in one if key.startswith("vision_model.")}
    assert max(moved.values()) > 1e-3
    assert not any(by for key, by in moved.items() if "running_" in key)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [(FSDP, FSDP), (WHOLE, WHOLE), (FSDP, WHOLE)],
    ids=["divided", "whole", "divided then whole"],
)
def test_a_run_of_two_processes_goes_on_as_if_nothing_had_happened(images, tmp_path, first, then):
    steady = ("--ema", 0.5, "--scheduler", "constant", "--warmup-ratio", 0, "--guard", "off", "--train-bs", 4)
    through, cut = tmp_path / "through", tmp_path / "cut"
    launched(TORCHRUN, arguments(images, through, *steady, *first, "--epochs", 2))
    launched(TORCHRUN, arguments(images, cut, *steady, *first, "--epochs", 1))
    resumed = launched(TORCHRUN, arguments(images, cut, *steady, *then, "--epochs", 2, "--resume"))
    assert "resuming from" in resumed.stderr
    for name in ("model", "weights_in_training", "weight_average"):
        one, two = (load_file(run / "checkpoint-6" / f"{name}.safetensors") for run in (through, cut))
        for key, weight in one.items():
            torch.testing.assert_close(two[key], weight, atol=2e-4 * (first != then), rtol=0)


STEADY = ("--scheduler", "constant", "--warmup-ratio", 0, "--guard", "off")


def trained(processes, images, run, *options):
    """Train on this many processes whose batches are 8 images together."""
    said = arguments(images, run, *STEADY, "--train-bs", 8 // processes, *options)
    if processes == 1:
        return alone(said)
    return launched(["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)], said)


def alone(options):
    environment = os.environ | {"PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1", "ICCLIP_LOAD_PLUGINS": ""}
    command = [sys.executable, "-m", "icclip", *map(str, options)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then", "options"),
    [
        (2, 1, ()),
        (1, 2, ()),
        (2, 1, ("--micro-batch", 3)),
        (1, 2, ("--lora-rank", 2, "--ema", 0.5, "--captions", "all")),
        (1, 4, ()),
    ],
    ids=["2 to 1", "1 to 2", "2 to 1 in micro-batches", "1 to 2 with adapters and averages", "1 to 4"],
)
def test_a_run_goes_on_with_another_number_of_processes(images, tmp_path, first, then, options):
    through, cut = tmp_path / "through", tmp_path / "cut"
    trained(first, images, through, *options, "--epochs", 2)
    trained(first, images, cut, *options, "--epochs", 1)
    resumed = trained(then, images, cut, *options, "--epochs", 2, "--resume")
    assert f"with {then} instead of {first} processes: the same batches, to float tolerance" in resumed.stderr
    one, two = (read_history(run / "metrics.jsonl") for run in (through, cut))
    assert [line["step"] for line in two] == [line["step"] for line in one]
    for name in ("loss", "eval_rsum"):
        ours, theirs = ([line[name] for line in lines if name in line] for lines in (two, one))
        assert ours == pytest.approx(theirs, abs=2e-4)
    # Adam divides by the gradient's size: where that is near zero, rounding moves a weight by up to the rate of 1e-3.
    ours, theirs = (load_file(run / "model.safetensors") for run in (cut, through))
    for key, weight in theirs.items():
        torch.testing.assert_close(ours[key], weight, atol=2e-4, rtol=0)


@pytest.mark.distributed
@pytest.mark.slow
def test_one_image_a_process_is_a_batch_of_two_processes(images, tmp_path):
    alone(arguments(images, tmp_path / "one", *STEADY, "--max-steps", 2, "--train-bs", 2))
    launched(TORCHRUN, arguments(images, tmp_path / "two", *STEADY, "--max-steps", 2, "--train-bs", 1))
    one, two = (curve(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=2e-4)


def test_a_run_goes_on_by_its_own_record(icclip, images, tmp_path):
    run = tmp_path / "run"
    assert icclip(*arguments(images, run, *STEADY, "--train-bs", 8, "--epochs", 1)).code == 0
    again = icclip("train", "--config", run, "--resume", "--epochs", 2)
    assert again.code == 0, again.err
    assert "resuming from" in again.err
    assert json.loads((run / "icclip.json").read_text())["config"]["epochs"] == 2
    refused = icclip("train", "--config", run, "--resume", "--lr", 1)
    assert refused.code == 2
    assert "--lr is 1.0, and the run began with" in refused.err


def curve(path):
    return [(line["step"], line["loss"]) for line in read_history(path) if "loss" in line]
