"""An option is declared once: what follows from its declaration, and from those of our own configs."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

from icclip.commands import completion
from icclip.commands.completion import completions
from icclip.commands.declared import Command, with_options
from icclip.config.base import Config
from icclip.config.declare import BATCH, SCHEDULE, fields_that, help_by_path, nested, option, replaced
from icclip.config.toml import toml
from icclip.reference import commands, markdown_reference, options_of, rows

SHAPES = ("--model", "clip-tiny", "--dataset", "shapes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Config):
    seed: int = option("Seed of the inner thing.", 1, at_least=0)
    depth: int = option("How deep it goes.", 3, flags=("--depth", "--levels"), panel=BATCH, at_least=1, at_most=9)
    hidden: int = option("What is not offered.", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Config):
    inner: Inner = nested(Inner, leave_out=("hidden",), resume="fixed")
    seed: int = option("Seed of everything.", 1, at_least=0)
    kind: Literal["a", "b"] = option("Which kind to make.", "a", panel=SCHEDULE, switches=("a", "b"))
    names: tuple[str, ...] = option("Names to use.", (), separated=True)
    output: Path | None = option("File to write.", None, unset="nothing is written", resume="free")
    lots: int | None = option("The option that was just added.", None, panel=SCHEDULE, metavar="N", at_least=2,
                              replaces=("num_lots",))  # fmt: skip

    def problems(self):
        return ["{lots} must not be {kind}"] if self.lots == 5 else []


@pytest.fixture
def sample():
    app, seen = typer.Typer(), []

    @app.command(cls=Command)
    @with_options(Sample, first=("--lots",))
    def command(said, *, shout: bool = False) -> None:
        """A command."""
        seen.append((said, shout, Sample.from_mapping(said)))

    def run(*arguments):
        outcome = CliRunner().invoke(app, list(arguments), terminal_width=120)
        return outcome, seen

    run.command = typer.main.get_command(app)
    return run


def test_a_new_option_is_in_the_help_the_toml_file_and_the_reference(sample):
    shown = sample("--help")[0].output
    assert "The option that was just added." in shown
    assert shown.index("--lots") < shown.index("--kind") < shown.index("--depth")
    assert "[default: nothing is written]" in shown
    text = toml(Sample().to_mapping(), help_by_path(Sample))
    assert "# The option that was just added.\n# lots = (not set)\n" in text
    assert "# How deep it goes.\ndepth = 3\n" in text
    assert Sample.from_mapping(tomllib.loads(text)) == Sample()
    (row,) = (row for row in rows(sample.command) if row.flags == ("--lots",))
    assert (row.type, row.default, row.help) == ("N", "", "The option that was just added.")
    assert fields_that(Sample, "free") == ("output",)
    assert fields_that(Sample, "fixed") == ("inner",)
    assert replaced(Sample) == {"num_lots": "use --lots"}


def test_what_is_given_reaches_the_fields_and_what_is_not_given_is_left_out(sample):
    _, seen = sample("--seed", "7", "--levels", "4", "--b", "--names", "x,y", "--names", "z", "--shout")
    ((said, shout, config),) = seen
    assert said == {"seed": 7, "inner": {"seed": 7, "depth": 4}, "kind": "b", "names": ["x", "y", "z"]}
    assert shout
    assert (config.seed, config.inner.seed, config.inner.depth, config.names) == (7, 7, 4, ("x", "y", "z"))
    assert sample("--names", "none")[1][-1][0] == {"names": []}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lots", "1"], "--lots is 1: it must be at least 2"),
        (["--levels", "0"], "--levels is 0: it must be at least 1 and at most 9"),
        (["--depth=10"], "--depth is 10: it must be at least 1 and at most 9"),
        (["--seed", "-1"], "--seed is -1: it must be at least 0"),
        (["--lots", "5"], "--lots must not be --kind"),
        (["--lots", "5", "--b"], "--lots must not be --b"),
        (["--kind", "a", "--b"], "--kind and --b exclude each other: choose one"),
        (["--a", "--b"], "--a and --b exclude each other: choose one"),
    ],
)
def test_a_message_names_the_flag_that_was_typed(sample, arguments, message):
    assert str(sample(*arguments)[0].exception) == message


def test_a_message_about_a_file_names_its_key(icclip, tmp_path):
    (file := tmp_path / "run.toml").write_text("train_bs = 1\n")
    said = icclip("config", "show", *SHAPES, "--config", file).err
    assert said == "error: train_bs is 1: it must be at least 2, since a pair alone has no negatives\n"
    for flag in ("--train-bs", "--batch-size", "--train_bs"):
        assert (
            icclip("train", *SHAPES, flag, "1").err
            == f"error: {flag} is 1: it must be at least 2, since a pair alone has no negatives\n"
        )
    file.write_text("train_bs = 8\n")
    said = icclip("config", "show", *SHAPES, "--config", file, "--micro-batch", 9).err
    assert said == "error: --micro-batch is 9: it must be at most --train-bs, which is 8\n"


def test_the_help_of_a_run_is_in_its_file(icclip):
    shown = icclip("config", "show", *SHAPES).out
    assert "# Peak learning rate.\nlr = " in shown
    assert "# Share of the images that icclip sets aside" in shown


def test_commands_that_open_an_encoder_take_the_same_options():
    flags = {name: {flag for row in options_of(name) for flag in row.flags} for name in commands()}
    encoder = {"--revision", "--device", "--workers", "--trust-remote-code", "--precision", "--fp16"}
    data = {
        "--dataset", "--dataset-revision", "--image-column", "--caption-column", "--val-fraction", "--split-seed",
        "--on-bad-image", "--allow-outside-root",
    }  # fmt: skip
    for name in ("eval", "embed", "export", "blend", "train"):
        assert encoder | data <= flags[name], name
    assert data | {"--precision", "--provider", "--threads"} <= flags["verify"]
    for name in ("eval", "embed"):
        assert {"--provider", "--threads", "--bf16", "--batch-size", "--eval-bs"} <= flags[name]


@pytest.mark.parametrize("command", ["export", "blend"])
def test_a_missing_option_is_named(icclip, tmp_path, command):
    outcome = icclip(command, tmp_path)
    assert outcome.code == 2
    assert "--output-dir" in outcome.err


def test_every_command_that_prints_a_result_can_print_json():
    # A service prints nothing: it runs until it is stopped.
    quiet = [name for name in commands() if not any("--json" in row.flags for row in options_of(name))]
    assert quiet == ["serve"]


def test_every_help_text_is_a_sentence():
    texts = {row.help for name in commands() for row in options_of(name)}
    assert [text for text in texts if not text or not text[0].isupper() or text[-1] not in ".)"] == []


def test_the_reference_has_every_command_and_every_flag():
    page = markdown_reference()
    for name in commands():
        assert f"## icclip {name}\n" in page
        for row in options_of(name):
            assert f"`{row.flags[0]}`" in page
    assert "| `--train-bs`, `--batch-size` | N | 64 | Images per process and step" in page
    with pytest.raises(KeyError):
        options_of("no-command")


def test_completion_knows_the_names_and_the_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("ICCLIP_LOAD_PLUGINS", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shots").mkdir()
    (tmp_path / ".hidden").touch()
    assert completions("dataset", "sh") == ["shapes", "shots/"]
    assert completions("model", "clip") == ["clip-tiny"]
    assert completions("split", "") == ["test", "train", "validation"]
    assert "onnx" in completions("target", "")
    assert {"clip", "siglip"} <= set(completions("backend", ""))
    assert "fp16" in completions("precision", "f")
    assert completions("file", "shots/") == []
    assert completions("file", "no-such/") == []


def test_completion_survives_a_plugin_that_does_not(monkeypatch):
    def broken(_):
        raise RuntimeError("from a plugin")

    monkeypatch.setitem(completion.KINDS, "metric", broken)
    assert completions("metric", "") == []


def test_the_shell_is_answered(monkeypatch, icclip):
    monkeypatch.setenv("_ICCLIP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "icclip eval --split va")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert icclip().out.split() == ["validation"]
