from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from icclip.config import DatasetConfig
from icclip.data.split import SplitImages, caption_map
from icclip.errors import DataError
from icclip_plugins.datasets.shapes import COLOURS, SHAPES, SIDE, Chance, load, split_combinations


@pytest.fixture(scope="module")
def splits():
    return load(DatasetConfig(name="shapes"))


def test_sizes(splits):
    assert {name: len(split) for name, split in splits.items()} == {"train": 3456, "validation": 96, "test": 144}


def test_held_out_combinations_are_never_trained_on(splits):
    texts = {name: set(caption_map(split).texts) for name, split in splits.items()}
    assert not texts["train"] & (texts["validation"] | texts["test"])
    assert not texts["validation"] & texts["test"]


def test_no_two_held_out_images_share_a_sentence(splits):
    for name in ("validation", "test"):
        captions = caption_map(splits[name])
        assert len(set(captions.texts)) == captions.n_texts == 3 * captions.n_images


@pytest.mark.parametrize("seed", range(20))
def test_training_shows_every_thing_in_every_place(seed):
    train = split_combinations(Chance(seed))["train"]
    for place in ("first", "second"):
        for relation in ("beside", "above"):
            things = {getattr(c, place) for c in train if c.relation == relation}
            assert len(things) == len(COLOURS) * len(SHAPES)


def test_every_combination_of_two_things_is_there_once():
    combinations = [c for part in split_combinations(Chance(3)).values() for c in part]
    assert len(combinations) == len(set(combinations)) == 2 * 24 * 23


def test_the_same_seed_gives_the_same_pixels_everywhere(splits):
    digest = hashlib.sha256()
    for image in SplitImages(splits["test"]):
        digest.update(np.asarray(image).tobytes())
    # From one machine and one version of Python; all others must agree.
    assert digest.hexdigest() == "6149f8856257ea4d6810c6c08d0b4cb62849fdc14022d69eaf98bac6ec107c43"
    assert caption_map(splits["test"]).texts[0] == "a purple cross to the left of a red square"


def test_another_seed_gives_other_images(splits):
    other = load(DatasetConfig(name="shapes", seed=1))
    assert caption_map(other["test"]).texts != caption_map(splits["test"]).texts


def test_images_show_what_the_captions_say(splits):
    """The colours of both halves, read back from the pixels."""
    test = splits["test"]
    for image, captions in zip(SplitImages(test), test["captions"], strict=True):
        pixels = np.asarray(image)
        first, second = re.findall(rf"({'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})", captions[0])
        halves = np.split(pixels, 2, axis=1 if "left" in captions[0] else 0)
        for colour, half in zip((first, second), halves, strict=True):
            counts = {name: int((half == rgb).all(axis=2).sum()) for name, rgb in COLOURS.items()}
            assert max(counts, key=counts.__getitem__) == colour


def test_images_of_one_combination_differ(splits):
    images = SplitImages(splits["train"])[:4]
    assert len({image.tobytes() for image in images}) == 4
    assert images[0].size == (SIDE, SIDE)


def test_streaming_is_refused():
    with pytest.raises(DataError, match=r"^dataset 'shapes' is rendered in memory: leave out --streaming$"):
        load(DatasetConfig(name="shapes", streaming=True))
