from __future__ import annotations

import json
from pathlib import Path

import pytest

from icclip.config import DatasetConfig, EncoderConfig, EvalConfig, ModelConfig, TrainConfig, overlaid, read_toml
from icclip.errors import ConfigError, UsageError

GOOD = {"model": {"name": "clip-tiny"}, "data": {"name": "shapes"}, "output_dir": "runs/x"}


def problems(values, config=TrainConfig) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        config.from_mapping(values)
    return caught.value.problems


def test_plain_values_become_typed_ones():
    config = TrainConfig.from_mapping({**GOOD, "lr": 1, "report_to": ["wandb"], "training_args": {"a": 1}})
    assert config.model == ModelConfig(name="clip-tiny")
    assert config.output_dir == Path("runs/x")
    assert isinstance(config.lr, float)
    assert config.report_to == ("wandb",)
    assert config.training_args == {"a": 1}


def test_a_config_is_taken_as_it_is():
    data = DatasetConfig(name="shapes")
    assert TrainConfig.from_mapping({**GOOD, "data": data}).data is data


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig.from_mapping({**GOOD, "epochs": 2, "data": {"name": "flickr8k", "path": "p", "seed": 3}}),
        EvalConfig(
            encoder=EncoderConfig(checkpoint="runs/x"), data=DatasetConfig(name="shapes"), output_dir=Path("out")
        ),
    ],
)
def test_round_trip_through_json(config):
    assert type(config).from_mapping(json.loads(json.dumps(config.to_mapping()))) == config


def test_all_problems_at_once():
    found = problems(
        {
            "model": {"name": "m", "image_resize": 3},
            "data": {"nam": "shapes"},
            "epoch": 3,
            "lr": "fast",
            "precision": "fp8",
            "grad_ckpt": 1,
            "train_bs": True,
        }
    )
    assert set(found) == {
        "unknown key 'epoch' (did you mean 'epochs'?)",
        "model.image_resize is 3: it must be at least 16",
        "unknown key 'data.nam' (did you mean 'name'?)",
        "missing 'data.name'",
        "missing 'output_dir'",
        "lr is 'fast': expected float",
        "precision is 'fp8': choose one of 'fp32', 'fp16', 'bf16'",
        "grad_ckpt is 1: expected bool",
        "train_bs is True: expected int",
    }


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"epochs": 0}, "epochs is 0: it must be at least 1"),
        ({"train_bs": 1}, "train_bs is 1: it must be at least 2"),
        ({"lr": -1.0}, "lr is -1.0: it must be at least 0"),
        ({"max_steps": 0}, "max_steps is 0: it must be at least 1"),
        ({"warmup_ratio": 1}, "warmup_ratio is 1.0: it must be at least 0 and below 1"),
        ({"overwrite": True, "resume": True}, "overwrite and resume exclude each other: choose one"),
        (
            {"data": {"name": "shapes", "streaming": True}},
            "streaming data has no known length: give --max-steps",
        ),
        (
            {"data": {"name": "shapes", "streaming": True}, "max_steps": 1, "cache_images": "on"},
            "streaming data cannot be cached: leave out --cache-images",
        ),
        (
            {"data": {"name": "shapes", "streaming": True}, "max_steps": 1, "near_duplicates": 2},
            "images of streaming data cannot be compared: leave out --near-duplicates",
        ),
        ({"near_duplicates": 17}, "near_duplicates is 17: it must be at least 0 and at most 16"),
        (
            {"near_duplicates": 1, "data": {"name": "shapes", "relevance": "pair"}},
            "near_duplicates has no effect where a caption is right only for its own image: leave it out",
        ),
        (
            {"near_duplicates": 1, "duplicates": "off"},
            "near_duplicates has no effect when duplicates is 'off': leave out one",
        ),
        (
            {"augment": "light", "cache_images": "on"},
            "augmentation needs whole images, and the cache keeps resized ones: leave out --augment or --cache-images",
        ),
        (
            {"data": {"name": "shapes", "val_fraction": 0.5}},
            "data.val_fraction is 0.5: it must be above 0 and below 0.5",
        ),
        ({"data": {"name": "shapes", "seed": -1}}, "data.seed is -1: it must be at least 0"),
        ({"data": "shapes"}, "data must be a table"),
        ({"gentle": {"layer_decay": 0}}, "gentle.layer_decay is 0.0: it must be above 0 and at most 1"),
        ({"gentle": {"ema": 1}}, "gentle.ema is 1.0: it must be above 0 and below 1"),
        ({"gentle": {"freeze": "none"}}, "gentle.freeze is 'none': choose one of 'vision', 'text', 'both'"),
        ({"gentle": {"freeze_blocks": -1}}, "gentle.freeze_blocks is -1: it must be at least 0"),
        ({"lora": {"rank": 0}}, "lora.rank is 0: it must be at least 1"),
        ({"lora": {"rank": 1, "alpha": 0}}, "lora.alpha is 0.0: it must be above 0"),
        ({"lora": {"rank": 1, "dropout": 1}}, "lora.dropout is 1.0: it must be at least 0 and below 1"),
        ({"lora": {"alpha": 1}}, "lora.rank is missing: give --lora-rank with the other options of adapters"),
        (
            {"data": {"name": "shapes", "streaming": True}, "max_steps": 1, "captions": "all"},
            "captions is 'all', which streaming data does not offer: choose random or round-robin",
        ),
        ({"training_args": 3}, "training_args is 3: expected Mapping"),
    ],
)
def test_one_problem(values, problem):
    (found,) = problems({**GOOD, **values})
    assert found.startswith(problem)


def test_a_wrong_type_hides_no_value_out_of_range():
    assert problems({**GOOD, "lr": "fast", "epochs": 0}) == (
        "lr is 'fast': expected float",
        "epochs is 0: it must be at least 1",
    )


def test_no_problem_where_a_limit_is_met():
    assert TrainConfig.from_mapping({**GOOD, "data": {"name": "s", "streaming": True}, "max_steps": 1}).max_steps == 1


def test_label_is_what_the_user_writes():
    assert DatasetConfig(name="shapes").label == "shapes"
    assert DatasetConfig(name="flickr8k", path="d").label == "flickr8k@d"


def test_merged_later_layers_win_and_none_never_does():
    first = {"a": 1, "t": {"x": 1, "y": 2}, "u": {"z": None}}
    second = {"a": None, "t": {"x": 3, "y": None}, "b": 2}
    assert overlaid(first, second) == {"a": 1, "t": {"x": 3, "y": 2}, "u": {}, "b": 2}
    assert first["t"] == {"x": 1, "y": 2}


def test_read_toml(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('epochs = 2\n[data]\nname = "shapes"\n')
    assert read_toml(file) == {"epochs": 2, "data": {"name": "shapes"}}


def test_read_toml_names_the_line(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("epochs = 2\nlr =\n")
    with pytest.raises(UsageError, match=r"run\.toml is not valid TOML: .*line 2"):
        read_toml(file)


def test_read_toml_missing_or_not_text(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the configuration .*none\.toml: No such file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not valid TOML"):
        read_toml(tmp_path / "bytes.toml")
