"""What the documents say is what is there."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

from icclip import __version__
from icclip.cli import app
from icclip.plugins.registry import Registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# Pieces, so that this file does not hold what it looks for.
FORBIDDEN = ("/wor" + "k/", "/roo" + "t/", "../sha" + "red", "/tm" + "p/w", "TO" + "DO", "FIX" + "ME", "XX" + "X")


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def options_of(command: str) -> set[str]:
    parameters = typer.main.get_group(app).commands[command].params
    return {name for p in parameters for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}


def test_the_tables_of_the_documents_are_those_of_the_result_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.readme import DOCUMENTS, with_tables

    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert "<!-- table: " in text
        assert with_tables(text) == text, "python -m benchmarks.readme writes them"


def test_every_option_of_train_is_in_the_readme_and_no_other():
    section = README.split("### Options of `icclip train`")[1].split("`icclip eval` takes")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `-")]
    documented = {name for cell in cells for name in re.findall(r"`(-[^`]+)`", cell)}
    assert documented | {"--model-name"} == options_of("train") - {"--help", "-h"}


def test_options_named_anywhere_in_the_readme_exist():
    ours = {name for command in typer.main.get_group(app).commands for name in options_of(command)}
    of_others = {"--list", "--nproc-per-node", "--num-processes", "--multi_gpu", "--use_fsdp", "--train_bs"}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", README)) <= ours | of_others


def test_commands_are_in_the_readme():
    for name in typer.main.get_group(app).commands:
        assert f"icclip {name}" in README


def test_everything_on_offer_is_in_the_readme():
    missing = [
        row.name
        for row in Registry(load_plugins=frozenset()).listing()
        if row.kind in ("backend", "preset", "dataset") and f"`{row.name}`" not in README
    ]
    assert missing == []


def tree() -> dict[str, str]:
    """Path -> meaning, from the README's drawing of the files; two spaces of indent are one level."""
    drawing = README.split("## The files")[1].split("```")[1]
    found, folder = {}, ""
    for line in drawing.strip().splitlines():
        name, meaning = line.strip().split(maxsplit=1)
        inside = line.startswith("  ")
        folder = folder if inside else name
        found[(folder + name) if inside else name] = meaning
    return found


def test_the_file_tree_is_the_repository():
    described = tree()
    assert [name for name in described if not (ROOT / name).exists()] == []
    present = {f"icclip/{p.name}{'/' * p.is_dir()}" for p in (ROOT / "icclip").iterdir() if p.name[0] not in "._"}
    assert present - {"icclip/py.typed"} - described.keys() == set()


def test_links_lead_somewhere():
    for document in [path for path in tracked() if path.suffix == ".md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert "://" in target or (document.parent / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("word", FORBIDDEN)
def test_nothing_speaks_of_the_machine_it_was_written_on(word):
    texts = [path for path in tracked() if path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".cfg"}]
    assert [str(path.relative_to(ROOT)) for path in texts if word in path.read_text(encoding="utf-8")] == []


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "icclip/__init__.py"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{__version__}]" in changelog


def test_constraints_pin_everything_the_project_names():
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    names = {name.lower().replace("_", "-") for name in pinned}
    assert not [version for version in pinned.values() if "+" in version]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    groups = project["dependency-groups"].values()
    wanted = [*project["project"]["dependencies"], *(one for many in (*extras, *groups) for one in many)]
    of_gpu_machines = {"onnxruntime-gpu", "tensorrt-cu13"}
    needed = {re.split(r"[><=\[;]", one)[0] for one in wanted if isinstance(one, str)}
    assert {name.lower().replace("_", "-") for name in needed} - names <= {"icclip", *of_gpu_machines}
