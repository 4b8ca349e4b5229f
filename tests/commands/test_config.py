from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.main import get_group

from icclip.cli import app
from icclip.config import TrainConfig

SHAPES = ("--model", "clip-tiny", "--dataset", "shapes")


def parameters(*path):
    command = get_group(app)
    for name in path:
        command = command.commands[name]
    return {name for parameter in command.params for name in parameter.opts}


def test_show_takes_the_options_of_train():
    assert parameters("config", "show") == parameters("train") | {"run"}


def test_what_is_shown_is_a_file_that_says_the_same(icclip, tmp_path):
    shown = icclip("config", "show", *SHAPES, "--lr", "0.5", "--freeze", "vision", "--set", "max_grad_norm=2")
    assert shown.code == 0
    values = tomllib.loads(shown.out)
    assert (values["lr"], values["gentle"]["freeze"], values["training_args"]) == (
        0.5,
        "vision",
        {"max_grad_norm": "2"},
    )
    assert "# max_steps = (not set)" in shown.out
    (file := tmp_path / "run.toml").write_text(shown.out)
    again = icclip("config", "show", "--config", file, "--json")
    config = TrainConfig.from_mapping(json.loads(again.out))
    assert config == TrainConfig.from_mapping(values)
    assert set(json.loads(again.out)) == set(TrainConfig.__dataclass_fields__)
    assert icclip("config", "show", "--config", file).out == shown.out


def test_a_run_directory_is_shown_with_what_the_options_change(icclip, tmp_path):
    values = json.loads(icclip("config", "show", *SHAPES, "--epochs", "7", "--json").out)
    (tmp_path / "icclip.json").write_text(json.dumps({"config": {**values, "resume": True}}))
    shown = json.loads(icclip("config", "show", tmp_path, "--lr", "0.5", "--json").out)
    assert shown == {**values, "lr": 0.5, "output_dir": str(tmp_path)}
    missing = icclip("config", "show", tmp_path / "none", "--json")
    assert (missing.code, missing.err.count("error: cannot read the configuration")) == (2, 1)


def test_check_says_all_that_is_wrong(icclip, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'epochz = 3\nlr = "fast"\ngrad_accum = 0\n[model]\nname = "clip-tinny"\n[data]\nname = "shape"\nseed = -1\n'
        "[training_args]\nmax_grad_nrm = 1\nlearning_rate = 1\n"
    )
    checked = icclip("config", "check", file)
    assert (checked.code, checked.out) == (2, "")
    said = [line.removeprefix("error: ").split(";")[0] for line in checked.err.splitlines()]
    assert said == [
        "unknown key 'epochz' (did you mean 'epochs'?)",
        "data.seed is -1: it must be at least 0",
        "lr is 'fast': expected float",
        "grad_accum is 0: it must be at least 1",
        "unknown model 'clip-tinny'",
        "unknown dataset 'shape'",
        "unknown training argument 'max_grad_nrm'",
        "--set learning_rate: use --lr",
    ]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["no model is named: give --model", "no data is named: give --dataset"]),
        (
            "lr = -1\n[model]\nname = 'clip-tiny'\n",
            ["no data is named: give --dataset", "lr is -1.0: it must be at least 0"],
        ),
        ("lr =\n", ["{file} is not valid TOML"]),
    ],
)
def test_check_of_what_is_missing(icclip, tmp_path, text, problems):
    (file := tmp_path / "run.toml").write_text(text)
    checked = icclip("config", "check", file)
    assert checked.code == 2
    lines = checked.err.splitlines()
    assert len(lines) == len(problems)
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(f"error: {problem.format(file=file)}")


def test_check_of_a_good_file(icclip, tmp_path):
    (file := tmp_path / "run.toml").write_text('[model]\nname = "owner/model"\n[data]\nname = "shapes"\n')
    checked = icclip("config", "check", file)
    assert (checked.code, checked.out.strip()) == (0, f"{file} is valid: it trains owner/model on shapes")
    answer = json.loads(icclip("config", "check", file, "--json").out)
    assert answer["ok"] is True
    assert answer["config"]["output_dir"] == str(Path("runs/model-shapes"))


@pytest.mark.slow
def test_a_run_is_repeated_to_the_bit(icclip, tmp_path):
    first = icclip(
        "train", *SHAPES, "--output-dir", tmp_path / "first", "--max-steps", 3, "--train-bs", 8, "--image-resize", 32,
        "--set", "max_grad_norm=0.5", "--device", "cpu", "--workers", 0, "--report-to", "none", "--guard", "off",
    )  # fmt: skip
    assert first.code == 0, first.err
    again = icclip("train", "--config", tmp_path / "first", "--output-dir", tmp_path / "again")
    assert again.code == 0, again.err
    shown = icclip("config", "show", "--config", tmp_path / "first" / "icclip.json")
    (file := tmp_path / "run.toml").write_text(shown.out)
    assert icclip("train", "--config", file, "--output-dir", tmp_path / "third").code == 0
    one, two, three = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("first", "again", "third"))
    assert one == two == three
