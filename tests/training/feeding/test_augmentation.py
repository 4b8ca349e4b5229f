from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from icclip.training.feeding.augmentation import crop_box, light, may_mirror


@pytest.fixture
def halves() -> Image.Image:
    """Black on the left, white on the right: 60 x 40."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, 30:] = 255
    return Image.fromarray(pixels)


def is_mirrored(image: Image.Image) -> bool:
    pixels = np.asarray(image).mean(axis=(0, 2))
    return bool(pixels[0] > pixels[-1])


@pytest.mark.parametrize(
    "caption",
    ["a dog on the left", "Left of the house", "he raises his RIGHT hand.", "a left-handed man", "the rightmost boat"],
)
def test_what_says_left_or_right_is_never_mirrored(halves, caption):
    assert not any(is_mirrored(light(halves, ["a dog", caption], seed)) for seed in range(50))


def test_about_half_of_the_others_are(halves):
    captions = ["a bright leftover upright copyright", "leaves him"]
    assert may_mirror(captions)
    count = sum(is_mirrored(light(halves, captions, seed)) for seed in range(400))
    # Binomial with n = 400 and p = 1/2: five standard deviations are 50.
    assert 150 < count < 250


def test_what_the_words_forbid_is_the_mirroring_alone(halves):
    for seed in range(20):
        free, bound = light(halves, ["a"], seed), light(halves, ["left"], seed)
        undone = ImageOps.mirror(free) if is_mirrored(free) else free
        assert np.array_equal(np.asarray(undone), np.asarray(bound))


def test_the_crop_is_inside_and_keeps_the_area_and_nearly_the_shape():
    shares, ratios = [], []
    for seed in range(300):
        left, upper, right, lower = crop_box((60, 40), np.random.default_rng(seed))
        assert 0 <= left < right <= 60
        assert 0 <= upper < lower <= 40
        shares.append((right - left) * (lower - upper) / 2400)
        ratios.append((right - left) / (lower - upper) / 1.5)
    assert 0.8 - 1e-9 <= min(shares) < 0.82
    assert 0.98 < max(shares) <= 1 + 1e-9
    assert 0.9 - 1e-9 <= min(ratios) < 0.93
    assert 1.08 < max(ratios) <= 10 / 9 + 1e-9


def test_colours_change_a_little_and_the_size_does_not():
    grey = Image.new("RGB", (30, 20), (100, 120, 140))
    results = [light(grey, ["a"], seed) for seed in range(100)]
    assert {(image.mode, image.size) for image in results} == {("RGB", (30, 20))}
    means = np.array([np.asarray(image).mean(axis=(0, 1)) for image in results])
    # Brightness, contrast (around the mean of a flat image: nothing) and colour, each within 10 %.
    assert means[:, 1].min() >= 120 * 0.9 - 3
    assert means[:, 1].max() <= 120 * 1.1 + 3
    assert means.std(axis=0).min() > 2


def test_the_seed_decides(halves):
    assert np.array_equal(np.asarray(light(halves, ["a"], 7)), np.asarray(light(halves, ["a"], 7)))
    assert not np.array_equal(np.asarray(light(halves, ["a"], 7)), np.asarray(light(halves, ["a"], 8)))
