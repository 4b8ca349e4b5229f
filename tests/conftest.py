"""What every test may ask for. The suite needs no network and no hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Set before any test imports transformers or datasets, which read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest_plugins = ["support.hub"]

REPOSITORY = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ICCLIP_TEST_DATA", REPOSITORY.parent / "shared"))


@pytest.fixture(autouse=True)
def _no_third_party_plugins(monkeypatch):
    """Plugins that happen to be installed must not change a test's outcome."""
    monkeypatch.setenv("ICCLIP_LOAD_PLUGINS", "")


@pytest.fixture(autouse=True, scope="session")
def _caches(tmp_path_factory):
    """What datasets converts, and we keep of images, stays out of the user's cache."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setenv("ICCLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """The whole of Flickr8k in its hub layout."""
    return _shared("data/flickr8k")


@pytest.fixture(scope="session")
def clip_tokenizer() -> Path:
    """OpenAI CLIP's tokenizer and preprocessing, without weights."""
    return _shared("models/clip-tokenizer")


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path} (set ICCLIP_TEST_DATA to the folder that holds {name})")
    return path


@dataclass(frozen=True)
class Outcome:
    """What a command printed and returned."""

    code: int
    out: str
    err: str


@pytest.fixture
def icclip(capfd) -> Callable[..., Outcome]:
    """Run the command line in this process: `icclip("eval", path, "--json")`."""
    from icclip.cli import main

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
