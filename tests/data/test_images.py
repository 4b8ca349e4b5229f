from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from icclip.data.images import decode_image
from icclip.errors import DataError


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(size=(8, 6)):
    """Every pixel another colour."""
    width, height = size
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    return Image.fromarray(pixels)


def test_bytes_path_and_image_give_the_same(tmp_path):
    content = encoded(picture(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for source in (content, path, picture(), Image.open(path)):
        decoded = decode_image(source, "here")
        assert decoded.mode == "RGB"
        assert np.array_equal(np.asarray(decoded), np.asarray(picture()))


def test_an_open_image_is_kept_as_it_is():
    source = Image.new("L", (4, 4), 7)
    decode_image(source, "here")
    assert source.mode == "L"


def test_cmyk_jpeg_keeps_its_colour():
    content = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    red, green, blue = decode_image(content, "here").getpixel((8, 8))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (255, 1), (257, 1), (32896, 128), (65535, 255)])
def test_sixteen_bit_grey_is_scaled_not_clipped(level, expected):
    content = encoded(Image.fromarray(np.full((2, 3), level, dtype=np.uint16)), "PNG")
    assert decode_image(content, "here").getpixel((0, 0)) == (expected,) * 3


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_sixteen_bit_tiff_of_either_byte_order(byte_order):
    image = Image.frombytes(
        "I;16" if byte_order == "<u2" else "I;16B", (2, 2), np.full(4, 0x8000, dtype=byte_order).tobytes()
    )
    assert decode_image(image, "here").getpixel((1, 1)) == (128, 128, 128)


def test_thirty_two_bit_integers_are_taken_as_sixteen_bit_levels():
    assert decode_image(Image.new("I", (1, 1), 65535), "here").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_colour():
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 0, 32896, 0, 65535, 0) for _ in range(1))
    assert decode_image(_png(2, 1, depth=16, colour=2, rows=rows), "here").getpixel((0, 0)) == (255, 0, 128)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content, "here").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture().transpose(undo[orientation]) if orientation in undo else picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(stored, "PNG", exif=exif), "here")
    assert np.array_equal(np.asarray(decoded), np.asarray(picture()))


def test_damaged_exif_data_costs_the_orientation_not_the_image():
    content = encoded(picture(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert np.array_equal(np.asarray(decode_image(content, "here")), np.asarray(picture()))


def test_transparency_is_dropped_as_transformers_does():
    image = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert decode_image(encoded(image, "PNG"), "here").getpixel((0, 0)) == (10, 20, 30)


def test_palette_with_transparency_warns_of_nothing():
    image = Image.new("P", (2, 2))
    image.putpalette([200, 100, 50])
    content = encoded(image, "PNG", transparency=b"\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(content, "here").getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "YCbCr", "HSV", "F", "RGBX"])
def test_every_other_mode_becomes_rgb(mode):
    assert decode_image(Image.new(mode, (3, 3)), "here").mode == "RGB"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the image is empty (0 bytes)"),
        (b"not a picture", "not an image that Pillow can read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image that Pillow can read"),
    ],
)
def test_what_is_no_image(content, reason):
    with pytest.raises(DataError) as caught:
        decode_image(content, "train row 3 (a.jpg)")
    assert str(caught.value) == f"train row 3 (a.jpg): {reason}"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_images_of_every_kind(kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    with pytest.raises(DataError, match=r"^here: (the image is corrupt or truncated \(.+\)|not an image .*)$"):
        decode_image(content[: len(content) // 2], "here")


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"^row 1: cannot read .*absent\.jpg: No such file or directory$"):
        decode_image(tmp_path / "absent.jpg", "row 1")


@pytest.mark.parametrize("factor", [1.5, 4])
@pytest.mark.parametrize("action", ["default", "error"])
def test_a_decompression_bomb_is_refused_without_a_warning(monkeypatch, factor, action):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    content = encoded(Image.new("L", (int(1000 * factor), 1)), "PNG")
    with warnings.catch_warnings(record=True) as noise:
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        if action == "default":
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(DataError, match=r"^here: more than 1,000 pixels, refused as a decompression bomb"):
            decode_image(content, "here")
    assert not noise


def test_an_image_at_the_limit_is_read(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_image(encoded(Image.new("L", (1000, 1)), "PNG"), "here").size == (1000, 1)


def test_threads_decode_side_by_side():
    content, results = encoded(picture(), "JPEG"), []
    threads = [threading.Thread(target=lambda: results.append(decode_image(content, "here"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({image.tobytes() for image in results}) == 1
    assert len(results) == 8


def _png(width, height, *, depth, colour, rows):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_large_image_is_halved_before_anything_else(monkeypatch, kind, mode):
    if (kind, mode) in {("JPEG", "P"), ("JPEG", "RGBA")}:
        pytest.skip("JPEG has no such mode")
    monkeypatch.setattr("icclip.data.images.LARGE", 2400)
    source = Image.new("L", (120, 80), 200)
    source.paste(40, (0, 0, 60, 40))
    decoded = decode_image(encoded(source.convert(mode), kind, exif=orientation(6)), "here")
    assert decoded.size == (40, 60)
    assert decoded.mode == "RGB"
    # Turned clockwise: what was at the top left is at the top right.
    assert abs(decoded.getpixel((35, 5))[0] - 40) < 6
    assert abs(decoded.getpixel((5, 5))[0] - 200) < 6


def test_an_image_that_is_not_large_keeps_its_pixels(monkeypatch):
    monkeypatch.setattr("icclip.data.images.LARGE", 48)
    assert np.array_equal(np.asarray(decode_image(encoded(picture(), "PNG"), "here")), np.asarray(picture()))


@pytest.mark.parametrize(
    ("brand", "message"),
    [(b"heic", "a HEIC image, which needs a plugin: pip install pillow-heif"), (b"avif", "pip install 'pillow>=11.3'"),
     (b"xxxx", "not an image that Pillow can read")],
)  # fmt: skip
def test_encodings_that_need_a_plugin_are_named(brand, message, tmp_path, monkeypatch):
    Image.init()
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in {"HEIF", "AVIF"}])
    for known in ("HEIF", "AVIF"):
        monkeypatch.delitem(Image.OPEN, known, raising=False)
    content = b"\0\0\0\x18ftyp" + brand + b"\0" * 40
    (tmp_path / "a.img").write_bytes(content)
    for source in (content, tmp_path / "a.img"):
        with pytest.raises(DataError, match=f"^here: .*{message}"):
            decode_image(source, "here")


@pytest.mark.parametrize(("brand", "kind", "known"), [(b"heic", "HEIC", "HEIF"), (b"avif", "AVIF", "AVIF")])
def test_where_the_plugin_is_there_such_an_image_is_corrupt(brand, kind, known, monkeypatch):
    monkeypatch.setitem(Image.OPEN, known, (None, lambda _: False))
    with pytest.raises(DataError, match=f"^here: the {kind} image is corrupt or truncated$"):
        decode_image(b"\0\0\0\x18ftyp" + brand + b"\0" * 40, "here")


def test_heic_is_read_once_the_package_for_it_is_there(monkeypatch):
    from icclip.data import images

    called = []
    package = type("package", (), {"register_heif_opener": staticmethod(lambda: called.append(1))})
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", package)
    images._register_heif.cache_clear()
    with pytest.raises(DataError):
        decode_image(b"\0\0\0\x18ftypheic" + b"\0" * 40, "here")
    images._register_heif.cache_clear()
    assert called == [1]
