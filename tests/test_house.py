"""What the documents say is what is there."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
from support.documents import DOCUMENTS

from icclip import __version__
from icclip.cli import app
from icclip.plugins.registry import Registry
from icclip.reference import commands, options_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# Pieces, so that this file does not hold what it looks for.
FORBIDDEN = ("/wor" + "k/", "/roo" + "t/", "../sha" + "red", "/tm" + "p/w", "TO" + "DO", "FIX" + "ME", "XX" + "X")


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_tables_of_the_documents_are_those_of_the_result_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import readme

    for path in readme.DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert "<!-- table: " in text
        assert readme.with_tables(text) == text, "python -m benchmarks.readme writes them"


def all_options() -> set[str]:
    """Of the commands that come with icclip, those of its plugins included."""
    found = {flag for name in commands() for row in options_of(name) for flag in row.flags if flag[:2] == "--"}
    groups = [typer.main.get_group(app)]
    while groups:
        for command in groups.pop().commands.values():
            groups += [command] if hasattr(command, "commands") else []
            found |= {name for one in command.params for name in (*one.opts, *one.secondary_opts) if name[:2] == "--"}
    return found


def test_the_readme_fits_on_a_page():
    assert len(README.splitlines()) <= 150


def test_options_named_anywhere_in_the_documents_exist():
    of_others = {
        "--list", "--nproc-per-node", "--num-processes", "--multi_gpu", "--use_fsdp", "--train_bs", "--accum-freq", "--help", "--preload", "--recursive",
    }  # fmt: skip
    for document in DOCUMENTS:
        named = set(re.findall(r"(?<![\w<!-])--[a-z][\w-]*", document.read_text(encoding="utf-8")))
        assert named <= all_options() | of_others, document


def test_everything_on_offer_is_in_the_reference():
    reference = (ROOT / "docs/pages/reference/models-and-datasets.md").read_text()
    missing = [
        row.name
        for row in Registry(load_plugins=frozenset()).listing()
        if row.kind in ("backend", "preset", "dataset") and f"`{row.name}`" not in reference
    ]
    assert missing == []


def tree() -> dict[str, str]:
    """Path -> meaning, from the drawing of the files in CONTRIBUTING.md; two spaces of indent are one level."""
    drawing = (ROOT / "CONTRIBUTING.md").read_text().split("## The files")[1].split("```")[1]
    found, folder = {}, ""
    for line in drawing.strip().splitlines()[1:]:
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


def rooms_of_the_diagram() -> set[str]:
    """Every name in the drawing of the directions, without the comments."""
    drawing = (ROOT / "CONTRIBUTING.md").read_text().split("## Rooms and directions")[1].split("```")[1]
    return {
        name
        for line in drawing.splitlines()[1:]
        for name in re.findall(r"[a-z_]+", line.partition("#")[0].partition(":")[2])
    }


def test_the_diagram_of_rooms_is_what_the_import_contracts_hold():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "directions"]
    assert rooms_of_the_diagram() == {room for layer in layers for room in layer.split(" | ")}


def slugs(document: Path) -> set[str]:
    """The anchors that GitHub and mkdocs give to the headings."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    for document in [path for path in tracked() if path.suffix == ".md"]:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            there = document.parent / target if target else document
            assert there.exists(), f"{document}: {target}"
            assert not anchor or anchor in slugs(there), f"{document}: {target}#{anchor}"


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
