from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from icclip.config import DatasetConfig
from icclip.data.split import SplitImages, caption_map
from icclip.errors import DataError
from icclip_plugins.datasets.shapes import COLOURS, SHAPES, SIDE, Chance, load, split_pairs


@pytest.fixture(scope="module")
def splits():
    return load(DatasetConfig(name="shapes"))


def test_sizes(splits):
    assert {name: len(split) for name, split in splits.items()} == {"train": 3040, "validation": 64, "test": 128}


def test_held_out_pairs_are_never_trained_on(splits):
    texts = {name: set(caption_map(split).texts) for name, split in splits.items()}
    assert not texts["train"] & (texts["validation"] | texts["test"])
    assert not texts["validation"] & texts["test"]


def test_no_two_held_out_images_share_a_sentence(splits):
    for name in ("validation", "test"):
        captions = caption_map(splits[name])
        assert len(set(captions.texts)) == captions.n_texts == 3 * captions.n_images


@pytest.mark.parametrize("seed", range(20))
def test_training_shows_every_thing_equally_often(seed):
    counts = Counter(thing for pair in split_pairs(Chance(seed))["train"] for thing in (pair.first, pair.second))
    assert len(counts) == len(COLOURS) * len(SHAPES)
    assert set(counts.values()) == {2 * 304 // 32}


def test_every_pair_of_two_things_is_there_once():
    pairs = [frozenset((p.first, p.second)) for part in split_pairs(Chance(3)).values() for p in part]
    assert len(pairs) == len(set(pairs)) == 32 * 31 // 2


def test_the_same_seed_gives_the_same_pixels_everywhere(splits):
    digest = hashlib.sha256()
    for image in SplitImages(splits["test"]):
        digest.update(np.asarray(image).tobytes())
    # From one machine and one version of Python; all others must agree.
    assert digest.hexdigest() == "3d5af0a0f5f270e29cf8bbe86b26532759837e44e7c871ae1c325683eed6ddd4"
    assert caption_map(splits["test"]).texts[0] == "a purple cross and a red square"


def test_another_seed_gives_other_images(splits):
    other = load(DatasetConfig(name="shapes", seed=1))
    assert caption_map(other["test"]).texts != caption_map(splits["test"]).texts


def test_images_show_what_the_captions_say(splits):
    """The colours of both things, read back from the pixels."""
    test = splits["test"]
    for image, captions in zip(SplitImages(test), test["captions"], strict=True):
        pixels = np.asarray(image)
        shown = {name for name, rgb in COLOURS.items() if (pixels == rgb).all(axis=2).sum() > 50}
        assert shown == set(re.findall("|".join(COLOURS), captions[0]))


def test_images_of_one_pair_differ(splits):
    images = SplitImages(splits["train"])[:10]
    assert len({image.tobytes() for image in images}) == 10
    assert images[0].size == (SIDE, SIDE)


def test_streaming_is_refused():
    with pytest.raises(DataError, match=r"^dataset 'shapes' is rendered in memory: leave out --streaming$"):
        load(DatasetConfig(name="shapes", streaming=True))
