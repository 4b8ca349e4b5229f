"""What the site takes from the code, and that it is whole without asking anybody else."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest
import typer
from support.documents import PAGES, ROOT, blocks

from icclip.cli import app

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(hooks):
    return hooks.on_page_markdown((PAGES / "reference/options.md").read_text())


def test_every_option_of_every_command_is_in_the_reference(reference):
    sections = dict(re.findall(r"^## (icclip [\w -]+)$(.*?)(?=^## |\Z)", reference, re.DOTALL | re.MULTILINE))
    groups = [("icclip", typer.main.get_group(app))]
    while groups:
        prefix, group = groups.pop()
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                groups.append((f"{prefix} {name}", command))
                continue
            documented = set(re.findall(r"`(--?[\w-]+)", sections[f"{prefix} {name}"]))
            wanted = {flag for one in command.params for flag in one.opts if flag.startswith("-")} - {"--help", "-h"}
            assert wanted - documented == set(), name


def test_defaults_and_choices_stand_in_the_reference(reference):
    assert re.search(r"\| `--train-bs`, `--batch-size` \| N \| 64 \|", reference)
    assert re.search(r"\| `--duplicates` \| POLICY \| mask \| .*mask \(.*soft \(.*off \(", reference)


def test_a_page_that_comes_later_is_put_into_its_section(hooks, tmp_path, monkeypatch):
    (tmp_path / "how-to").mkdir()
    (tmp_path / "how-to/known.md").touch()
    (tmp_path / "how-to/later.md").touch()
    monkeypatch.setattr(hooks, "PAGES", tmp_path)
    config = type("Config", (), {"nav": [{"Start": "index.md"}, {"How to": [{"Known": "how-to/known.md"}]}]})
    assert hooks.on_config(config).nav[1]["How to"] == [{"Known": "how-to/known.md"}, "how-to/later.md"]


def test_a_page_without_the_marker_stays_as_it_is(hooks):
    assert hooks.on_page_markdown("# Files\n") == "# Files\n"


def test_every_shell_block_has_a_prompt():
    empty = [path for path in PAGES.rglob("*.md") for block in blocks(path, "console") if not block.commands]
    assert empty == []


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="the dependency group docs is not installed")
    command = ["mkdocs", "build", "--strict", "--config-file", DOCS / "mkdocs.yml", "--site-dir", tmp_path]
    done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    loaded = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"(https?:)?//|<link[^>]+href=\"(https?:)?//")
    assert [page for page in pages if loaded.search(page.read_text(encoding="utf-8"))] == []
