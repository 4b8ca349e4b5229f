from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from rich.text import Text

from icclip.cli import app

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "optimum",
    "onnxruntime",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "pandas",
    "pyarrow",
)


@pytest.mark.parametrize("module", ["icclip.cli", "icclip.plugins.registry"])
def test_starting_imports_nothing_heavy(module):
    code = (
        f"import sys, {module}; from icclip.plugins.registry import Registry; Registry(load_plugins=frozenset()).built_in;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_lists_the_commands_and_the_exit_codes(icclip):
    outcome = icclip("--help")
    assert outcome.code == 0
    for word in ("train", "eval", "plugins", "Exit codes: 0 ok"):
        assert word in outcome.out


def test_no_default_is_taken_for_a_style_in_the_help():
    """Rich drops `[fp32]`: before a letter the bracket has to be escaped."""
    commands = typer.main.get_group(app).commands.values()
    helps = [text for command in commands for own in command.params if (text := getattr(own, "help", None))]
    assert helps
    assert [text for text in helps if Text.from_markup(text).plain != text.replace("\\[", "[")] == []


def test_unknown_command_suggests_the_nearest(icclip):
    outcome = icclip("trian")
    assert outcome.code == 2
    assert "Did you mean 'train'?" in outcome.err


def test_version(icclip):
    from icclip import __version__

    assert icclip("--version").out.strip() == f"icclip {__version__}"


@pytest.mark.parametrize("command", [[], ["data"], ["cache", "clear"], ["plugins", "check"], ["doctor"], ["train"]])
def test_a_switch_shows_no_placeholder_for_a_value(icclip, command):
    shown = icclip(*command, "--help")
    assert shown.code == 0
    assert "--help" in shown.out
    assert "<bool>" not in shown.out
