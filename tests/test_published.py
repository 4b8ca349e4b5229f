"""What travels says nothing about the machine that it was made on: runs and bundles are searched, file by file."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from support.images import photo

from icclip.bundles.manifest import read_manifest
from icclip.runs.directory import RunDirectory

HOST = "host-4711.example"
STAYS = ("local.json", "logs", "checkpoint-")
"""What a run directory holds beside the model, and nobody publishes."""
LOOSE = [
    *(f"--threshold={name}=1" for name in ("drop_r1", "drop_r5", "drop_r10")),
    *(f"--threshold={name}=0" for name in ("top10_overlap", "centred_min_cosine", "centred_mean_cosine")),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory with a dataset, from which icclip is called on a machine with a name of its own."""
    home = tmp_path / "home-of-somebody"
    (home / "pictures").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.chdir(home)
    lines = []
    for row in range(30):
        photo(40, 40, seed=row).save(home / f"pictures/{row}.png")
        lines.append(json.dumps({"image": f"pictures/{row}.png", "captions": [f"picture number {row}"]}))
    (home / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return home


def published(directory: Path) -> list[Path]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if not path.relative_to(directory).as_posix().startswith(STAYS)]


def telling(directory: Path, *words: str) -> dict[str, list[str]]:
    """File -> which of the words it holds."""
    found = {path.name: [word for word in words if word.encode() in path.read_bytes()] for path in published(directory)}
    return {name: words for name, words in found.items() if words}


@pytest.mark.slow
def test_runs_and_bundles_say_nothing_about_this_machine(home, icclip, pytestconfig):
    run, bundle = home / "runs/best", home / "bundle"
    words = (str(home), str(Path.home()), str(home.parent), str(pytestconfig.rootpath), HOST)
    trained = icclip(
        "train", "--model", "clip-tiny", "--dataset", home / "captions.jsonl", "--output-dir", run,
        "--epochs", 1, "--train-bs", 8, "--eval-bs", 8, "--guard", "off",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert telling(run, *words) == {}
    # What the user needs is still there, and what people read has its names.
    local = json.loads((run / "local.json").read_text())["config"]
    assert local["data.path"]["path"] == str(home / "captions.jsonl")
    public = json.loads((run / "icclip.json").read_text())["config"]
    assert (public["data"]["path"], public["output_dir"]) == ("captions.jsonl", "best")
    assert RunDirectory.open(run).config["data"]["path"] == str(home / "captions.jsonl")

    exported = icclip("export", run, "--output-dir", bundle, "--sample", 3, "--provider", "cpu", *LOOSE)
    assert exported.code == 0, exported.err
    assert telling(bundle, *words) == {}
    manifest = read_manifest(bundle)
    assert manifest.source.name == "best"
    assert manifest.data.dataset == "jsonl@captions.jsonl"
    # The names are enough where one stands beside the data, and a run knows the way from anywhere.
    assert icclip("eval", bundle).code == 0
    assert icclip("eval", run, "--output-dir", home / "again").code == 0
