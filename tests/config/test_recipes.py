from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from icclip.cli import app
from icclip.config import TrainConfig
from icclip.config.recipes import RECIPES, recipe_options, told
from icclip.errors import ConfigError
from icclip.plugins.registry import Registry
from icclip.training.request import asked


def request(said, file=None):
    values = {"model": {"name": "clip-tiny"}, "data": {"name": "shapes"}, **said}
    return asked(Registry(load_plugins=frozenset()), values, file)


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_is_made_of_options(name):
    needed = {"model": {"name": "clip-tiny"}, "data": {"name": "shapes"}, "output_dir": "run"}
    TrainConfig.from_mapping({**needed, "recipe": name, **recipe_options(name)})
    assert recipe_options(name)
    assert told(name).startswith(f"{name}: ")


def test_a_recipe_wins_over_the_preset_and_options_win_over_the_recipe():
    options = recipe_options("gentle")
    config = request({"recipe": "gentle", "lr": 3e-3})
    assert config.recipe == "gentle"
    assert config.epochs == options["epochs"]
    assert config.gentle.freeze == options["gentle"]["freeze"] == "vision"
    assert config.lr == 3e-3


def test_what_a_file_says_wins_over_its_recipe(tmp_path):
    (file := tmp_path / "run.toml").write_text(
        'recipe = "gentle"\ntrain_bs = 7\nmicro_batch = 7\n[gentle]\nlayer_decay = 0.5\n'
    )
    config = request({}, file)
    assert (config.train_bs, config.gentle.layer_decay) == (7, 0.5)
    assert config.gentle.freeze == "vision"


def test_without_a_recipe_nothing_changes():
    assert request({}).recipe is None
    assert request({}).gentle.freeze is None


def test_an_unknown_recipe_is_one_line(tmp_path):
    (file := tmp_path / "run.toml").write_text('recipe = "quick"\n')
    with pytest.raises(ConfigError, match="recipe is 'quick': choose one of 'gentle'"):
        request({}, file)
    done = CliRunner().invoke(app, ["train", "-m", "clip-tiny", "-d", "shapes", "--recipe", "quick"])
    assert done.exit_code == 2


def test_the_header_and_the_record_name_the_recipe(tmp_path):
    """A run of one step, on a preset."""
    pytest.importorskip("torch")
    from icclip.console import Reporter
    from icclip.training.run import train

    said = {"recipe": "gentle", "train_bs": 4, "micro_batch": 4, "max_steps": 1, "report_to": (), "workers": 0}
    config = request({**said, "output_dir": str(tmp_path / "run"), "guard": "off", "device": "cpu"})
    headers = []

    class Heard(Reporter):
        def header(self, lines):
            headers.append(lines)

    train(config, Registry(load_plugins=frozenset()), Heard(silent=True))
    assert headers[0]["recipe"] == told("gentle")
    assert json.loads((tmp_path / "run" / "icclip.json").read_text())["config"]["recipe"] == "gentle"
