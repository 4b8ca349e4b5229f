"""Untrained models of both families, exported once."""

from __future__ import annotations

import pytest
import torch

from icclip.config import ModelConfig
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry

CAPTIONS = ["a small red square", "two large blue circles, on grass", "nothing at all"] * 8


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def registry():
    return Registry(load_plugins=frozenset())


@pytest.fixture(scope="session")
def models(registry):
    return {
        family: open_model(registry, ModelConfig(name=f"{family}-tiny", image_resize=32), lambda: CAPTIONS)
        for family in ("clip", "siglip")
    }


@pytest.fixture(scope="session")
def exported(models, tmp_path_factory):
    """Family -> directory with both float32 graphs. Never written to."""
    from icclip_export.onnx.export import export_towers

    root = tmp_path_factory.mktemp("exported")
    for family, loaded in models.items():
        (root / family).mkdir()
        export_towers(loaded, root / family)
    return {family: root / family for family in models}


@pytest.fixture(scope="session")
def checkpoints(models, tmp_path_factory):
    """Family -> a directory as transformers saves it. Never written to."""
    root = tmp_path_factory.mktemp("checkpoints")
    for family, loaded in models.items():
        loaded.save(root / family)
    return {family: root / family for family in models}


@pytest.fixture(params=["clip", "siglip"])
def family(request):
    return request.param


@pytest.fixture
def loaded(models, family):
    return models[family]


@pytest.fixture
def graphs(exported, family):
    return exported[family]
