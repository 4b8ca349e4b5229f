"""What every dataset must keep, run over all that come with icclip and need no network."""

from __future__ import annotations

import pytest
from datasets import Image
from support.sources import SOURCES

from icclip.console import Reporter
from icclip.data.gallery import Gallery
from icclip.data.loading import dataset_config, load_splits
from icclip.data.split import SplitImages, caption_map
from icclip.plugins.registry import Registry
from icclip.plugins.specs import DatasetSpec

REGISTRY = Registry(load_plugins=frozenset())


def test_every_dataset_is_covered():
    assert sorted(SOURCES) == sorted(REGISTRY.names(DatasetSpec))


@pytest.fixture(params=sorted(SOURCES))
def config(request, tmp_path):
    write = SOURCES[request.param]
    if write is None:
        return dataset_config(REGISTRY, request.param)
    write(tmp_path / "source")
    return dataset_config(REGISTRY, f"{request.param}@{tmp_path / 'source'}")


def test_the_contract(config):
    splits = load_splits(REGISTRY, config, Reporter(silent=True))
    assert list(splits) == ["train", "validation", "test"]
    for split in splits.values():
        assert split.column_names == ["image", "captions"]
        assert split.features["image"] == Image(decode=False)
        assert SplitImages(split)[0].mode == "RGB"
        captions = caption_map(split)
        assert captions.n_images == len(split) > 0
        assert all(text.strip() for text in captions.texts)


def test_loading_again_gives_the_same(config):
    first, second = (load_splits(REGISTRY, config, Reporter(silent=True)) for _ in range(2))
    assert {n: Gallery.of(s).fingerprint() for n, s in first.items()} == {
        n: Gallery.of(s).fingerprint() for n, s in second.items()
    }


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"shapes"}))
def test_specs_that_read_paths_say_so(name):
    spec = REGISTRY.dataset(name)
    assert spec.takes_path
    assert spec.summary
