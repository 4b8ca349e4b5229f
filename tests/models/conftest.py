from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from icclip.config import ModelConfig
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry

CAPTIONS = (
    "A red circle above a blue square .",
    "Two dogs run across the wet grass , and a third one watches them from the old wooden fence .",
    "a child's toy",
    "It's 12 o'clock in Zürich",
)
PRESETS = ("clip-tiny", "siglip-tiny")


@pytest.fixture(scope="session")
def registry():
    return Registry(load_plugins=frozenset())


@pytest.fixture(scope="session")
def texts():
    return CAPTIONS


@pytest.fixture(scope="session")
def images():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (70, 90 + i, 3), dtype=np.uint8)) for i in range(5)]


@pytest.fixture(scope="session", params=PRESETS)
def trained(request, registry, tmp_path_factory):
    """A saved preset of each family: `loaded` as it was built, and its `directory`. Do not change them."""
    loaded = open_model(registry, ModelConfig(name=request.param), lambda: CAPTIONS)
    directory = tmp_path_factory.mktemp(request.param)
    loaded.save(directory)
    return SimpleNamespace(name=request.param, loaded=loaded, directory=directory)


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the saved preset that a test may damage."""
    import shutil

    return shutil.copytree(trained.directory, tmp_path / "copy")
