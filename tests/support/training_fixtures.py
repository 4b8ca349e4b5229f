"""Tiny models of both families, and a handful of 32-pixel images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from datasets import Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image

from icclip.config import DatasetConfig, ModelConfig, TrainConfig
from icclip.console import Reporter
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap

CAPTIONS = [
    [f"a {size} {colour} square", f"one {colour} square that is {size}"]
    for size in ("small", "large", "tiny", "huge")
    for colour in ("red", "green", "blue", "grey")
]


def picture(number: int) -> Image.Image:
    """A noisy picture of its own colour."""
    pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    pixels[8:24, 8:24] = [(number * 37) % 256, (number * 91) % 256, (number * 53) % 256]
    return Image.fromarray(pixels)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry(load_plugins=frozenset())


@pytest.fixture(scope="session")
def captions() -> CaptionMap:
    return CaptionMap.from_lists(CAPTIONS)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    return [picture(number) for number in range(len(CAPTIONS))]


@pytest.fixture(scope="session")
def data(tmp_path_factory, pictures) -> Path:
    """A folder of parquet: 16 images with two captions each, one split."""
    folder = tmp_path_factory.mktemp("data")
    features = Features(image=ImageFeature(), captions=Sequence(Value("string")))
    Dataset.from_dict({"image": pictures, "captions": CAPTIONS}, features).to_parquet(folder / "train.parquet")
    return folder


@pytest.fixture(scope="session")
def tiny(registry, tmp_path_factory, captions) -> dict[str, Path]:
    """Directories with models small enough to train in a second, by loss."""
    return {
        "softmax": _tiny(registry, "clip-tiny", captions, tmp_path_factory.mktemp("clip")),
        "sigmoid": _tiny(registry, "siglip-tiny", captions, tmp_path_factory.mktemp("siglip")),
    }


def _tiny(registry, preset, captions, folder) -> Path:
    """The preset's processor around towers of one layer and 32 pixels."""
    from transformers import AutoModel

    from icclip.models.opening import open_model

    loaded = open_model(registry, ModelConfig(name=preset, image_resize=32), captions=lambda: captions.texts)
    config = loaded.model.config
    for tower in (config.vision_config, config.text_config):
        tower.num_hidden_layers, tower.hidden_size, tower.num_attention_heads, tower.intermediate_size = 1, 32, 2, 64
    config.vision_config.patch_size = 8
    config.projection_dim = config.text_config.projection_size = 32
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    loaded.feeder.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def config(tiny, data, tmp_path) -> TrainConfig:
    """Two epochs of three steps."""
    return TrainConfig(
        model=ModelConfig(name=str(tiny["softmax"])),
        data=DatasetConfig(name="hub", path=str(data), val_fraction=0.25),
        output_dir=tmp_path / "run",
        epochs=2, lr=1e-3, train_bs=2, eval_bs=4, workers=0, device="cpu", logging_steps=1, report_to=(),
    )  # fmt: skip


@pytest.fixture
def quiet() -> Reporter:
    return Reporter(silent=True)
