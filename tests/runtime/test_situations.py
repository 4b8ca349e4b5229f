"""What people give to an encoder, and what comes out: a value, or the class and the line of an error."""

from __future__ import annotations

import base64
import io
import os
import pathlib
import pickle
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.images import photo

from icclip.errors import CheckpointError, ClosedError, IcclipError, UnknownNameError
from icclip.errors import InputTypeError as Type
from icclip.errors import InputValueError as Value
from icclip.runtime import Encoder, Limits

LONGEST_LINE = 500
MODES = ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "F", "I")


@pytest.fixture(scope="module")
def encoder(bundles):
    return Encoder.open(bundles["clip"], provider="cpu", threads=2)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A directory with things in it that are given as images."""
    root = tmp_path_factory.mktemp("room")
    (root / "photo.png").write_bytes(PNG)
    (root / "mit Leerzeichen é.png").write_bytes(PNG)
    (root / "empty.png").touch()
    (root / "text.png").write_text("no image")
    (root / "cut.png").write_bytes(PNG[: len(PNG) // 2])
    os.mkfifo(root / "pipe.png")
    return root


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class Closed(io.BytesIO):
    def read(self, size=-1):
        raise OSError("the connection is gone")


class PathLike:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


class Stream:
    """Gives bytes and cannot be wound back, as an upload does."""

    def __init__(self, content):
        self.file = io.BytesIO(content)

    def read(self, size):
        return self.file.read(size)


class TwoDogs(str):
    __slots__ = ()


PHOTO = photo(40, 30)
PNG = encoded(PHOTO)
GREY = np.asarray(photo(40, 30, mode="L"))
COLOUR = np.asarray(PHOTO)
BOMB = encoded(Image.new("1", (9000, 9000)))


@dataclass(frozen=True)
class Case:
    name: str
    call: Any
    """(encoder, directory) -> what comes out"""
    rows: int | None = None
    error: type[Exception] | None = None
    line: str = ""


def image(name, give, rows=1):
    return Case(f"images: {name}", lambda e, room: e.encode_images(give(room)), rows)


def bad_image(name, give, error, line):
    return Case(f"images: {name}", lambda e, room: e.encode_images(give(room)), None, error, line)


def text(name, given, rows=1):
    return Case(f"texts: {name}", lambda e, _: e.encode_texts(given() if callable(given) else given), rows)


def bad_text(name, given, error, line):
    return Case(f"texts: {name}", lambda e, _: e.encode_texts(given() if callable(given) else given), None, error, line)


def bad_argument(name, call, error, line):
    return Case(f"arguments: {name}", lambda e, _: call(e), None, error, line)


# fmt: off
CASES = [
    # Images that are taken.
    image("one PIL image", lambda _: PHOTO),
    image("a list of one", lambda _: [PHOTO]),
    image("a tuple", lambda _: (PHOTO, PHOTO), 2),
    image("a deque", lambda _: deque([PHOTO, PHOTO]), 2),
    image("a generator", lambda _: (PHOTO for _ in range(3)), 3),
    image("a map object", lambda room: map(str, [room / "photo.png"] * 2), 2),
    image("an iterator of a directory", lambda room: sorted(room.glob("photo*")), 1),
    image("values of a dict", lambda _: {"a": PHOTO, "b": PNG}.values(), 2),
    image("nothing", lambda _: [], 0),
    image("an empty generator", lambda _: iter(()), 0),
    image("a path as text", lambda room: str(room / "photo.png")),
    image("a Path", lambda room: room / "photo.png"),
    image("a path-like object", lambda room: PathLike(str(room / "photo.png"))),
    image("a path with spaces and accents", lambda room: room / "mit Leerzeichen é.png"),
    image("bytes", lambda _: PNG),
    image("a bytearray", lambda _: bytearray(PNG)),
    image("a memoryview", lambda _: memoryview(PNG)),
    image("BytesIO", lambda _: io.BytesIO(PNG)),
    image("BytesIO that was written to", lambda _: _written()),
    image("one BytesIO in many rows", lambda _: [io.BytesIO(PNG)] * 8, 8),
    image("an open file", lambda room: (room / "photo.png").open("rb")),
    image("a stream without seek", lambda _: Stream(PNG)),
    image("an array [h, w, 3]", lambda _: COLOUR),
    image("an array [h, w]", lambda _: GREY),
    image("an array [n, h, w, 3]", lambda _: np.stack([COLOUR] * 3), 3),
    image("a view of an array", lambda _: COLOUR[::-2, ::-1]),
    image("a read-only array", lambda _: np.frombuffer(COLOUR.tobytes(), np.uint8).reshape(COLOUR.shape)),
    image("an array of paths", lambda room: np.array([str(room / "photo.png")] * 2), 2),
    image("an array of objects", lambda _: _objects(PHOTO, PNG), 2),
    image("a mixture", lambda room: [PHOTO, PNG, room / "photo.png", COLOUR, GREY, io.BytesIO(PNG)], 6),
    image("an image that is opened and not loaded", lambda room: [Image.open(room / "photo.png")] * 4, 4),
    image("one pixel", lambda _: Image.new("RGB", (1, 1))),
    image("one line of pixels", lambda _: Image.new("RGB", (3000, 1))),
    *[image(f"mode {mode}", lambda _, mode=mode: PHOTO.convert(mode)) for mode in MODES],
    image("16 bits", lambda _: Image.fromarray(GREY.astype(np.uint16) * 257)),
    image("a JPEG", lambda _: encoded(PHOTO, "JPEG")),
    image("an animation", lambda _: encoded(PHOTO, "GIF", save_all=True, append_images=[PHOTO])),
    # Images that are refused.
    bad_image("None", lambda _: None, Type, "images is of type NoneType, which is not accepted here: give an image or an"),
    bad_image("None among others", lambda _: [PHOTO, None], Type, "image 1 is of type NoneType: give a PIL image, a path"),
    bad_image("a number", lambda _: 3, Type, "images is of type int: give an image or an iterable of images"),
    bad_image("a number among others", lambda _: [PHOTO, PHOTO, 0.5], Type, "image 2 is of type float: give a PIL image"),
    bad_image("a dict", lambda _: {"image": PHOTO}, Type, "images is of type dict, which is not accepted here"),
    bad_image("a set", lambda _: {"a.png"}, Type, "images is of type set, which has no order: give an image or an"),
    bad_image("lists in a list", lambda _: [[PHOTO]], Type, "image 0 is of type list: give a PIL image"),
    bad_image("an array of floats", lambda _: COLOUR / 255, Value, "image 0: an array of float64, shape [30, 40, 3]: convert it to uint8"),
    bad_image("an array of another order", lambda _: COLOUR.transpose(2, 0, 1), Value, "images: a uint8 array of shape [3, 30, 40]: give [h, w, 3]"),
    bad_image("an array with alpha", lambda _: [np.zeros((4, 4, 4), np.uint8)], Value, "image 0: a uint8 array of shape [4, 4, 4]: give"),
    bad_image("an array of one dimension", lambda _: np.zeros(9, np.uint8), Value, "images: a uint8 array of shape [9]"),
    bad_image("an array of booleans", lambda _: GREY > 9, Value, "image 0: an array of bool, shape [30, 40]"),
    bad_image("an array without pixels", lambda _: np.zeros((0, 4, 3), np.uint8), Value, "image 0: has no pixels (array of shape [0, 4, 3])"),
    bad_image("no pixels", lambda _: [PHOTO, Image.new("RGB", (0, 0))], Value, "image 1: has no pixels (0 x 0)"),
    bad_image("empty bytes", lambda _: b"", Value, "image 0: the image is empty (0 bytes)"),
    bad_image("bytes of something else", lambda _: [PNG, b"nonsense"], Value, "image 1: not an image that Pillow can read"),
    bad_image("half an image", lambda room: room / "cut.png", Value, "cut.png): the image is corrupt or truncated"),
    bad_image("a text file", lambda room: room / "text.png", Value, "text.png): not an image that Pillow can read"),
    bad_image("an empty file", lambda room: room / "empty.png", Value, "empty.png): the image is empty (0 bytes)"),
    bad_image("a missing file", lambda room: [PHOTO, room / "none.png"], Value, "none.png): cannot read it: No such file"),
    bad_image("a directory", lambda room: room, Value, "not a file but a directory: give the files in it"),
    bad_image("a pipe", lambda room: room / "pipe.png", Value, "pipe.png): not a file but a pipe, a socket or a device"),
    bad_image("an endless device", lambda _: "/dev/zero", Value, "(/dev/zero): not a file but a pipe, a socket or a device"),
    bad_image("an address", lambda _: "https://example.org/a.png", Value, "image 0 (https://example.org/a.png): a URL is not a path"),
    bad_image("an address that Path has seen", lambda _: pathlib.Path("https://example.org/a.png"), Value, "a URL is not a path"),
    bad_image("a data URL", lambda _: "data:image/png;base64," + base64.b64encode(bytes(750_000)).decode(), Value, "a data URL is not a path: decode its base64"),
    bad_image("base64", lambda _: base64.b64encode(bytes(750_000)).decode(), Value, "cannot read it: File name too long"),
    bad_image("an empty path", lambda _: [""], Value, "image 0 (): "),
    bad_image("a path with a null", lambda _: "a\0b.png", Value, "cannot be a path"),
    bad_image("a path with line breaks", lambda _: "a\nb\x1b[31m.png", Value, r"image 0 (a\nb\x1b[31m.png): cannot read it"),
    bad_image("a path of bytes", lambda _: PathLike(b"a.png"), Type, "image 0 is a path of bytes: give it as text"),
    bad_image("a text file object", lambda room: (room / "text.png").open(), Type, "the file object gives str: open it in binary mode"),
    bad_image("a file object that fails", lambda _: Closed(PNG), Value, "cannot read the file object (OSError: the connection is gone)"),
    bad_image("a closed file", lambda _: _closed(), Value, "cannot read the file object (ValueError: I/O operation on closed file"),
    bad_image("a bomb", lambda _: [PNG, BOMB], Value, "image 1: 9000 x 9000 is more than 64,000,000 pixels: scale the image down"),
    bad_image("a bomb that is opened", lambda _: Image.open(io.BytesIO(BOMB)), Value, "image 0: 9000 x 9000 is more than"),
    bad_image("a bomb as an array", lambda _: np.broadcast_to(np.uint8(0), (9000, 9000)), Value, "image 0: 9000 x 9000 is more"),
    # Texts that are taken.
    text("one text", "a red circle"),
    text("an empty text", ""),
    text("a subclass of str", TwoDogs("two dogs")),
    text("a list", ["a", "b"], 2),
    text("a tuple", ("a", "b"), 2),
    text("a generator", lambda: (c for c in "abc"), 3),
    text("lines of a file", lambda: io.StringIO("a\nb\n"), 2),
    text("keys of a dict", {"a": 1, "b": 2}.keys, 2),
    text("an array of texts", lambda: np.array(["a", "bc"]), 2),
    text("nothing", [], 0),
    text("emoji and accents", ["👩‍👩‍👧‍👦", "e\u0301", "\u0000", "一只猫"], 4),
    text("a megabyte", "a dog runs " * 90_000),
    # Texts that are refused.
    bad_text("None", None, Type, "texts is of type NoneType"),
    bad_text("None among others", ["a", None], Type, "text 1 is of type NoneType: give a str"),
    bad_text("a number", 7, Type, "texts is of type int: give a text or an iterable of texts"),
    bad_text("not a number, as pandas has it", ["a", float("nan")], Type, "text 1 is of type float: give a str"),
    bad_text("tuples in a list", [("a", "b")], Type, "text 0 is of type tuple: give a str"),
    bad_text("bytes", b"a dog", Type, "texts is of type bytes, which is not accepted here"),
    bad_text("bytes among others", [b"a dog"], Type, "text 0 is of type bytes: give a str"),
    bad_text("a dict", {"a": 1}, Type, "texts is of type dict, which is not accepted here"),
    bad_text("a set", {"a"}, Type, "texts is of type set, which has no order"),
    bad_text("a lone surrogate", ["a", "b\ud800"], Value, r"text 1 holds a lone surrogate ('\ud800', character 1)"),
    bad_text("ten megabytes", ["a", "x" * 10_000_000], Value, "has 10,000,000 characters, more than 1,000,000: shorten it"),
    bad_text("images", [PHOTO], Type, "text 0 is of type PIL.Image: give a str"),
    # Ranking.
    Case("rank: one text", lambda e, _: e.rank(PHOTO, "cat"), 1),
    Case("rank: texts", lambda e, _: e.rank(PNG, ["cat", "dog"]), 2),
    Case("rank: nothing", lambda e, _: e.rank(PHOTO, []), 0),
    Case("rank: a list of images", lambda e, _: e.rank([PHOTO], ["a"]), None, Type, "image is of type list: give one image"),
    Case("rank: None", lambda e, _: e.rank(None, ["a"]), None, Type, "image is of type NoneType: give one image"),
    # Arguments.
    bad_argument("batch_size 0", lambda e: e.encode_texts(["a"], batch_size=0), Value, "batch_size is 0: give at least 1"),
    bad_argument("batch_size -1", lambda e: e.encode_images([PHOTO], batch_size=-1), Value, "batch_size is -1: give at least 1"),
    bad_argument("batch_size as text", lambda e: e.encode_images([PHOTO], batch_size="8"), Type, "batch_size is of type str"),
    bad_argument("batch_size True", lambda e: e.encode_images([PHOTO], batch_size=True), Type, "batch_size is of type bool"),
    bad_argument("batch_size of a stream", lambda e: e.iter_encode_images([PHOTO], batch_size=0), Value, "batch_size is 0"),
    bad_argument("errors", lambda e: e.encode_images([PHOTO], errors="ignore"), Value, "errors is 'ignore': give one of 'raise', 'skip', 'null'"),
    bad_argument("errors None", lambda e: e.encode_texts(["a"], errors=None), Type, "errors is of type NoneType"),
    bad_argument("threads 0", lambda e: Encoder.open(e.bundle, threads=0), Value, "threads is 0: give at least 1"),
    bad_argument("threads -1", lambda e: Encoder.open(e.bundle, threads=-1), Value, "threads is -1: give at least 1"),
    bad_argument("threads as text", lambda e: Encoder.open(e.bundle, threads="2"), Type, "threads is of type str"),
    bad_argument("precision ''", lambda e: Encoder.open(e.bundle, ""), UnknownNameError, "unknown precision ''; known: fp32"),
    bad_argument("precision 16", lambda e: Encoder.open(e.bundle, 16), Type, "precision is of type int"),
    bad_argument("provider", lambda e: Encoder.open(e.bundle, provider="gpu"), UnknownNameError, "unknown provider 'gpu'"),
    bad_argument("limits", lambda e: Encoder.open(e.bundle, limits={}), Type, "limits is of type dict"),
    bad_argument("a limit of 0", lambda _: Limits(pixels_per_call=0), Value, "pixels_per_call is 0: give at least 1"),
    bad_argument("a limit of half", lambda _: Limits(characters_per_text=0.5), Type, "characters_per_text is of type float"),
    bad_argument("bundle None", lambda _: Encoder.open(None), Type, "bundle is of type NoneType: give the path of"),
    bad_argument("bundle ''", lambda _: Encoder.open(""), Value, "bundle '' cannot be a path"),
    bad_argument("bundle nowhere", lambda _: Encoder.open("/nowhere"), CheckpointError, "/nowhere is not a bundle: cannot read icclip.json"),
    bad_argument("closed", lambda e: _close(pickle.loads(pickle.dumps(e))).encode_texts("a"), ClosedError, "this encoder is closed: open the bundle again"),
    bad_argument("closed, images", lambda e: _close(pickle.loads(pickle.dumps(e))).encode_images(PHOTO), ClosedError, "this encoder is closed"),
]
# fmt: on


def _written():
    buffer = io.BytesIO()
    PHOTO.save(buffer, "PNG")
    return buffer


def _objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _closed():
    file = io.BytesIO(PNG)
    file.close()
    return file


def _close(encoder):
    encoder.close()
    return encoder


def test_the_table_is_large_and_its_names_differ():
    assert len({case.name for case in CASES}) == len(CASES) >= 80


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # files are opened in the table and left to it
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_comes_out(case, encoder, room):
    if case.error is None:
        found = case.call(encoder, room)
        assert (len(found), found.dtype) == (case.rows, np.float32)
        assert np.isfinite(found).all()
        return
    with pytest.raises(case.error) as caught:
        case.call(encoder, room)
    line = str(caught.value)
    assert case.line in line
    assert "\n" not in line
    assert len(line) < LONGEST_LINE
    assert isinstance(caught.value, IcclipError)
    if case.error in (Type, Value):
        assert isinstance(caught.value, TypeError if case.error is Type else ValueError)


def test_however_it_is_given_it_is_the_same_image(encoder, room):
    ways = [
        PHOTO,
        PNG,
        bytearray(PNG),
        io.BytesIO(PNG),
        str(room / "photo.png"),
        room / "photo.png",
        COLOUR,
        Stream(PNG),
    ]
    rows = encoder.encode_images(ways)
    np.testing.assert_array_equal(rows, np.repeat(encoder.encode_images(PHOTO), len(ways), axis=0))
    grey = encoder.encode_images([GREY, Image.fromarray(GREY)])
    np.testing.assert_array_equal(grey[0], grey[1])
