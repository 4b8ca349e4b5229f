"""What every dataset must keep, run over all that come with icclip and need no network."""

from __future__ import annotations

import json

import pytest
from datasets import Image
from support.flickr import jpeg, write_flickr8k, write_flickr30k

from icclip.console import Reporter
from icclip.data.gallery import Gallery
from icclip.data.loading import dataset_config, load_splits
from icclip.data.split import SplitImages, caption_map
from icclip.plugins.registry import Registry
from icclip.plugins.specs import DatasetSpec

REGISTRY = Registry(load_plugins=frozenset())
ROWS = [{"image": f"{i}.jpg", "caption": f"number {i}"} for i in range(6)]


def write_images(folder):
    folder.mkdir()
    for i in range(len(ROWS)):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))


def write_jsonl(folder):
    write_images(folder)
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))


def write_csv(folder):
    write_images(folder)
    (folder / "train.csv").write_text("image,caption\n" + "\n".join(",".join(row.values()) for row in ROWS))


def write_folder(folder):
    write_images(folder)
    for row in ROWS:
        (folder / row["image"]).with_suffix(".txt").write_text(row["caption"])


SOURCES = {
    "flickr8k": write_flickr8k,
    "flickr30k": write_flickr30k,
    "hub": write_flickr8k,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "folder": write_folder,
    "shapes": None,
}


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
