"""Real little distributions that offer plugins: good ones, and one for every way to be broken."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hatchling.build import build_wheel

IMPORTS = "from icclip import hookimpl\nfrom icclip.plugins.specs import DatasetSpec, MetricSpec\n"


def dataset(name: str, **fields: object) -> str:
    """The source of a plugin module with one dataset."""
    extra = "".join(f", {key}={value!r}" for key, value in fields.items())
    return (
        f"{IMPORTS}\n@hookimpl\ndef icclip_datasets():\n"
        f"    return [DatasetSpec(name={name!r}, summary='for a test', load=dict{extra})]\n"
    )


def commands(body: str) -> str:
    return f"{IMPORTS}\n@hookimpl\ndef icclip_commands(app):\n    {body}\n"


@dataclass(frozen=True)
class Sample:
    """A distribution, and the row that `icclip plugins list` must show for it."""

    source: str
    status: str
    reason: str = ""
    """A part of it."""
    name: str = ""
    """Of the row; the plugin's own by default."""
    attribute: str = ""
    """What the entry point names inside the module."""


SAMPLES = {
    "good": Sample(dataset("apples"), "ok", name="apples"),
    "good_command": Sample(commands("app.command('greet')(lambda: print('hello'))"), "ok", name="greet"),
    "import_error": Sample("raise ImportError('boom')", "failed", "ImportError: boom"),
    "missing_module": Sample("import not_there", "failed", "No module named 'not_there'"),
    "syntax_error": Sample("def", "failed", "SyntaxError"),
    "system_exit": Sample("raise SystemExit('bye')", "failed", "SystemExit: bye"),
    "own_exception": Sample("class Stop(BaseException): ...\nraise Stop", "failed", "Stop"),
    "unprintable": Sample(
        "class Bad(Exception):\n    def __str__(self): raise ValueError\nraise Bad",
        "failed",
        "Bad: (its message cannot be printed)",
    ),
    "misspelled_hook": Sample(
        f"{IMPORTS}\n@hookimpl\ndef icclip_dataset(): return []", "failed", "unknown hook 'icclip_dataset'"
    ),
    "wrong_argument": Sample(
        f"{IMPORTS}\n@hookimpl\ndef icclip_datasets(config): return []", "failed", "Argument(s) {'config'}"
    ),
    "raising_hook": Sample(
        f"{IMPORTS}\n@hookimpl\ndef icclip_datasets(): raise KeyError('oops')",
        "failed",
        "icclip_datasets: KeyError: 'oops'",
    ),
    "exiting_hook": Sample(
        f"{IMPORTS}\n@hookimpl\ndef icclip_datasets(): raise SystemExit(3)", "failed", "icclip_datasets: SystemExit: 3"
    ),
    "wrong_type": Sample(
        f"{IMPORTS}\n@hookimpl\ndef icclip_datasets(): return {{}}",
        "failed",
        "icclip_datasets returned dict: return a list of DatasetSpec",
    ),
    "forgotten_return": Sample(
        f"{IMPORTS}\n@hookimpl\ndef icclip_datasets(): pass", "failed", "icclip_datasets returned NoneType"
    ),
    "wrong_item": Sample(
        f"{IMPORTS}\n@hookimpl\ndef icclip_metrics():\n"
        "    return ['mrr', MetricSpec(name='pears', summary='good', compute=len)]",
        "failed",
        "icclip_metrics returned a list with str",
    ),
    "wrong_field": Sample(dataset(3), "failed", "name is 3: expected text"),
    "wrong_name": Sample(dataset("No Good@all"), "failed", "name is 'No Good@all': use letters"),
    "twice": Sample(
        dataset("plums").replace("]\n", ", DatasetSpec(name='plums', summary='again', load=dict)]\n"),
        "failed",
        "it offers the dataset 'plums' twice: the first one is used",
    ),
    "wrapper": Sample(
        f"{IMPORTS}\n@hookimpl(wrapper=True)\ndef icclip_datasets(): return (yield)", "failed", "is a hook wrapper"
    ),
    "no_hook": Sample("pass", "failed", "it implements no hook"),
    "no_attribute": Sample("pass", "failed", "AttributeError", attribute="nothing"),
    "leads_to_none": Sample("plugin = None", "failed", "the entry point resolves to None", attribute="plugin"),
    "missing_extra": Sample(
        dataset("cherries", requires=("not_there",), install="pip install cherries"),
        "missing extra",
        "needs not_there: pip install cherries",
        name="cherries",
    ),
    "takes_shapes": Sample(
        dataset("shapes"), "duplicate", "the name is already taken by datasets.shapes (built in)", name="shapes"
    ),
    "twin_a": Sample(dataset("twins"), "duplicate", "also provided by twin_b (from icclip-twin-b)", name="twins"),
    "twin_b": Sample(dataset("twins"), "duplicate", "also provided by twin_a (from icclip-twin-a)", name="twins"),
    "raising_command": Sample(commands("raise ValueError('no')"), "failed", "icclip_commands: ValueError: no"),
    "no_command": Sample(commands("pass"), "failed", "it adds no command"),
    "odd_parameter": Sample(
        f"{IMPORTS}\ndef odd(one: int | str): ...\n@hookimpl\ndef icclip_commands(app): app.command()(odd)",
        "failed",
        "icclip_commands: ",
    ),
    "takes_train": Sample(
        commands("app.command('train')(lambda: print('stolen'))"),
        "duplicate",
        "the name is already taken by icclip (built in)",
        name="train",
    ),
    "prints": Sample(f"print('noise')\n{dataset('figs')}", "ok", name="figs"),
}


def install(samples: dict[str, Sample], work: Path) -> Path:
    """Build a wheel of each sample and let pip install them all into one directory."""
    wheels = work / "wheels"
    wheels.mkdir()
    for name, sample in samples.items():
        project = work / name
        project.mkdir()
        target = f"icclip_{name}" + (f":{sample.attribute}" if sample.attribute else "")
        (project / f"icclip_{name}.py").write_text(sample.source)
        (project / "pyproject.toml").write_text(
            f"[build-system]\nrequires = ['hatchling']\nbuild-backend = 'hatchling.build'\n"
            f"[project]\nname = 'icclip-{name.replace('_', '-')}'\nversion = '1.2'\n"
            f"[project.entry-points.icclip]\n{name} = '{target}'\n"
            f"[tool.hatch.build.targets.wheel]\nonly-include = ['icclip_{name}.py']\n"
        )
        with contextlib.chdir(project):
            build_wheel(str(wheels))
    site = work / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*command, *map(str, wheels.glob("*.whl"))], check=True, timeout=300)
    return site


def break_metadata(site: Path) -> None:
    """Add two distributions that no installer makes, but a damaged disk or a careless copy does."""
    garbled = site / "garbled-1.0.dist-info"
    garbled.mkdir()
    (garbled / "METADATA").write_text("Name: garbled\nVersion: 1.0\n")
    (garbled / "entry_points.txt").write_text("[icclip]\nno equals sign here\n")
    nameless = site / "nameless-1.0.dist-info"
    nameless.mkdir()
    (nameless / "entry_points.txt").write_text("[icclip]\nnameless = without_metadata\n")
    (site / "without_metadata.py").write_text(dataset("grapes"))
    unreadable = site / "unreadable-1.0.dist-info"
    unreadable.mkdir()
    (unreadable / "entry_points.txt").write_bytes(b"[icclip]\n\xff\xfe = x\n")
