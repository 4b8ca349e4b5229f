"""`--fast-jpeg`: how far decoding at a fraction of the size moves pixels and embeddings, and that it must be asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.bundle_fixtures import bundles, tinies
from support.images import photo

from icclip.data.images import decode_image, needs_nothing
from icclip.embedding.run import FAST_TIMES
from icclip.runtime import Encoder
from icclip.runtime.inputs import Decoder
from icclip.runtime.limits import Budget, CallCount, Limits

__all__ = ["bundles", "tinies"]

SIDE = 32
"""Of the model's input; an image is resized to it."""


@pytest.fixture
def bundle(bundles):
    return bundles["clip"]


def smooth(size):
    """As soft as a photograph of many megapixels."""
    return photo(12, 9, seed=size[0]).resize(size, Image.Resampling.BICUBIC)


def sharp(size):
    """Rectangles of saturated colours, which are what suffers most."""
    image, draw = Image.new("RGB", size, "white"), np.random.default_rng(size[0])
    pencil = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, w, h = (int(value) for value in draw.integers(1, min(size), 4))
        pencil.rectangle((x, y, x + w // 3, y + h // 3), fill=tuple(draw.integers(0, 256, 3).tolist()))
    return image


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def differences(content, size):
    """Grey levels between the whole image and the fast one, both resized to the model's input."""
    short = min(size)
    target = tuple(max(SIDE, side * SIDE // short) for side in size)
    whole = decode_image(content, "image")
    fast = decode_image(content, "image", at_least=(FAST_TIMES * SIDE, FAST_TIMES * SIDE))
    assert min(fast.size) >= FAST_TIMES * SIDE
    assert fast.width < whole.width
    one, other = (np.asarray(image.resize(target, Image.Resampling.BICUBIC), np.int64) for image in (whole, fast))
    return np.abs(one - other)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(512, 512), (800, 600), (600, 800), (1200, 400), (513, 511), (1025, 767)])
@pytest.mark.parametrize(("draw", "most", "mean"), [(smooth, 6, 1.0), (sharp, 40, 2.5)])
def test_how_far_pixels_move(draw, most, mean, size, subsampling):
    """Most where a side is no multiple of the fraction, so that what is decoded reaches a little beyond the image."""
    found = differences(jpeg(draw(size), quality=90, subsampling=subsampling), size)
    assert found.max() <= most
    assert found.mean() <= mean


def test_one_grey_level_cannot_be_kept_so_that_it_is_not_the_default():
    found = differences(jpeg(sharp((800, 600)), quality=90, subsampling=2), (800, 600))
    assert found.max() > 1


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(jpeg(photo(700 + number, 500, seed=number), quality=92))
    photo(700, 500, seed=9).save(tmp_path / "5.png")
    return [*paths, tmp_path / "5.png"]


def test_it_is_asked_for_and_written_down(bundle, files, tmp_path, icclip):
    for name, flags in (("plain", []), ("fast", ["--fast-jpeg"])):
        outcome = icclip("embed", bundle, *files, "-o", tmp_path / f"{name}.npy", *flags)
        assert outcome.code == 0, outcome.err
    plain, fast = (np.load(tmp_path / f"{name}.npy") for name in ("plain", "fast"))
    np.testing.assert_array_equal(plain[:6], Encoder.open(bundle).encode_images(files))
    assert not np.array_equal(plain[:5], fast[:5])
    assert (plain * fast).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(plain[5], fast[5], rtol=0, atol=1e-6)  # No JPEG.


def test_it_is_for_image_files(bundle, tmp_path, icclip):
    (tmp_path / "texts.txt").write_text("a dog\n")
    outcome = icclip("embed", bundle, "--texts", tmp_path / "texts.txt", "--fast-jpeg")
    assert outcome.code == 2
    assert "--fast-jpeg is for image files" in outcome.err


def test_an_image_that_needs_nothing_is_not_copied():
    limits = Limits()
    decoder = Decoder(limits, Budget(limits.pixels_at_once), CallCount(None))
    turned = photo(20, 30, seed=1)
    turned.getexif()[0x0112] = 6
    for image, same in ((photo(20, 30, seed=0), True), (turned, False), (photo(20, 30, seed=0).convert("L"), False)):
        used = []
        decoder((0, lambda image=image: image), used.append)
        assert (used[0] is image) is same
        assert needs_nothing(image) is same
        np.testing.assert_array_equal(np.asarray(used[0]), np.asarray(decode_image(image, "image")))
