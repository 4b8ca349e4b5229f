from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.images import photo
from support.subjects import FAMILIES, subject

from icclip.embedding.sources import ImageFiles
from icclip.models.encoder import TorchEncoder
from icclip.runtime import Encoder


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory):
    return subject(request.param, tmp_path_factory.mktemp(request.param) / "bundle")


@pytest.fixture
def bundle(trained):
    return trained.bundle


@pytest.fixture
def checkpoint(trained, tmp_path):
    """As transformers saves it."""
    trained.loaded.model.save_pretrained(tmp_path / "model")
    trained.tiny.tokenizer.save_pretrained(tmp_path / "model")
    trained.tiny.image_processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def checkpoints(bundle, checkpoint):
    return bundle, checkpoint


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "cab"]
    for i, path in enumerate(paths):
        photo(30 + i, 40, seed=i).save(path)
    return paths


def test_images_in_their_order(bundle, files, tmp_path, icclip):
    outcome = icclip("embed", bundle, *files, "-o", tmp_path / "out.npy", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["rows"] == 3
    made = np.load(tmp_path / "out.npy", allow_pickle=False)
    np.testing.assert_array_equal(made, Encoder.open(bundle).encode_images(files))
    assert made.dtype == np.float32


def test_texts_line_by_line_into_parquet(bundle, tmp_path, icclip):
    (tmp_path / "texts.txt").write_text("a red square\n\nüber\n", encoding="utf-8")
    outcome = icclip("embed", bundle, "--texts", tmp_path / "texts.txt", "-o", tmp_path / "out.parquet")
    assert outcome.code == 0, outcome.err
    table = pq.read_table(tmp_path / "out.parquet")
    texts = ["a red square", "", "über"]
    assert table["input"].to_pylist() == texts
    expected = Encoder.open(bundle).encode_texts(texts)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), expected)


def test_the_images_of_a_dataset(bundle, tmp_path, icclip):
    outcome = icclip("embed", bundle, "-d", "shapes", "-o", tmp_path / "out.parquet")
    assert outcome.code == 0, outcome.err
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["input"][:2].to_pylist() == ["shapes test 0", "shapes test 1"]
    assert len(table) == 128
    assert f"wrote {tmp_path / 'out.parquet'}: 128 x" in outcome.err


def test_a_dataset_without_splits_is_embedded_whole(bundle, files, tmp_path, icclip):
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"image": f.name, "caption": "a dog"}) for f in files))
    outcome = icclip("embed", bundle, "-d", tmp_path / "own.jsonl", "-o", tmp_path / "out.npy")
    assert outcome.code == 0, outcome.err
    assert "own.jsonl, all of it (it has no splits): 3 images" in outcome.err
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), Encoder.open(bundle).encode_images(files), atol=1e-6)


def test_texts_that_do_not_fit_are_said(checkpoints, tmp_path, icclip):
    (tmp_path / "texts.txt").write_text("a red square\n" + "long " * 200 + "\n", encoding="utf-8")
    for encoder in checkpoints:
        outcome = icclip("embed", encoder, "--texts", tmp_path / "texts.txt", "-o", tmp_path / "out.npy")
        assert outcome.code == 0, outcome.err
        assert "warning: 1 of 2 captions are longer than the" in outcome.err
        assert "tokens that the text tower reads; the longest has" in outcome.err


def test_a_checkpoint_gives_what_torch_makes_of_it(trained, checkpoint, files, tmp_path, icclip):
    outcome = icclip("embed", checkpoint, *files, "-o", tmp_path / "out.npy", "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["encoder"].endswith("cpu, fp32")
    expected = TorchEncoder(trained.loaded).encode_images(ImageFiles(tuple(files)))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


@pytest.mark.parametrize("what", ["images", "texts", "dataset"])
def test_a_checkpoint_and_its_bundle_give_the_same_rows(checkpoints, files, tmp_path, icclip, what):
    (tmp_path / "texts.txt").write_text("a Red square\n\nover there, on the LEFT\n", encoding="utf-8")
    inputs = {"images": files, "texts": ["--texts", tmp_path / "texts.txt"], "dataset": ["-d", "shapes"]}[what]
    rows = []
    for encoder in checkpoints:
        outcome = icclip("embed", encoder, *inputs, "-o", tmp_path / "out.npy")
        assert outcome.code == 0, outcome.err
        rows.append(np.load(tmp_path / "out.npy"))
    np.testing.assert_allclose(*rows, atol=1e-5)
    assert len(rows[0]) == {"images": 3, "texts": 3, "dataset": 128}[what]


def test_options_of_one_kind_are_refused_for_the_other(bundle, checkpoint, files, tmp_path, icclip):
    cases = [
        (checkpoint, ["--threads", 1], "is not a bundle: leave out --provider and --threads"),
        (bundle, ["--device", "cpu"], "is a bundle: give --provider, and leave out --device and --revision"),
    ]
    for encoder, arguments, message in cases:
        outcome = icclip("embed", encoder, *files, *arguments, "-o", tmp_path / "out.npy")
        assert outcome.code == 2
        assert message in outcome.err
        assert not (tmp_path / "out.npy").exists()


def test_mistakes_are_one_line_and_leave_nothing(bundle, files, tmp_path, icclip, monkeypatch):
    out = tmp_path / "out.npy"
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    cases = {
        "give one of: image files, --texts FILE, --dataset D": [],
        "cannot read the texts in": ["--texts", tmp_path / "none.txt"],
        "latin.txt is not UTF-8 (line 1)": ["--texts", tmp_path / "latin.txt"],
        "none.png": [tmp_path / "none.png"],
        "unknown precision 'int8'": [*files, "--precision", "int8"],
        "provider cuda is not available": [*files, "--provider", "cuda"],
    }
    for message, arguments in cases.items():
        outcome = icclip("embed", bundle, *arguments, "-o", out)
        assert outcome.code == 2
        assert message in outcome.err
        assert not out.exists()
    assert (
        "give -o a name that ends in .npy or .parquet" in icclip("embed", bundle, *files, "-o", tmp_path / "x.csv").err
    )
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    outcome = icclip("embed", bundle, *files, "-o", tmp_path / "x.parquet")
    assert "writing .parquet needs pyarrow, not installed here: pip install pyarrow" in outcome.err
