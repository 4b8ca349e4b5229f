"""What a service relies on: limits, streams, bad items, a start that is finished, an end, and nothing heavy."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from support.bundles import TEXTS
from support.images import photo

from icclip.bundles import manifest as m
from icclip.bundles.parity_record import BATCH, measured_batch
from icclip.console import Reporter
from icclip.errors import CheckpointError, ClosedError, DataError, InputValueError
from icclip.runtime import Encoded, Encoder, Failure, Limits
from icclip.runtime.cpu import WITHOUT_VNNI
from icclip.runtime.limits import Budget

MEGAPIXEL = Limits(pixels_per_image=1_000_000, pixels_per_call=2_500_000)


@pytest.fixture(scope="module")
def clip(bundles):
    return Encoder.open(bundles["clip"], provider="cpu", threads=2)


@pytest.fixture(scope="module")
def images():
    return [photo(30 + row, 40, seed=row) for row in range(7)]


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


# Limits


@pytest.mark.parametrize("form", ["pil", "bytes", "path", "array"])
def test_pixels_of_an_image_are_limited_in_every_form(bundles, form, tmp_path):
    encoder = Encoder.open(bundles["clip"], provider="cpu", limits=MEGAPIXEL)
    image = Image.new("RGB", (1000, 1001))
    (tmp_path / "large.png").write_bytes(encoded(image))
    forms = {"pil": image, "bytes": encoded(image), "path": tmp_path / "large.png", "array": np.asarray(image)}
    with pytest.raises(InputValueError, match="1000 x 1001 is more than 1,000,000 pixels: scale the image down, or"):
        encoder.encode_images(forms[form])


def test_pixels_of_a_call_are_limited_and_not_those_of_a_stream(bundles):
    encoder = Encoder.open(bundles["clip"], provider="cpu", limits=MEGAPIXEL)
    images = [Image.new("RGB", (1000, 1000))] * 3
    with pytest.raises(InputValueError, match=r"this call have more than 2,500,000 pixels in total: give fewer at a"):
        encoder.encode_images(images)
    # It is the call that is too large, and not an item that could be left out.
    with pytest.raises(InputValueError, match="more than 2,500,000 pixels in total"):
        encoder.encode_images(images, errors="skip")
    assert len(encoder.encode_images(images[:2])) == 2
    assert sum(map(len, encoder.iter_encode_images(images))) == 3


def test_bytes_and_characters_are_limited(bundles, tmp_path):
    encoder = Encoder.open(bundles["clip"], provider="cpu", limits=Limits(bytes_per_image=100, characters_per_text=5))
    content = encoded(photo(40, 40))
    (tmp_path / "a.png").write_bytes(content)
    for given in (content, tmp_path / "a.png", io.BytesIO(content)):
        with pytest.raises(InputValueError, match=r"more than 100 bytes: scale the image down, or raise Limits.bytes"):
            encoder.encode_images(given)
    with pytest.raises(InputValueError, match=r"text 1 \(.sixsix.\) has 6 characters, more than 5"):
        encoder.encode_texts(["five.", "sixsix"])


def test_images_wait_until_there_is_room_for_them():
    budget, order = Budget(10), []
    first = threading.Event()

    def hold(name, amount):
        with budget.hold(amount):
            order.append(name)
            first.wait(5)

    threads = [threading.Thread(target=hold, args=("a", 8))]
    threads[0].start()
    while not order:
        time.sleep(0.001)
    threads.append(threading.Thread(target=hold, args=("b", 8)))
    threads[1].start()
    time.sleep(0.05)
    assert order == ["a"]
    first.set()
    for thread in threads:
        thread.join(5)
    assert order == ["a", "b"]
    with budget.hold(99):
        """What is larger than the whole budget goes through alone."""


# Bad items


def test_bad_images_are_left_out_or_have_a_row_of_nan(clip, images):
    given = [images[0], b"?", images[1], None, images[2]]
    good = clip.encode_images(images[:3])
    skipped = clip.encode_images(given, errors="skip")
    assert isinstance(skipped, Encoded)
    np.testing.assert_array_equal(skipped.rows, [0, 2, 4])
    np.testing.assert_allclose(skipped.embeddings, good, atol=1e-6)
    assert [failure.row for failure in skipped.failures] == [1, 3]
    assert skipped.failures[0] == Failure(1, "image 1: not an image that Pillow can read")
    null = clip.encode_images(given, errors="null", batch_size=2)
    np.testing.assert_array_equal(null.rows, range(5))
    np.testing.assert_array_equal(np.isnan(null.embeddings).all(axis=1), [False, True, False, True, False])
    np.testing.assert_allclose(null.embeddings[[0, 2, 4]], good, atol=1e-6)
    assert null.failures == skipped.failures


def test_bad_texts_are_left_out_or_have_a_row_of_nan(clip):
    given = ["a dog", None, "cats", "\ud800"]
    skipped = clip.encode_texts(given, errors="skip")
    np.testing.assert_array_equal(skipped.rows, [0, 2])
    np.testing.assert_allclose(skipped.embeddings, clip.encode_texts(["a dog", "cats"]), atol=1e-6)
    null = clip.encode_texts(given, errors="null")
    np.testing.assert_array_equal(np.isnan(null.embeddings).all(axis=1), [False, True, False, True])
    assert [failure.row for failure in null.failures] == [1, 3]


@pytest.mark.parametrize("errors", ["skip", "null"])
def test_nothing_but_bad_items(clip, errors):
    found = clip.encode_images([b"?"] * 3, errors=errors)
    assert found.embeddings.shape == (0 if errors == "skip" else 3, clip.dim)
    assert len(found.failures) == 3


def test_a_bug_in_the_callers_own_sequence_is_not_hidden(clip):
    class Broken(list):
        def __getitem__(self, index):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        clip.encode_images(Broken([1, 2]), errors="skip")


def test_what_a_lazy_sequence_says_of_an_image_is_that_images_failure(clip, images):
    class Lazy(list):
        def __getitem__(self, index):
            if index == 1:
                raise DataError("row 1 of the archive is damaged")
            return super().__getitem__(index)

    found = clip.encode_images(Lazy(images[:3]), errors="skip")
    assert found.failures == (Failure(1, "row 1 of the archive is damaged"),)


# Streams


def test_a_stream_gives_the_rows_of_a_call(clip, images):
    steps = []
    parts = list(clip.iter_encode_images(iter(images), batch_size=3, progress=steps.append))
    assert [part.rows.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert steps == [3, 3, 1]
    whole = clip.encode_images(images, batch_size=3)
    np.testing.assert_array_equal(np.concatenate([part.embeddings for part in parts]), whole)


def test_an_endless_stream_is_read_a_little_ahead(clip, images):
    taken = []

    def endless():
        while True:
            taken.append(None)
            yield images[0]

    stream = clip.iter_encode_images(endless(), batch_size=4)
    for _ in range(3):
        assert len(next(stream)) == 4
    stream.close()
    # Three batches were given, one is being made, and one item tells whether it is the last.
    assert len(taken) <= 3 * 4 + 2 * 4 + 1


def test_a_stream_ends_with_the_callers_error_and_after_what_came_before(clip, images):
    def breaking():
        yield from images[:4]
        raise RuntimeError("the queue is gone")

    stream = clip.iter_encode_images(breaking(), batch_size=2)
    assert len(next(stream)) == 2
    with pytest.raises(RuntimeError, match="the queue is gone"):
        list(stream)


def test_bad_items_of_a_stream_count_over_all_of_it(clip, images):
    stream = clip.iter_encode_images([images[0], images[1], b"?", images[2]], batch_size=2, errors="null")
    first, second = stream
    assert first.failures == ()
    assert second.failures[0].row == 2
    np.testing.assert_array_equal(second.rows, [2, 3])
    assert np.isnan(second.embeddings[0]).all()


def test_progress_of_texts(clip):
    steps = []
    clip.encode_texts([*TEXTS, None], errors="skip", batch_size=2, progress=steps.append)
    assert sum(steps) == len(TEXTS) + 1


# Life


def test_warm_loads_everything_and_close_lets_it_go(bundle, images):
    with Encoder.open(bundle, provider="cpu", warm=True) as encoder:
        assert set(encoder._shared.sessions) == {"vision", "text"}
        encoder.encode_images(images[0])
    assert encoder._shared.sessions == {}
    for use in (lambda: encoder.encode_texts("a"), lambda: encoder.encode_images(images), encoder.__enter__):
        with pytest.raises(ClosedError, match="this encoder is closed: open the bundle again"):
            use()


def test_warm_finds_damage_at_once(fresh):
    graph = fresh / "onnx/text_model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    Encoder.open(fresh, provider="cpu")
    with pytest.raises(CheckpointError, match=r"text_model.onnx is not the file that icclip.json describes"):
        Encoder.open(fresh, provider="cpu", warm=True)


def test_warm_wants_a_digest(fresh):
    values = json.loads((fresh / m.NAME).read_text())
    del values["digest"]
    (fresh / m.NAME).write_text(json.dumps(values))
    Encoder.open(fresh, provider="cpu")
    with pytest.raises(CheckpointError, match=r"icclip.json has no digest, so changes to it cannot be detected"):
        Encoder.open(fresh, provider="cpu", warm=True)


def test_a_changed_manifest_does_not_open(fresh):
    values = json.loads((fresh / m.NAME).read_text())
    values["image"]["mean"] = [0.1, 0.2, 0.3]
    (fresh / m.NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        Encoder.open(fresh)


def test_what_it_says_of_itself(bundle, tiny):
    encoder = Encoder.open(bundle, provider="cpu", threads=3)
    assert (encoder.dim, encoder.image_size) == (encoder.manifest.embedding_dim, (32, 32))
    assert encoder.max_length == tiny.text.max_length
    assert encoder.logit_scale == pytest.approx(tiny.model.logit_scale.item())
    assert (encoder.logit_bias is None) == (tiny.loss == "softmax")
    assert (encoder.precision, encoder.provider) == ("fp32", "cpu")
    line = repr(encoder)
    assert "\n" not in line
    assert len(line) < 200
    assert line.startswith(f"<icclip Encoder {bundle.name!r}: ")
    assert "3 threads (asked for)" in line


def test_equal_encoders_give_equal_embeddings(bundles, tmp_path):
    import shutil

    copy = shutil.copytree(bundles["clip"], tmp_path / "copy")
    one, other = (Encoder.open(path, provider="cpu", threads=1) for path in (bundles["clip"], copy))
    assert one.fingerprint == other.fingerprint
    assert len({one, other}) == 1
    siglip = Encoder.open(bundles["siglip"], provider="cpu", threads=1)
    assert siglip != one
    assert siglip.fingerprint != one.fingerprint
    assert one != "encoder"
    # Whatever decides embeddings or scores is part of the fingerprint.
    changed = dataclasses.replace(one, manifest=dataclasses.replace(one.manifest, logit_scale=0.5))
    assert changed.fingerprint != one.fingerprint


# Rows and their neighbours


def test_int8_rows_do_not_depend_on_their_neighbours(dynamic, images):
    encoder = Encoder.open(dynamic, "int8", provider="cpu")
    assert encoder.rows_alone
    assert measured_batch(encoder) == 1
    together = encoder.encode_images(images)
    for row, image in enumerate(images):
        np.testing.assert_array_equal(encoder.encode_images(image)[0], together[row])
    texts = encoder.encode_texts(TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(encoder.encode_texts(text)[0], texts[row])
    # A batch that is asked for is given, with what it does to the rows.
    assert not np.array_equal(encoder.encode_images(images, batch_size=7), together)


def test_float32_rows_run_in_batches(dynamic):
    encoder = Encoder.open(dynamic, provider="cpu")
    assert not encoder.rows_alone
    assert measured_batch(encoder) == BATCH


def test_int8_says_what_the_cpu_lacks(dynamic, monkeypatch, capsys):
    monkeypatch.setattr("icclip.runtime.cpu.cpu_flags", lambda: frozenset({"avx2"}))
    assert Encoder.open(dynamic, "int8", provider="cpu", reporter=Reporter()).notes == (WITHOUT_VNNI,)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(WITHOUT_VNNI) == 1
    assert Encoder.open(dynamic, "fp32", provider="cpu", reporter=Reporter()).notes == ()
    monkeypatch.setattr("icclip.runtime.cpu.cpu_flags", lambda: frozenset({"avx2", "avx_vnni"}))
    assert Encoder.open(dynamic, "int8", provider="cpu", reporter=Reporter()).notes == ()
    assert WITHOUT_VNNI not in " ".join(capsys.readouterr().err.split())


def test_bundles_that_do_not_say_it_are_looked_at(dynamic, tmp_path):
    import shutil

    root = shutil.copytree(dynamic, tmp_path / "old")
    values = json.loads((root / m.NAME).read_text())
    del values["digest"], values["precisions"]["int8"]["dynamic"]
    (root / m.NAME).write_text(json.dumps(values))
    assert Encoder.open(root, "int8", provider="cpu").rows_alone


# Light


LIGHT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"rich", "typer", "torch", "transformers"}:
            raise ImportError(f"{name} must not be needed")
sys.meta_path.insert(0, Refuse())
from icclip.runtime import Encoder
encoder = Encoder.open(sys.argv[1], warm=True)
encoder.rank(sys.argv[2], ["a red square"])
"""


def test_it_needs_neither_rich_nor_typer_and_writes_nothing(bundle, pytestconfig):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(bundle), str(bundle / "golden/000.png")],
        env={"PYTHONPATH": str(pytestconfig.rootpath)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
