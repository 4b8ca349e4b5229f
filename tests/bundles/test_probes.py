from __future__ import annotations

import hashlib
import io
import unicodedata

import numpy as np
import pytest
from PIL import Image

from icclip.bundles.probes import probe_images, probe_texts
from icclip.data.images import decode_image


def words(text):
    """A tokenizer of words between two special tokens."""
    return len(text.split()) + 2


@pytest.mark.parametrize("side", [16, 32, 224, 384])
def test_images_have_the_sizes_shapes_and_modes_that_they_are_named_after(side):
    images = probe_images(side)
    sizes = {name: image.size for name, image in images.items()}
    assert sizes["exactly the model's size"] == (side, side)
    assert sizes["one pixel"] == (1, 1)
    assert min(sizes["larger"]) > side
    assert max(sizes["smaller"]) < side
    assert sizes["one to three"][1] == 3 * sizes["one to three"][0]
    assert sizes["three to one"][0] == 3 * sizes["three to one"][1]
    assert {images[f"mode {mode}"].mode for mode in ("1", "L", "LA", "P", "RGBA")} == {"1", "L", "LA", "P", "RGBA"}
    assert max(max(size) for size in sizes.values()) <= 720


def test_filters_differ_on_every_image_that_is_made_smaller():
    for name in ("larger", "one to three", "three to one", "odd"):
        image = probe_images(224)[name]
        small = [np.asarray(image.resize((100, 100), filter_)).astype(int) for filter_ in (0, 1, 2, 3, 4, 5)]
        worst = min(np.abs(a - b).max() for i, a in enumerate(small) for b in small[:i])
        assert worst > 10, name


def test_orientations_change_the_picture_and_survive_a_file():
    decoded = set()
    for number in range(2, 9):
        image = probe_images(32)[f"orientation {number}"]
        image.save(buffer := io.BytesIO(), "png", exif=image.info["exif"])
        upright = decode_image(buffer.getvalue(), "a probe")
        assert upright.tobytes() == decode_image(image, "a probe").tobytes()
        assert upright.size == (image.size if number < 5 else image.size[::-1])
        decoded.add(upright.tobytes())
    assert len(decoded) == 7


def test_every_machine_makes_the_same_images():
    made = [
        hashlib.sha256(b"".join(name.encode() + image.tobytes() for name, image in probe_images(64).items()))
        for _ in range(2)
    ]
    assert made[0].hexdigest() == made[1].hexdigest()
    assert isinstance(probe_images(64)["larger"], Image.Image)


@pytest.mark.parametrize("limit", [8, 16, 64, 77])
def test_texts_meet_the_limit_exactly_by_one_and_by_far(limit):
    texts = probe_texts(words, limit)
    assert words(texts["exactly the limit"]) == limit
    assert words(texts["one over the limit"]) == limit + 1
    assert words(texts["far over the limit"]) > 3 * limit


def test_texts_are_of_the_kinds_that_they_are_named_after():
    texts = probe_texts(words, 77, ("<|endoftext|>", "</s>"))
    composed, decomposed = texts["accents, composed"], texts["accents, decomposed"]
    assert composed != decomposed
    assert unicodedata.normalize("NFC", decomposed) == composed
    assert texts["upper case"].lower() == texts["lower case"]
    assert texts["<|endoftext|> written out"] == "a <|endoftext|> b <|endoftext|>"
    assert "</s> written out" in texts
    assert len(set(texts.values())) == len(texts)
