"""A dataset and run directories that are small enough for tests."""

from __future__ import annotations

import json

import pytest
from evaluating.fakes import coloured


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A parquet directory with a train split only: validation and test are made from it."""
    from datasets import Dataset, Features, Image, List, Value

    images, names = coloured(60)
    captions = [[f"the colour {name}", f"painted in {name}"] for (name,) in names]
    features = Features({"image": Image(), "captions": List(Value("string"))})
    directory = tmp_path_factory.mktemp("photos")
    split = Dataset.from_dict({"image": images, "captions": captions}, features=features)
    split.to_parquet(directory / "train-00000-of-00001.parquet")
    return directory


@pytest.fixture(scope="session", params=["clip-tiny", "siglip-tiny"])
def run_directory(request, photos, tmp_path_factory):
    """What a run leaves: an (untrained) model, its processor, and icclip.json."""
    from icclip.config import DatasetConfig, ModelConfig, TrainConfig
    from icclip.models.opening import open_model
    from icclip.plugins.registry import Registry

    directory = tmp_path_factory.mktemp("runs") / request.param
    model = ModelConfig(name=request.param)
    data = DatasetConfig(name="hub", path=str(photos), val_fraction=0.2, seed=3)
    config = TrainConfig(model=model, data=data, output_dir=directory, eval_bs=5)
    texts = ["the colour (1, 254, 7)", "painted in (2, 253, 7)"]
    open_model(Registry(load_plugins=frozenset()), model, captions=lambda: texts * 30).save(directory)
    (directory / "icclip.json").write_text(json.dumps({"format": 1, "config": config.to_mapping()}))
    return directory
