from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from icclip.config import DatasetConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import GateError, TrainingStoppedError
from icclip.runs.baseline import BASELINE
from icclip.runs.directory import RunDirectory
from icclip.runs.history import GAIN, HISTORY, evaluations, evaluations_in, gains, read_history
from icclip.training.result import TrainResult
from icclip.training.run import train
from icclip.training.step import trainer
from icclip.training.step.guards import collapsed, has_given_up


@pytest.fixture
def trained(config, registry, quiet, data, tmp_path):
    """A model that has learnt its 16 pictures, to be ruined; they are all of its splits."""
    (splits := tmp_path / "splits").mkdir()
    for split in ("train", "validation", "test"):
        (splits / f"{split}.parquet").write_bytes((data / "train.parquet").read_bytes())
    same = dataclasses.replace(config, data=DatasetConfig(name="hub", path=str(splits)), train_bs=8)
    folder = tmp_path / "trained"
    train(dataclasses.replace(same, output_dir=folder, epochs=30, lr=3e-3, eval_every=30), registry, quiet)
    return dataclasses.replace(same, model=ModelConfig(name=str(folder)), epochs=6, warmup_ratio=0)


@pytest.fixture
def ruined(trained):
    return dataclasses.replace(trained, lr=0.3)


def history(*rsums):
    return {step: {"rsum": rsum} for step, rsum in enumerate(rsums)}


@pytest.mark.parametrize(
    ("rsums", "patience", "expected"),
    [
        ((5, 4, 4, 4), 3, True),
        ((5, 4, 4), 3, False),
        ((5, 4, 6, 4, 4), 3, False),
        ((5, 6, 4, 4, 4), 3, True),
        ((5, 5, 5, 5), 3, False),
        ((5, 4), 1, True),
        ((5,), 1, False),
        ((), 1, False),
    ],
)
def test_patience(rsums, patience, expected):
    assert has_given_up(history(*rsums), patience) is expected


def test_a_run_that_gets_worse_is_stopped_and_keeps_its_best(ruined, registry, capsys):
    result = train(dataclasses.replace(ruined, patience=2), registry, Reporter())
    measured = evaluations(ruined.output_dir / "metrics.jsonl")
    assert list(measured) == [0, 2, 4], "stopped after two evaluations"
    assert measured[0]["rsum"] > 500
    said = capsys.readouterr().err
    assert f"step 4: the last 2 evaluations had an rsum below the {measured[0]['rsum']:.1f} of step 0" in said
    assert result.best["rsum"] == max(measured[2]["rsum"], measured[4]["rsum"])
    with pytest.raises(
        GateError, match=r"did not improve the model: .* from step [24], has an rsum of .* and step 0 had"
    ):
        result.verdict()
    assert json.loads((ruined.output_dir / "icclip.json").read_text())["status"] == "complete"


def test_a_stopped_run_is_over_until_it_is_given_more_patience(ruined, registry, quiet):
    first = train(dataclasses.replace(ruined, patience=1), registry, quiet)
    record = ruined.output_dir / "icclip.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "running"}))
    again = train(dataclasses.replace(ruined, patience=1, resume=True), registry, quiet)
    assert (first.steps, again.steps) == (2, 2)
    assert again.test == first.test
    assert train(dataclasses.replace(ruined, patience=2, resume=True), registry, quiet).steps == 4


def test_the_guard_can_be_switched_off(ruined, registry, capsys):
    result = train(dataclasses.replace(ruined, guard="off", patience=1), registry, Reporter())
    assert result.steps == 12
    said = capsys.readouterr().err
    assert "collapse" not in said
    assert "patience" not in said


@pytest.mark.slow
def test_exit_codes(icclip, ruined, tmp_path):
    data = ruined.data.path
    options = [
        "train", "--model", ruined.model.name, "--dataset", data, "--epochs", "2", "--train-bs", "8",
        "--device", "cpu", "--workers", "0", "--report-to", "none", "--lr", "0.3", "--warmup-ratio", "0",
    ]  # fmt: skip
    harmful = icclip(*options, "--output-dir", tmp_path / "harmful", "--json")
    assert harmful.code == 3
    assert json.loads(harmful.out)["best_step"] in {2, 4}
    assert "error: training did not improve the model" in harmful.err
    for name in ("model.safetensors", "test_metric.json", "README.md"):
        assert (tmp_path / "harmful" / name).exists()
    # What it says the first time it says again.
    assert icclip(*options, "--output-dir", tmp_path / "harmful", "--resume").code == 3
    assert icclip(*options, "--output-dir", tmp_path / "accepted", "--guard", "off").code == 0


# Evidence ----------------------------------------------------------------------------------------


def outcome(before, after, low, high, **options):
    gain = {"rsum_gain": after - before, "rsum_gain_low": low, "rsum_gain_high": high} if low is not None else {}
    return TrainResult(
        output_dir="runs/mine", steps=9, best_step=6, baseline={"rsum": before}, best={"rsum": after}, test={}, seconds=1.0,
        gain=gain, **options,
    )  # fmt: skip


def test_what_chance_could_have_made_is_no_evidence():
    with pytest.raises(GateError) as error:
        outcome(12.0, 13.8, -2.04, 5.6).verdict()
    assert str(error.value) == (
        "there is no evidence that training improved the model: its best checkpoint, from step 6, has an rsum of 13.8 on "
        "the validation split and step 0 had 12.0, but the 95 % interval of the difference, -2.0 to +5.6, includes 0; "
        "runs/mine keeps it anyway; train longer, give a larger validation split, or accept the result with --guard off"
    )
    outcome(12.0, 13.8, 0.2, 3.4).verdict()
    outcome(12.0, 13.8, None, None).verdict()
    outcome(12.0, 13.8, -2.04, 5.6, guarded=False).verdict()


def test_a_run_compares_each_measurement_with_step_0_image_by_image(config, registry, capsys):
    result = train(config, registry, Reporter())
    lines = [line for line in read_history(config.output_dir / HISTORY) if "eval_rsum" in line]
    assert GAIN[0] not in {name.removeprefix("eval_") for name in lines[0]}
    for line in lines[1:]:
        gain, low, high = (line[f"eval_{name}"] for name in GAIN)
        assert gain == pytest.approx(line["eval_rsum"] - lines[0]["eval_rsum"])
        assert low <= gain <= high
    assert f"({gain:+.1f}, 95 % {low:+.1f} to {high:+.1f})" in capsys.readouterr().err
    assert result.gain == gains(config.output_dir / HISTORY)[result.best_step]
    assert result.gain == TrainResult.of_complete_run(RunDirectory.open(config.output_dir)).gain
    assert not set(GAIN) & set(json.loads((config.output_dir / "validation_metric.json").read_text()))


def test_the_loss_is_shown_between_measurements(config, registry, capsys):
    train(config, registry, Reporter())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    between = [line for line in lines if "rsum" not in line]
    assert {"1", "2", "3", "5", "6", "7"} <= {line.split()[1].partition("/")[0] for line in between}
    assert all("  loss " in line and "  lr " in line and line.endswith(" images/s") for line in between)


def test_a_resumed_run_is_compared_with_the_same_step_0(config, registry, quiet):
    whole = train(config, registry, quiet)
    steps = list(gains(config.output_dir / HISTORY))
    shutil.rmtree(config.output_dir / f"checkpoint-{steps[-1]}")
    record = config.output_dir / "icclip.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "running"}))
    train(dataclasses.replace(config, resume=True), registry, quiet)
    again = gains(config.output_dir / HISTORY)
    assert list(again) == steps
    assert whole.gain == again[whole.best_step]


def test_an_overwritten_run_begins_with_a_step_0_of_its_own(config, registry, quiet):
    train(config, registry, quiet)
    first = (config.output_dir / BASELINE).stat().st_mtime_ns
    train(dataclasses.replace(config, overwrite=True), registry, quiet)
    assert (config.output_dir / BASELINE).stat().st_mtime_ns > first


# Collapse ----------------------------------------------------------------------------------------


def numbers(variance, scale=3.0):
    return {
        "image_variance": variance, "text_variance": 0.5, "image_uniformity": -1.0, "text_uniformity": -1.0,
        "logit_scale": scale,
    }  # fmt: skip


def test_a_collapse_is_told_with_its_numbers():
    assert collapsed({0: numbers(0.4), 4: numbers(0.041)}) == ""
    assert collapsed({0: numbers(0.4), 4: numbers(0.039)}) == (
        "the image embeddings collapse (image_variance 0.4 -> 0.039, image_uniformity -1 -> -1, "
        "text_variance 0.5 -> 0.5, text_uniformity -1 -> -1, logit_scale 3 -> 3)"
    )
    assert collapsed({0: numbers(0.4), 4: numbers(0.4, 2.3)}).startswith("the temperature falls (")
    assert collapsed({0: numbers(0.4), 4: numbers(0.4, 2.4)}) == ""
    assert collapsed({4: numbers(0.0)}) == ""


def test_a_collapsing_model_is_warned_of(ruined, registry, capsys):
    train(dataclasses.replace(ruined, epochs=2), registry, Reporter())
    measured = evaluations_in(read_history(ruined.output_dir / "metrics.jsonl"))
    assert measured[4]["image_variance"] < 0.1 * measured[0]["image_variance"]
    assert f"warning: step 4: {collapsed(measured)}: try a smaller --lr" in capsys.readouterr().err


def test_a_collapse_is_judged_after_the_warm_up(ruined, registry, capsys):
    """While the rate rises, a model draws everything together; the whole run is a warm-up here."""
    train(dataclasses.replace(ruined, epochs=2, warmup_ratio=1.0), registry, Reporter())
    measured = evaluations_in(read_history(ruined.output_dir / "metrics.jsonl"))
    assert collapsed(measured)
    assert "embeddings collapse" not in capsys.readouterr().err


# Not finite --------------------------------------------------------------------------------------


def test_a_nonfinite_gradient_stops_and_is_named(config, registry, quiet, monkeypatch):
    step = trainer.ContrastiveTrainer.training_step

    def poisoned(self, model, *args, **kwargs):
        loss = step(self, model, *args, **kwargs)
        if self.state.global_step + 1 == 6:
            self.loaded.model.visual_projection.weight.grad[0, 0] = torch.inf
        return loss

    monkeypatch.setattr(trainer.ContrastiveTrainer, "training_step", poisoned)
    with pytest.raises(TrainingStoppedError, match=r"non-finite gradient at step 6 \(lr .*intact"):
        train(dataclasses.replace(config, logging_steps=50), registry, quiet)
    assert [path.name for path in config.output_dir.glob("checkpoint-*")] == ["checkpoint-4"]
