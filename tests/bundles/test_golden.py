"""Golden inputs of a bundle that comes from somewhere else."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from icclip.bundles.golden import GoldenScores, read_golden, write_golden
from icclip.errors import CheckpointError


@pytest.fixture
def bundle(tmp_path):
    rows = np.eye(2, 4, dtype=np.float32)
    images = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    write_golden(tmp_path, images, ["a", "b"], rows, rows, scores=GoldenScores(np.zeros(2), 10.0))
    return tmp_path


def saved(path, array, **options):
    path.unlink()
    with path.open("wb") as file:
        np.save(file, array, **options)


@pytest.mark.parametrize("name", ["image_embeds.npy", "text_embeds.npy"])
@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones(4, np.float32), "does not hold a row of numbers for each input"),
        (np.float32(1), "does not hold a row of numbers for each input"),
        (np.array(["a", "b"]), "does not hold a row of numbers for each input"),
        (np.ones((2, 4), complex), "does not hold a row of numbers for each input"),
        (np.full((2, 4), np.nan, np.float32), "holds a number that is not finite"),
        (np.ones((3, 4), np.float32), r"(2, 2) images and texts for"),
    ],
)
def test_arrays_of_something_else(bundle, name, array, said):
    saved(bundle / "golden" / name, array)
    with pytest.raises(CheckpointError) as error:
        read_golden(bundle)
    assert said in str(error.value)


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000), }".ljust(117)
    + b"\n"
)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"nothing", HUGE])
def test_files_that_are_no_array(bundle, content):
    (bundle / "golden/text_embeds.npy").write_bytes(content)
    with pytest.raises(CheckpointError, match="golden cannot be read"):
        read_golden(bundle)


def test_a_pickled_array_is_not_loaded(bundle):
    saved(bundle / "golden/text_embeds.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="golden cannot be read"):
        read_golden(bundle)


@pytest.mark.parametrize("name", ["image_embeds.npy", "texts.json"])
def test_a_pipe_is_not_opened(bundle, name):
    (bundle / "golden" / name).unlink()
    os.mkfifo(bundle / "golden" / name)
    with pytest.raises(CheckpointError, match="is not a regular file"):
        read_golden(bundle)


@pytest.mark.parametrize("content", ["[1, 2]", '{"a": 1}', '"a dog"', "[" * 100_000, "null"])
def test_texts_are_texts(bundle, content):
    (bundle / "golden/texts.json").write_text(content)
    with pytest.raises(CheckpointError, match="golden cannot be read"):
        read_golden(bundle)


@pytest.mark.parametrize(
    "content",
    ["[]", '{"log_scores": "x", "factor": 1}', '{"log_scores": [NaN, 1], "factor": 1}', '{"log_scores": [0, 0], "factor": 1e400}', '{"factor": 1}'],
)  # fmt: skip
def test_scores_are_finite_numbers(bundle, content):
    (bundle / "golden/scores.json").write_text(content)
    with pytest.raises(CheckpointError, match="golden cannot be read"):
        read_golden(bundle)
