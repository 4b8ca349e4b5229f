"""Many inputs, divided among cores: the same rows, the same errors, and when it happens."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from support.bundles import TEXTS
from support.images import photo

from icclip.errors import CheckpointError, ClosedError, InputValueError
from icclip.runtime import Encoder, Failure, Limits
from icclip.runtime.lanes import IMAGES, RUNS_EACH, Lanes, lane_step
from icclip.runtime.pipeline import workers

MANY = 40
"""Images; with two threads, lanes begin at 16."""


@pytest.fixture(scope="module")
def images():
    return [photo(30 + row, 40, seed=row) for row in range(MANY)]


@pytest.fixture(scope="module")
def texts():
    return [f"{text} {number}" for number in range(80) for text in TEXTS]


@pytest.fixture
def encoder(bundle):
    with Encoder.open(bundle, provider="cpu", threads=2) as encoder:
        yield encoder


@pytest.fixture
def plain(bundle):
    """The same bundle without lanes."""
    with Encoder.open(bundle, provider="cpu", threads=1) as encoder:
        yield encoder


def used(encoder):
    return set(encoder._shared.lanes), set(encoder._shared.sessions)


def test_many_images_give_the_rows_of_the_plain_path(encoder, plain, images):
    steps = []
    divided = encoder.encode_images(images, progress=steps.append)
    assert used(encoder) == ({"vision"}, set())
    assert sum(steps) == MANY
    np.testing.assert_allclose(divided, plain.encode_images(images), rtol=0, atol=1e-6)
    assert used(plain) == (set(), {"vision"})
    # Whichever core was free first.
    np.testing.assert_array_equal(encoder.encode_images(images), divided)


def test_many_texts_give_the_rows_of_the_plain_path(encoder, plain, texts):
    steps = []
    divided = encoder.encode_texts(texts, progress=steps.append)
    assert used(encoder) == ({"text"}, set())
    assert sum(steps) == len(texts)
    np.testing.assert_allclose(divided, plain.encode_texts(texts), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(encoder.encode_texts(texts), divided)


def test_few_inputs_use_all_threads_together(encoder, images):
    encoder.encode_images(images[:3])
    encoder.encode_images(iter(images[:3]))
    encoder.encode_texts(["a dog"])
    assert used(encoder) == (set(), {"vision", "text"})


def test_a_generator_is_divided_once_it_proves_long(encoder, plain, images):
    found = encoder.encode_images(iter(images))
    assert used(encoder) == ({"vision"}, set())
    np.testing.assert_allclose(found, plain.encode_images(images), rtol=0, atol=1e-6)


def test_streams_keep_the_batches_that_were_asked_for(encoder, plain, images):
    parts = list(encoder.iter_encode_images(iter(images), batch_size=7))
    assert used(encoder) == ({"vision"}, set())
    assert [len(part) for part in parts] == [7] * 5 + [5]
    assert np.concatenate([part.rows for part in parts]).tolist() == list(range(MANY))
    rows = np.concatenate([part.embeddings for part in parts])
    np.testing.assert_allclose(rows, plain.encode_images(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("errors", ["skip", "null"])
def test_bad_images_keep_their_places(encoder, images, errors):
    mixed = [*images[:9], b"no image", *images[9:20], b"", *images[20:]]
    found = encoder.encode_images(mixed, errors=errors)
    assert used(encoder)[0] == {"vision"}
    assert [failure.row for failure in found.failures] == [9, 21]
    assert found.failures[0] == Failure(9, "image 9: not an image that Pillow can read")
    good = [row for row in range(len(mixed)) if row not in (9, 21)]
    whole = encoder.encode_images(images)
    if errors == "skip":
        assert found.rows.tolist() == good
        np.testing.assert_allclose(found.embeddings, whole, rtol=0, atol=1e-6)
    else:
        assert np.isnan(found.embeddings[[9, 21]]).all()
        np.testing.assert_allclose(found.embeddings[good], whole, rtol=0, atol=1e-6)


def test_the_first_bad_image_ends_the_call(encoder, images):
    with pytest.raises(InputValueError, match="image 9: not an image"):
        encoder.encode_images([*images[:9], b"no image", *images, b"nor this"])
    # And leaves the encoder as it was.
    assert len(encoder.encode_images(images)) == MANY


def test_an_error_leaves_no_thread_behind(encoder, images):
    encoder.encode_images(images)
    before = set(threading.enumerate())
    for many in (images, images[:3]):
        with pytest.raises(InputValueError) as held:
            encoder.encode_images([*many, b"no image"])
        # The traceback, and with it every frame, is still held.
        assert held.tb is not None
        assert set(threading.enumerate()) <= before


def test_limits_of_a_call_hold(bundle, images):
    encoder = Encoder.open(bundle, provider="cpu", threads=2, limits=Limits(pixels_per_call=20_000))
    with pytest.raises(InputValueError, match="more than 20,000 pixels in total"):
        encoder.encode_images(images)


def test_what_is_wrong_with_a_graph_is_said_in_lanes_too(encoder, images, monkeypatch):
    dim = encoder.dim
    monkeypatch.setattr("icclip.runtime.sessions.Session.run", lambda self, inputs, **_: np.zeros((len(inputs), dim)))
    with pytest.raises(CheckpointError, match="zero or not finite"):
        encoder.encode_images(images)


def test_closing_lets_lanes_go(encoder, images):
    encoder.encode_images(images)
    encoder.close()
    assert used(encoder) == (set(), set())
    with pytest.raises(ClosedError):
        encoder.encode_images(images)


def test_several_threads_share_the_lanes(encoder, images, texts):
    expected = encoder.encode_images(images), encoder.encode_texts(texts)
    found = {}

    def work(number):
        found[number] = encoder.encode_images(images), encoder.encode_texts(texts)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        for one, other in zip(found[number], expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_more_threads_than_were_given(bundle, images, monkeypatch):
    counts = []
    monkeypatch.setattr("icclip.runtime.encoder.workers", lambda count: counts.append(count) or workers(count))
    encoder = Encoder.open(bundle, provider="cpu", threads=3)
    encoder.encode_images(images)
    assert counts == [3]
    options = encoder._shared.lanes["vision"].session.get_session_options()
    assert options.intra_op_num_threads == 1


def test_when_lanes_pay():
    two = Lanes("cpu", 2, IMAGES)
    least = RUNS_EACH * 2 * IMAGES
    assert [two.pay(rows) for rows in (0, 1, least - 1, least, None)] == [False, False, False, True, True]
    # A stream whose batches do not fill the cores.
    assert not two.pay(None, 3)
    assert two.pay(None, 4)
    assert not Lanes("cpu", 1, IMAGES).pay(1000)
    assert not Lanes("cuda", 8, IMAGES).pay(1000)
    assert not Lanes("tensorrt", 8, IMAGES).pay(None)


def test_what_is_read_at_a_time_fills_the_cores_in_whole_steps():
    assert Lanes("cpu", 2, 2).group(32) == 32
    assert Lanes("cpu", 2, 2).group(1) == 8
    assert Lanes("cpu", 16, 2).group(32) == 64
    assert Lanes("cpu", 2, 7).group(32) == 28
    assert Lanes("cuda", 16, 2).group(32) == 32


def test_rows_that_influence_each_other_stay_together():
    assert lane_step(32, 2, alone=False) == 2
    assert lane_step(1, 2, alone=False) == 1
    assert lane_step(32, 2, alone=True) == 32


def test_int8_rows_are_the_same_in_lanes_bit_for_bit(dynamic, images, texts):
    with Encoder.open(dynamic, "int8", provider="cpu", threads=2) as encoder:
        divided, told = encoder.encode_images(images), encoder.encode_texts(texts)
        # Batches that are asked for keep their rows, whose scales they share.
        eight = encoder.encode_images(images, batch_size=4)
        assert used(encoder) == ({"vision", "text"}, set())
        for row in (0, 17, MANY - 1):
            np.testing.assert_array_equal(encoder.encode_images(images[row])[0], divided[row])
            np.testing.assert_array_equal(encoder.encode_texts(texts[row])[0], told[row])
        np.testing.assert_array_equal(encoder.encode_images(images[4:8], batch_size=4), eight[4:8])
