from __future__ import annotations

import json

import pytest
from support.bundle_fixtures import bundles, tinies
from support.images import photo

__all__ = ["bundles", "tinies"]


@pytest.fixture(scope="module")
def clip(bundles):
    """A tiny CLIP bundle. Never written to."""
    return bundles["clip"]


@pytest.fixture
def pictures(tmp_path):
    """A directory with six images."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        photo(30 + 4 * i, 40, seed=i).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def index(clip, pictures, icclip, tmp_path):
    """An index of the six images."""
    outcome = icclip("index", clip, "--images", pictures, "-o", tmp_path / "index", "--json")
    assert outcome.code == 0, outcome.err
    return tmp_path / "index"


@pytest.fixture
def captioned(tmp_path):
    """A table of images with captions."""
    lines = []
    (tmp_path / "own").mkdir()
    for i in range(24):
        photo(32, 40, seed=i).save(tmp_path / f"own/{i}.png")
        lines.append(json.dumps({"image": f"own/{i}.png", "captions": [f"picture number {i}", f"photo {i}"]}))
    (tmp_path / "own.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "own.jsonl"
