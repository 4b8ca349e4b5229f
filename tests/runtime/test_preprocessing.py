"""Against transformers' slow (PIL) processors, which need no torchvision."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from support.images import photo

from icclip.bundles.manifest import ImageInputs
from icclip.data.images import decode_image
from icclip.errors import CheckpointError, DataError
from icclip.runtime.preprocessing import MAX_LONG_SIDE, Preprocessor, image_inputs_from

SIZES = [
    (1, 1), (1, 7), (9, 1), (2, 3), (31, 33), (33, 31), (32, 32), (64, 64), (47, 61), (100, 37), (37, 100),
    (333, 500), (500, 375), (511, 257), (640, 427), (15, 150), (150, 15), (400, 30), (30, 400),
]  # fmt: skip
PANORAMAS = [(1, 600), (600, 1), (3, 700), (1500, 4), (2, 1001)]


def processors():
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    return {
        "clip": CLIPImageProcessor(),
        "clip, odd crop": CLIPImageProcessor(size={"shortest_edge": 37}, crop_size={"height": 30, "width": 35}),
        "clip, crop larger than the image": CLIPImageProcessor(size={"shortest_edge": 20}, crop_size=31),
        "clip, only cropped": CLIPImageProcessor(do_resize=False, crop_size=48),
        "clip, bilinear": CLIPImageProcessor(resample=2, size={"shortest_edge": 64}, crop_size=64),
        "siglip": SiglipImageProcessor(),
        "siglip, not square": SiglipImageProcessor(size={"height": 33, "width": 65}, resample=2),
        "siglip, 0 to 1": SiglipImageProcessor(do_normalize=False, size={"height": 16, "width": 16}),
        "siglip, raw": SiglipImageProcessor(do_normalize=False, do_rescale=False, size={"height": 16, "width": 16}),
        "siglip, normalised without rescaling": SiglipImageProcessor(do_rescale=False, size={"height": 8, "width": 8}),
    }


@pytest.fixture(scope="module", params=processors())
def processor(request):
    return processors()[request.param]


def ours(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    return Preprocessor(image_inputs_from(json.loads((tmp_path / "preprocessor_config.json").read_text()), "test"))


def theirs(processor, image):
    return processor(images=[image], return_tensors="np", input_data_format="channels_last")["pixel_values"][0]


def test_bit_equal_to_transformers_on_all_sizes(processor, tmp_path):
    preprocess = ours(processor, tmp_path)
    images = [photo(w, h) for w, h in SIZES]
    expected = np.stack([theirs(processor, image) for image in images])
    np.testing.assert_array_equal(preprocess(images), expected)


def test_extreme_panoramas_are_at_most_one_grey_level_off(tmp_path):
    processor = processors()["clip"]
    preprocess = ours(processor, tmp_path)
    images = [photo(w, h) for w, h in PANORAMAS]
    assert all(max(i.size) / min(i.size) > MAX_LONG_SIDE for i in images)
    grey_level = 1 / 255 / np.array(processor.image_std)[:, None, None]
    for image, made in zip(images, preprocess(images), strict=True):
        assert (np.abs(made - theirs(processor, image)) <= 1.001 * grey_level).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr"])
def test_bit_equal_to_transformers_in_all_modes(mode, tmp_path):
    processor = processors()["clip"]
    image = photo(61, 47).convert(mode)
    np.testing.assert_array_equal(ours(processor, tmp_path)([image])[0], theirs(processor, image.convert("RGB")))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_bytes_paths_and_images_are_the_same(tmp_path):
    preprocess = ours(processors()["siglip"], tmp_path)
    image = photo(50, 40)
    content = encoded(image, "PNG")
    (tmp_path / "image.png").write_bytes(content)
    batch = preprocess([image, content, tmp_path / "image.png", str(tmp_path / "image.png")])
    for other in batch[1:]:
        np.testing.assert_array_equal(other, batch[0])


def test_exif_orientation_is_applied(tmp_path):
    processor = processors()["clip"]
    image = photo(80, 50)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(image, "PNG", exif=exif)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(ours(processor, tmp_path)([turned])[0], theirs(processor, upright))


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    grey = np.asarray(photo(40, 40, mode="L"))
    deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    processor = processors()["siglip"]
    expected = theirs(processor, Image.fromarray(grey).convert("RGB"))
    np.testing.assert_array_equal(ours(processor, tmp_path)([deep])[0], expected)


def test_a_pool_changes_nothing(tmp_path):
    preprocess = ours(processors()["clip"], tmp_path)
    images = [photo(w, h) for w, h in SIZES]
    alone = preprocess(images)
    with ThreadPoolExecutor(3) as pool:
        np.testing.assert_array_equal(preprocess(images, pool=pool), alone)
        np.testing.assert_array_equal(preprocess(images[4:7], pool), alone[4:7])
    assert preprocess([]).shape == (0, 3, 224, 224)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    preprocess = ours(processors()["clip"], tmp_path)
    with pytest.raises(DataError, match="image 1: "):
        preprocess([photo(8, 8), b"no image"])
    with pytest.raises(DataError, match=r"missing.png"), ThreadPoolExecutor(2) as pool:
        preprocess([photo(8, 8), tmp_path / "missing.png"], pool=pool)


@pytest.mark.parametrize("width", [1, 5, 38, 200])
def test_photographs_of_the_real_decoder(width, tmp_path):
    content = encoded(photo(width, 77), "JPEG", quality=80)
    processor = processors()["clip"]
    expected = theirs(processor, decode_image(content, "x"))
    np.testing.assert_array_equal(ours(processor, tmp_path)([content])[0], expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_pad": True, "size": 8}, "here: do_pad is not supported"),
        ({"size": {"longest_edge": 8}}, r"here: size {'longest_edge': 8} is not supported"),
        ({"do_resize": False}, "here: images would keep different sizes"),
        ({"size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.5]}, "here: mean has 1 values"),
    ],
)
def test_configs_that_cannot_be_carried_out(config, message):
    with pytest.raises(CheckpointError, match=message):
        image_inputs_from(config, "here")


def test_numbers_stand_for_sizes_as_in_old_checkpoints():
    inputs = image_inputs_from(
        {"do_center_crop": True, "size": 40, "crop_size": 32, "image_mean": 0.5, "image_std": 0.5}, "x"
    )
    assert (inputs.shortest_edge, inputs.height, inputs.size, inputs.mean) == (40, None, (32, 32), (0.5, 0.5, 0.5))
    assert image_inputs_from({"size": 40}, "x").size == (40, 40)


def test_the_levels_are_those_of_the_formula():
    inputs = ImageInputs(processor="x", height=1, width=1, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 2.0))
    levels = Preprocessor(inputs).levels
    np.testing.assert_allclose(levels[:, 255], [1.0, 1.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(levels[:, 0], [-1.0, -0.5, 0.0], rtol=1e-6)
