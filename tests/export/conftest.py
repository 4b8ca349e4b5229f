"""Untrained models of both families, exported once by each exporter that works with what is installed."""

from __future__ import annotations

import pytest
import torch

from icclip.config import ModelConfig
from icclip.errors import UsageError
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip_export.onnx.exporters import NAMES, choose_exporter

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


@pytest.fixture(scope="session", params=NAMES)
def exporter(request):
    """The tests that ask for it are held by every exporter."""
    try:
        return choose_exporter(request.param)
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def exports(models, tmp_path_factory):
    """(exporter, family) -> directory with both float32 graphs, made when first asked for. Never written to."""
    from icclip_export.onnx.export import export_towers

    made = {}

    def get(name, family):
        if (name, family) not in made:
            made[name, family] = tmp_path_factory.mktemp(f"{name}-{family}")
            export_towers(models[family], made[name, family], exporter=choose_exporter(name))
        return made[name, family]

    return get


@pytest.fixture(scope="session")
def exported(exports, exporter, models):
    """Family -> directory with both float32 graphs. Never written to."""
    return {family: exports(exporter.name, family) for family in models}


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
