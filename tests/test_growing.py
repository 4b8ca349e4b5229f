"""A new option, dataset, backend, metric, target, precision or subcommand needs just the edits that the page on the house lists.

Each test copies the sources, makes these edits and nothing else, and asks the copy in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/pages/explanations/house.md"
REGISTRY = "icclip/plugins/registry.py"
NEW = ""
"""In the place of what an edit replaces: the file is new."""

PLUGIN = '''"""A new plugin."""
from icclip import hookimpl
from icclip.plugins import {spec}
{code}
@hookimpl
def {hook}():
    """Offer it."""
    return [{made}]
'''
DATASET = PLUGIN.format(
    spec="DatasetSpec",
    hook="icclip_datasets",
    made='DatasetSpec(name="dots", summary="drawn dots", load=load, requires=("datasets",))',
    code="""
def load(config):
    from datasets import Dataset, DatasetDict, Features, Image, List, Value
    from PIL import Image as Pillow
    rows = {"image": [Pillow.new("RGB", (8, 8), (n, 0, 0)) for n in range(4)], "captions": [[f"dot {n}"] for n in range(4)]}
    features = Features({"image": Image(), "captions": List(Value("string"))})
    return DatasetDict(train=Dataset.from_dict(rows, features=features))
""",
)
METRIC = PLUGIN.format(
    spec="MetricSpec",
    hook="icclip_metrics",
    made='MetricSpec(name="half", summary="always a half", compute=lambda ranks: {"half": 0.5})',
    code="",
)
BACKEND = PLUGIN.format(
    spec="BackendSpec",
    hook="icclip_model_backends",
    made='replace(clip.icclip_model_backends()[0], name="clop", model_types=("clop",), presets=())',
    code="""from dataclasses import replace
from icclip_plugins.backends import clip
""",
)
PRECISION = """from dataclasses import replace
from icclip_export.precisions.fp32 import PRECISION as FP32
PRECISION = replace(FP32, name="fp31", suffix="_fp31")
"""
TARGET = """        ExportTargetSpec(
            name="paper", summary="on paper", precisions=("fp32",), export=export_onnx,
            recognises=lambda path: False, open=open_onnx, requires=(),
        ),
"""
COMMAND = '''"""`icclip count`."""
from icclip.commands.declared import Json, with_options
from icclip.config import QuickstartConfig
@with_options(QuickstartConfig)
def count(said, *, json: Json = False) -> None:
    """Count."""
    print(sorted(said.items()))
'''
EDITS = {
    "training option": [
        (
            "icclip/config/training.py",
            "    seed: int = option(",
            '    zeal: int = option("How eager it is.", 3, at_least=1)\n',
        ),
    ],
    "dataset": [
        ("plugins/icclip_plugins/datasets/dots.py", NEW, DATASET),
        (REGISTRY, '    "icclip_plugins.datasets.shapes",', '    "icclip_plugins.datasets.dots",\n'),
    ],
    "backend": [
        ("plugins/icclip_plugins/backends/clop.py", NEW, BACKEND),
        (REGISTRY, '    "icclip_plugins.backends.clip",', '    "icclip_plugins.backends.clop",\n'),
    ],
    "metric": [
        ("plugins/icclip_plugins/metrics/half.py", NEW, METRIC),
        (REGISTRY, '    "icclip_plugins.metrics.ranking",', '    "icclip_plugins.metrics.half",\n'),
    ],
    "export target": [
        (
            "export/icclip_export/plugin.py",
            '        ExportTargetSpec(\n            name="tensorrt",',
            TARGET,
        ),
    ],
    "precision": [
        (
            "export/icclip_export/precisions/fp31.py",
            NEW,
            PRECISION,
        ),
        ("export/icclip_export/precisions/__init__.py", 'NAMES = ("fp32", ', 'NAMES = ("fp31", "fp32", '),
    ],
    "subcommand": [
        ("icclip/commands/count.py", NEW, COMMAND),
        ("icclip/cli.py", "from icclip.commands import config as", "from icclip.commands import count\n"),
        ("icclip/cli.py", 'app.command("train"', 'app.command("count", cls=Command)(count.count)\n'),
    ],
}
"""What is added -> (file, text that the addition comes before or replaces, addition)."""


@pytest.fixture
def grown(tmp_path):
    """Make the edits for a kind of thing in a copy; returns what runs Python code or the command line there."""

    def grow(kind):
        for package in ("icclip", "plugins/icclip_plugins", "export/icclip_export"):
            shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name, anchor, addition in EDITS[kind]:
            path = tmp_path / name
            assert path.exists() is (anchor != NEW)
            text = path.read_text() if anchor else ""
            assert text.count(anchor) == 1 or not anchor
            replaced = addition.startswith(anchor.split("(")[0]) and "NAMES" in anchor
            path.write_text(text.replace(anchor, addition if replaced else addition + anchor) if anchor else addition)
        roots = os.pathsep.join(str(tmp_path / folder) for folder in (".", "plugins", "export"))
        environment = {**os.environ, "PYTHONPATH": roots, "ICCLIP_LOAD_PLUGINS": "", "COLUMNS": "200"}

        def run(*arguments):
            command = [sys.executable, *(("-m", "icclip") if arguments[0] != "-c" else ()), *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout + done.stderr

        return run

    return grow


def listed(run, kind, name):
    rows = json.loads(run("plugins", "list", "--json")[1])["plugins"]
    return [row["status"] for row in rows if (row["kind"], row["name"]) == (kind, name)] == ["ok"]


def test_a_training_option(grown):
    run = grown("training option")
    assert re.search(r"--zeal +N +How eager it is\. \[default: 3\]", run("train", "--help")[1])
    shown = run("config", "show", "--model", "clip-tiny", "--dataset", "shapes", "--zeal", "7")[1]
    assert "# How eager it is.\nzeal = 7" in shown
    code, said = run("config", "show", "--model", "clip-tiny", "--dataset", "shapes", "--zeal", "0")
    assert (code, said) == (2, "error: --zeal is 0: it must be at least 1\n")
    reference = run("-c", "from icclip.reference import markdown_reference; print(markdown_reference())")[1]
    assert "| `--zeal` | N | 3 | How eager it is. |" in reference


@pytest.mark.parametrize(
    ("kind", "name"), [("dataset", "dots"), ("backend", "clop"), ("metric", "half"), ("export target", "paper")]
)
def test_what_a_plugin_offers(grown, kind, name):
    run = grown(kind)
    assert listed(run, kind, name)
    if kind in ("dataset", "metric"):
        code, said = run("plugins", "check", name)
        assert code == 0, said


def test_a_precision(grown):
    run = grown("precision")
    look = "from icclip_export.plugin import icclip_export_targets as t; print(t()[0].precisions)"
    assert "fp31" in run("-c", look)[1]
    name = "from icclip_export.precisions import graph_name; print(graph_name('vision', 'fp31'))"
    assert run("-c", name)[1] == "onnx/vision_model_fp31.onnx\n"


def test_a_subcommand(grown):
    run = grown("subcommand")
    assert run("count", "--epochs", "3") == (0, "[('epochs', 3)]\n")
    assert "--json" in run("count", "--help")[1]


def test_the_page_counts_these_edits():
    rows = re.findall(r"^\| ([a-z ]+) \|.*\| (\d+) \|$", PAGE.read_text().split("## What is measured")[0], re.MULTILINE)
    assert {name: int(count) for name, count in rows} == {kind: len(edits) for kind, edits in EDITS.items()}
