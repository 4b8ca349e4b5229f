"""What the documents tell people to type is typed here: every shell block runs, or says what it needs.

Each document is worked through in a folder with a few drawn photographs. Commands run as they are written, except that a
tiny model stands in for the model of the hub that a comment names, and that training stops after two steps.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from support.documents import DOCUMENTS, PAGES, ROOT, blocks
from support.images import photo

from icclip.cli import app
from icclip.plugins.hooks import hookimpl
from icclip.plugins.registry import Registry
from icclip.plugins.specs import spec_problems

IMAGES = 24
QUICK = {
    "--max-steps": "2", "--train-bs": "8", "--device": "cpu", "--workers": "0", "--report-to": "none", "--guard": "off"
}  # fmt: skip
"""Given to `icclip train` where the document does not say otherwise."""
SHELL = [block for document in DOCUMENTS for block in blocks(document, "console")]
RUN = [document for document in DOCUMENTS if any(not block.needs for block in blocks(document, "console"))]


def name(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with images, photos.jsonl, and the same as an image folder."""
    (tmp_path / "images").mkdir()
    (tmp_path / "photos/train").mkdir(parents=True)
    manifest, metadata = [], []
    for number in range(1, IMAGES + 1):
        file, captions = f"{number:04}.jpg", [f"photo number {number}", f"the {number}th of the photos"]
        for folder in ("images", "photos/train"):
            photo(48, 40, seed=number).save(tmp_path / folder / file)
        manifest.append(json.dumps({"image": f"images/{file}", "captions": captions}))
        metadata.append(json.dumps({"file_name": file, "text": captions[0]}))
    (tmp_path / "photos.jsonl").write_text("\n".join(manifest))
    (tmp_path / "photos/train/metadata.jsonl").write_text("\n".join(metadata))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(icclip, words: list[str]) -> None:
    words, target = (words[: words.index(">")], words[-1]) if ">" in words else (words, None)
    if words[1] == "train":
        said = {word.partition("=")[0] for word in words}
        words = [*words, *(word for option, value in QUICK.items() if option not in said for word in (option, value))]
    outcome = icclip(*words[1:])
    assert outcome.code == 0, f"{' '.join(words)}\n{outcome.err}"
    if target is not None:
        Path(target).write_text(outcome.out)


@pytest.mark.slow
@pytest.mark.parametrize("document", RUN, ids=name)
def test_a_document_works_as_it_is_written(document, workplace, icclip, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for block in (one for one in blocks(document, "console") if not one.needs):
        for words in block.words():
            assert words[0] == "icclip", f"{document}: {words} needs a marker, or a way to run it here"
            typed(icclip, words)
    if document.parent.name != "how-to":
        for block in blocks(document, "python"):
            exec(compile(block.text, str(document), "exec"), {})


@pytest.mark.slow
def test_the_python_page_works_as_it_is_written(workplace, capsys):
    for block in blocks(PAGES / "how-to/python.md", "python"):
        exec(compile(block.text, "how-to/python.md", "exec"), {})
    assert "(1, 128) float32" in capsys.readouterr().out


@pytest.mark.parametrize("block", SHELL, ids=lambda block: f"{name(block.document)}: {block.commands[0]}")
def test_every_command_anywhere_is_one_that_icclip_understands(block):
    for words in block.words():
        if "icclip" in words and words[0] not in {"pip", "python"}:
            given = words[words.index("icclip") + 1 :]
            understand(given[: given.index(">")] if ">" in given else given)


def understand(given: list[str]) -> None:
    """Fails with Typer's error where a command or an option does not exist."""
    command = typer.main.get_group(app)
    for plugin in Registry().built_in:
        command.commands.update(plugin.commands)
    context = command.make_context("icclip", [], resilient_parsing=True)
    while hasattr(command, "commands"):
        # `icclip index MODEL` is short for `icclip index build MODEL`.
        given = getattr(command, "completed", list)(given)
        command, given = command.commands[given[0]], given[1:]
    command.make_context("icclip", given, parent=context)


def test_the_two_commands_are_in_the_readme():
    assert "python -m pip install nox && python -m nox -s quickstart" in (ROOT / "README.md").read_text()
    assert "$ python -m nox -s tests\n" in (ROOT / "README.md").read_text()


def test_the_hooks_of_the_plugin_tutorial_return_good_specs():
    found = {}
    for block in blocks(PAGES / "tutorials/plugin.md", "python"):
        own = {"load": dict, "text_policy": dict, "unwrap": dict}
        if "import icclip_mine" in block.text:
            continue
        exec(compile(block.text, "tutorials/plugin.md", "exec"), own)
        found |= {hook: own for hook in own if hook.startswith("icclip_")}
    specs = [
        spec for hook in ("icclip_datasets", "icclip_metrics", "icclip_model_backends") for spec in found[hook][hook]()
    ]
    assert [spec_problems(spec) for spec in specs] == [[], [], []]
    ranks = type("Ranks", (), {"t2i": np.array([1, 2]), "i2t": np.array([4])})
    assert found["icclip_metrics"]["compute"](ranks) == {"t2i_MRR": 0.75, "i2t_MRR": 0.25}
    commands = typer.Typer()
    found["icclip_commands"]["icclip_commands"](commands)
    assert [command.name for command in commands.registered_commands] == ["hello"]
    assert hasattr(found["icclip_commands"]["icclip_commands"], f"{hookimpl.project_name}_impl")
