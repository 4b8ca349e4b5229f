"""Building, changing and searching an index, through the command line."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.images import photo

from icclip.bundles.manifest import read_manifest, seal
from icclip.runtime import Encoder
from icclip.searching import change
from icclip.searching.items import Item, Items, ItemWriter
from icclip.searching.opening import OpenIndex
from icclip.searching.query import model_scores
from icclip.searching.record import NAME, read_record

pytest.importorskip("faiss")


def found(icclip, *arguments):
    outcome = icclip("search", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["hits"]


def names(hits):
    return [hit["item"]["path"].rpartition("/")[2] for hit in hits]


def test_an_index_explains_itself(index, clip, pictures):
    record = read_record(index)
    assert {path.name for path in index.iterdir()} == {NAME, "index.faiss", "items.parquet", "golden"}
    assert record.encoder.fingerprint == Encoder.open(clip).fingerprint
    assert (record.items, record.index, record.factory, record.metric) == (6, "flat", "Flat", "cosine")
    table = pq.read_table(index / "items.parquet")
    assert table["path"].to_pylist() == [str(pictures / f"{i}.png") for i in range(6)]
    assert table["width"].to_pylist() == [30 + 4 * i for i in range(6)]
    assert all(value[:2] == b"\xff\xd8" for value in table["thumbnail"].to_pylist())


def test_the_vectors_are_those_of_the_encoder(index, clip, pictures):
    rows = OpenIndex.open(index).engine.vectors(np.arange(6))
    np.testing.assert_allclose(
        rows, Encoder.open(clip).encode_images([pictures / f"{i}.png" for i in range(6)]), atol=1e-6
    )


def test_an_image_finds_itself_and_a_text_what_plain_products_find(index, clip, pictures, icclip):
    assert names(found(icclip, index, pictures / "3.png", "-k", 2))[0] == "3.png"
    encoder = Encoder.open(clip)
    cosines = encoder.encode_images([pictures / f"{i}.png" for i in range(6)]) @ encoder.encode_texts("a red square")[0]
    hits = found(icclip, index, "a", "red", "square", "-k", 6)
    assert names(hits) == [f"{i}.png" for i in np.argsort(-cosines)]
    np.testing.assert_allclose([hit["cosine"] for hit in hits], np.sort(cosines)[::-1], atol=1e-6)


def test_scores_are_the_models_own(bundles, pictures, icclip, tmp_path):
    for family, bundle in bundles.items():
        assert icclip("index", bundle, "--images", pictures, "-o", tmp_path / family).code == 0
        encoder = Encoder.open(bundle)
        files = [pictures / f"{i}.png" for i in range(6)]
        logits = encoder.encode_images(files) @ encoder.encode_texts("a dog")[0] * np.exp(encoder.logit_scale)
        logits = logits.astype(np.float64) + (encoder.logit_bias or 0)
        expected = 1 / (1 + np.exp(-logits)) if family == "siglip" else np.exp(logits) / np.exp(logits).sum()
        hits = found(icclip, tmp_path / family, "a dog")
        np.testing.assert_allclose([hit["score"] for hit in hits], np.sort(expected)[::-1], rtol=1e-4)


def test_a_picture_has_no_score(index, pictures, icclip):
    assert found(icclip, index, pictures / "0.png")[0]["score"] is None


def test_scores_do_not_overflow(index):
    stamp = read_record(index).encoder
    assert model_scores(np.array([1.0, -1.0]), stamp).sum() == pytest.approx(1)
    assert len(model_scores(np.array([]), stamp)) == 0


def test_a_combination_is_the_sum_at_length_one(index, clip, pictures, icclip):
    encoder = Encoder.open(clip)
    files = [pictures / f"{i}.png" for i in range(6)]
    vector = encoder.encode_texts("a dog")[0] + encoder.encode_images(files[2])[0] - encoder.encode_texts("snow")[0]
    cosines = encoder.encode_images(files) @ (vector / np.linalg.norm(vector))
    hits = found(icclip, index, "--text", "a dog", "--image", files[2], "--minus", "snow")
    np.testing.assert_allclose([hit["cosine"] for hit in hits], np.sort(cosines)[::-1], atol=1e-5)
    outcome = icclip("search", index, "--text", "a dog", "--minus", "a dog")
    assert outcome.code == 2
    assert "the parts of the query cancel each other out" in outcome.err


def test_a_table_and_a_page(index, icclip, tmp_path):
    outcome = icclip("search", index, "a dog", "-k", 2, "--page", tmp_path / "page.html")
    assert outcome.code == 0, outcome.err
    assert "cosine" in outcome.out
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "http" not in page


def test_open_opens_a_page(index, icclip, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert icclip("search", index, "a dog", "--open").code == 0
    assert opened == [(index / "results.html").as_uri()]


def test_a_filter_narrows_before_the_nearest_are_taken(index, icclip):
    hits = found(icclip, index, "a dog", "--filter", "width >= 46", "-k", 6)
    assert {hit["item"]["width"] for hit in hits} == {46, 50}
    assert found(icclip, index, "a dog", "--filter", "width > 9999") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a text, an image file, text or image"),
        (("dog", "--filter", "colour == 'red'"), "the filter names 'colour', which is no column: the columns are"),
        (("missing.png",), "there is no image missing.png; to search for these words pass --text 'missing.png'"),
        (("dog", "-k", "0"), "-k is 0: it must be at least 1 and at most 10000"),
        (("dog", "--model", "/nowhere"), "is no longer there: say where it is now with --model"),
    ],
)
def test_what_cannot_be_searched_is_one_line(index, icclip, arguments, message):
    outcome = icclip("search", index, *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("error: ") == 1


def test_an_image_that_cannot_be_read_is_one_line(index, icclip, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    outcome = icclip("search", index, tmp_path / "bad.png")
    assert outcome.code == 2
    assert "not an image that Pillow can read" in outcome.err


# Another encoder ----------------------------------------------------------------------------------


def test_another_encoder_is_refused(index, bundles, pictures, icclip):
    for command in (("search", index, "dog"), ("index", "add", index, "--images", pictures)):
        outcome = icclip(*command, "--model", bundles["siglip"])
        assert outcome.code == 2
        assert "was made by another encoder" in outcome.err


def test_the_same_encoder_elsewhere_is_taken(index, clip, icclip, tmp_path):
    shutil.copytree(clip, tmp_path / "moved")
    outcome = icclip("search", index, "dog", "--model", tmp_path / "moved")
    assert outcome.code == 0, outcome.err


def test_an_encoder_that_is_gone_is_one_line(clip, pictures, icclip, tmp_path):
    shutil.copytree(clip, tmp_path / "bundle")
    assert icclip("index", tmp_path / "bundle", "--images", pictures, "-o", tmp_path / "index").code == 0
    shutil.rmtree(tmp_path / "bundle")
    outcome = icclip("search", tmp_path / "index", "dog")
    assert outcome.code == 2
    assert "is no longer there: say where it is now with --model" in outcome.err


def test_another_temperature_is_another_encoder(clip, pictures, icclip, tmp_path):
    shutil.copytree(clip, tmp_path / "bundle")
    assert icclip("index", tmp_path / "bundle", "--images", pictures, "-o", tmp_path / "index").code == 0
    import dataclasses

    manifest = read_manifest(tmp_path / "bundle")
    seal(tmp_path / "bundle", dataclasses.replace(manifest, logit_scale=manifest.logit_scale + 1))
    outcome = icclip("search", tmp_path / "index", "dog")
    assert outcome.code == 2
    assert "was made by another encoder" in outcome.err


@pytest.mark.parametrize(("kind", "query"), [("text", "dog"), ("image", None)])
def test_golden_vectors_are_computed_again(index, icclip, pictures, kind, query):
    path = index / f"golden/{kind}_embeds.npy"
    np.save(path, np.roll(np.load(path), 1, axis=1))
    outcome = icclip("search", index, query or pictures / "0.png")
    assert outcome.code == 2
    assert f"the golden {kind}s are encoded differently here" in outcome.err
    # What the query does not use is not computed.
    assert icclip("search", index, pictures / "0.png" if query else "dog").code == 0


def test_a_checkpoint_has_a_fingerprint_too(clip, tinies, pictures, icclip, tmp_path):
    tiny = tinies["clip"]
    for part in (tiny.model, tiny.tokenizer, tiny.image_processor):
        part.save_pretrained(tmp_path / "model")
    outcome = icclip("index", tmp_path / "model", "--images", pictures, "-o", tmp_path / "index", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert icclip("search", tmp_path / "index", "dog", "--device", "cpu").code == 0
    outcome = icclip("search", tmp_path / "index", "dog", "--model", clip)
    assert outcome.code == 2
    assert "was made by another encoder" in outcome.err


# Adding and removing ------------------------------------------------------------------------------


def changed(icclip, *arguments):
    outcome = icclip("index", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_adding_skips_what_is_unchanged_and_replaces_what_is_not(index, pictures, clip, icclip):
    photo(64, 20, seed=77).save(pictures / "new.png")
    photo(50, 50, seed=78).save(pictures / "2.png")
    (pictures / "4.png").touch()
    done = changed(icclip, "add", index, "--images", pictures)
    assert {key: done[key] for key in ("added", "replaced", "unchanged", "items")} == {
        "added": 1, "replaced": 1, "unchanged": 5, "items": 7,
    }  # fmt: skip
    assert read_record(index).next_id == 8
    for name in ("new.png", "2.png", "5.png"):
        assert names(found(icclip, index, pictures / name, "-k", 1)) == [name]
    assert changed(icclip, "add", index, "--images", pictures)["unchanged"] == 7


def test_adding_gives_what_building_gives(clip, pictures, icclip, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    for i in range(3):
        shutil.copy2(pictures / f"{i}.png", half)
    assert icclip("index", clip, "--images", half, "-o", tmp_path / "grown").code == 0
    changed(icclip, "add", tmp_path / "grown", "--images", pictures)
    assert icclip("index", clip, "--images", half, "--images", pictures, "-o", tmp_path / "whole").code == 0
    grown, whole = (OpenIndex.open(tmp_path / name) for name in ("grown", "whole"))
    np.testing.assert_array_equal(grown.engine.vectors(np.arange(9)), whole.engine.vectors(np.arange(9)))


def test_a_cut_off_addition_leaves_the_old_index(index, pictures, icclip, monkeypatch):
    before = {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}
    photo(64, 20, seed=77).save(pictures / "new.png")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(change, "write_record", killed)
        assert icclip("index", "add", index, "--images", pictures).code == 130
    assert {path: path.read_bytes() for path in index.rglob("*") if path.is_file()} == before
    assert changed(icclip, "add", index, "--images", pictures)["added"] == 1
    assert [path.name for path in index.parent.iterdir() if path.name.startswith(".index")] == []


def test_removing(index, pictures, icclip):
    assert changed(icclip, "remove", index, pictures / "1.png")["items"] == 5
    assert changed(icclip, "remove", index, "--filter", "width > 45")["removed"] == 2
    (pictures / "0.png").unlink()
    assert changed(icclip, "remove", index, "--missing")["removed"] == 1
    assert sorted(names(found(icclip, index, "dog"))) == ["2.png", "3.png"]
    assert names(found(icclip, index, pictures / "3.png", "-k", 1)) == ["3.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.png",), "has no item nowhere.png"),
        (("--filter", "width > 0"), "nothing would be left in"),
        ((), "give one of: paths, where CONDITION, missing"),
    ],
)
def test_what_cannot_be_removed_is_one_line(index, icclip, arguments, message):
    outcome = icclip("index", "remove", index, *arguments)
    assert outcome.code == 2
    assert message in outcome.err


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq", "IVF16,PQ4np", "SQ8"])
def test_every_kind_loses_and_gains_items(clip, icclip, tmp_path, kind):
    write_embeddings(tmp_path / "many.parquet", clip, 1500)
    arguments = ("--embeddings", tmp_path / "many.parquet", "--kind", kind, "-o", tmp_path / "index")
    assert icclip("index", clip, *arguments, "--gate", "off").code == 0
    changed(icclip, "remove", tmp_path / "index", *(f"item {i}" for i in range(0, 300, 3)))
    write_embeddings(tmp_path / "more.parquet", clip, 40, name="other")
    assert changed(icclip, "add", tmp_path / "index", "--embeddings", tmp_path / "more.parquet")["added"] == 40
    index = OpenIndex.open(tmp_path / "index")
    table = pq.read_table(tmp_path / "more.parquet")
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    _, rows = index.engine.search(vectors, 3)
    wanted = table["input"].to_pylist()
    hits = [[item["path"] for item in index.items.take(own)] for own in rows]
    assert np.mean([name in own for name, own in zip(wanted, hits, strict=True)]) > 0.8
    gone = {f"item {i}" for i in range(0, 300, 3)}
    assert not gone & {path for own in hits for path in own}
    decoded = index.engine.vectors(np.arange(1400, 1440))
    assert (decoded * vectors).sum(1).min() > 0.7
    # A condition holds for them as well.
    allowed = index.items.rows_where("startswith(path, 'other')")
    assert set(index.engine.search(vectors[:4], 5, allowed)[1].ravel()) <= set(allowed)


# Other sources ------------------------------------------------------------------------------------


def write_embeddings(path, bundle, count, *, name="item", fingerprint=None):
    encoder = Encoder.open(bundle)
    rng = np.random.default_rng(len(name))
    centres = rng.normal(size=(40, encoder.dim))
    vectors = centres[rng.integers(40, size=count)] + rng.normal(size=(count, encoder.dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    schema = pa.schema(
        [("input", pa.string()), ("embedding", pa.list_(pa.float32(), encoder.dim)), ("year", pa.int32())],
        metadata={"icclip.fingerprint": fingerprint or encoder.fingerprint},
    )
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), encoder.dim)
    pq.write_table(pa.table([[f"{name} {i}" for i in range(count)], column, list(range(count))], schema=schema), path)


def test_a_dataset_brings_its_captions(clip, captioned, icclip, tmp_path):
    outcome = icclip("index", clip, "--dataset", captioned, "-o", tmp_path / "index", "--json")
    assert outcome.code == 0, outcome.err
    made = json.loads(outcome.out)
    assert made["items"] == 24
    assert made["gate"]["texts"] == "captions of jsonl@own.jsonl, all of it (it has no splits)"
    for key in ("recall@10", "R@1", "exact_R@1"):
        value, low, high = made["gate"]["text"][key]
        assert low <= value <= high
    assert made["gate"]["text"]["R@10"] == made["gate"]["text"]["exact_R@10"]
    hits = found(icclip, tmp_path / "index", "dog", "--filter", "contains(captions, 'NUMBER 7')")
    assert names(hits) == ["7.png"]
    assert hits[0]["item"]["captions"] == ["picture number 7", "photo 7"]


def test_items_are_read_by_several_threads_at_once(tmp_path):
    with ItemWriter(tmp_path / "items.parquet") as writer:
        writer.add((Item(path=f"{i}.png", captions=("a caption",) * 3) for i in range(4_000)), 0)
    items = Items(tmp_path / "items.parquet")

    def read(start):
        rows = [(start * 37 + step * 911) % 4_000 for step in range(20)]
        return [item["id"] for item in items.take(rows)] == rows

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(400)))


def test_embed_writes_what_index_reads(clip, pictures, icclip, tmp_path):
    assert icclip("embed", clip, pictures, "-o", tmp_path / "e.parquet").code == 0
    outcome = icclip("index", clip, "--embeddings", tmp_path / "e.parquet", "-o", tmp_path / "index")
    assert outcome.code == 0, outcome.err
    assert "warning" not in outcome.err
    assert names(found(icclip, tmp_path / "index", pictures / "4.png", "-k", 1)) == ["4.png"]


def test_other_columns_come_along(clip, icclip, tmp_path):
    write_embeddings(tmp_path / "e.parquet", clip, 30)
    assert icclip("index", clip, "--embeddings", tmp_path / "e.parquet", "-o", tmp_path / "index").code == 0
    assert [hit["item"]["year"] for hit in found(icclip, tmp_path / "index", "x", "--filter", "year in [3, 5]")] in (
        [3, 5],
        [5, 3],
    )


def test_embeddings_of_another_encoder_are_refused(clip, icclip, tmp_path):
    write_embeddings(tmp_path / "e.parquet", clip, 30, fingerprint="f" * 64)
    outcome = icclip("index", clip, "--embeddings", tmp_path / "e.parquet", "-o", tmp_path / "index")
    assert outcome.code == 2
    assert "was made by another encoder (fingerprint ffffffffffff)" in outcome.err
    assert not (tmp_path / "index").exists()


def test_embeddings_without_a_fingerprint_are_said(clip, icclip, tmp_path):
    write_embeddings(tmp_path / "e.parquet", clip, 30)
    table = pq.read_table(tmp_path / "e.parquet").replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "e.parquet")
    outcome = icclip("index", clip, "--embeddings", tmp_path / "e.parquet", "-o", tmp_path / "index")
    assert outcome.code == 0
    assert "does not say which encoder made it" in outcome.err


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input": ["a"], "vector": [[1.0]]}, "has no column 'embedding' with lists of one length"),
        ({"input": ["a"], "embedding": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 0.0], pa.float32()), 2)}, "have the width 2"),
        ({"input": ["a"], "embedding": pa.FixedSizeListArray.from_arrays(pa.array([0.0, 0.0], pa.float32()), 2)}, "zero or not finite"),
    ],
)  # fmt: skip
def test_other_parquet_files_are_one_line(clip, icclip, tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    outcome = icclip("index", clip, "--embeddings", tmp_path / "e.parquet", "-o", tmp_path / "index")
    assert outcome.code == 2
    assert message in outcome.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no file"), (b"nothing", "is not a parquet file"), ("dir", "holds no .parquet files")],
)
def test_no_embeddings_are_one_line(clip, icclip, tmp_path, content, message):
    path = tmp_path / "e.parquet"
    if content == "dir":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    outcome = icclip("index", clip, "--embeddings", path, "-o", tmp_path / "index")
    assert outcome.code == 2
    assert message in outcome.err


def test_bad_images_end_it_or_are_left_out(clip, pictures, icclip, tmp_path):
    (pictures / "bad.png").write_bytes(b"no image")
    outcome = icclip("index", clip, "--images", pictures, "-o", tmp_path / "index")
    assert outcome.code == 2
    assert "bad.png" in outcome.err
    assert "pass --on-bad-image skip" in outcome.err
    assert not (tmp_path / "index").exists()
    outcome = icclip("index", clip, "--images", pictures, "-o", tmp_path / "index", "--on-bad-image", "skip")
    assert outcome.code == 0, outcome.err
    assert "left out" in outcome.err
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(pictures / "bad.png", only)
    outcome = icclip("index", clip, "--images", only, "-o", tmp_path / "x", "--on-bad-image", "skip")
    assert outcome.code == 2
    assert "nothing to index" in outcome.err


def test_thumbnails_can_be_left_out(clip, pictures, icclip, tmp_path):
    arguments = ("--images", pictures, "--no-thumbnails", "-o", tmp_path / "index")
    assert icclip("index", "build", clip, *arguments).code == 0
    assert set(pq.read_table(tmp_path / "index/items.parquet")["thumbnail"].to_pylist()) == {None}


# Damage and mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "index.faiss").unlink(), "index.faiss is missing"),
        (lambda d: (d / "index.faiss").write_bytes(b"x"), "bytes instead of"),
        (lambda d: (d / NAME).write_text("{}"), "is not an index but a run"),
        (lambda d: (d / NAME).write_text('{"kind": "index", "format": 99}'), "has format 99"),
        (lambda d: (d / NAME).write_text('{"kind": "index", "format": 1, "items": "x"}'), "is damaged"),
        (shutil.rmtree, "there is no index"),
    ],
)
def test_a_damaged_index_is_one_line(index, icclip, break_it, message):
    break_it(index)
    for command in (("search", index, "dog"), ("index", "info", index)):
        outcome = icclip(*command)
        assert outcome.code == 2
        assert message in outcome.err


@pytest.mark.parametrize("name", ["index.faiss", "items.parquet"])
def test_files_of_the_right_size_that_are_something_else_are_one_line(index, icclip, name):
    path = index / name
    path.write_bytes(b"\0" * path.stat().st_size)
    outcome = icclip("search", index, "dog")
    assert outcome.code == 2
    assert "cannot be read" in outcome.err


def test_rows_that_do_not_fit_are_one_line(index, icclip):
    values = json.loads((index / NAME).read_text())
    (index / NAME).write_text(json.dumps({**values, "items": 5, "next_id": 6}))
    outcome = icclip("search", index, "dog")
    assert outcome.code == 2
    assert "has 6 rows for 5 items" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "nonsense"), "FAISS cannot make an index 'nonsense'"),
        (("--kind", "ivf-pq"), "ivf-pq needs at least 1,000 items to train on, 6 are here: use flat"),
        (("--max-bytes", "lots"), "--max-bytes is 'lots': write it as 500MB or 2GB"),
        (("--max-bytes", "1MB", "--kind", "flat"), "--kind and --max-bytes exclude each other"),
        (("--max-bytes", "10"), "--max-bytes 10 is too little for 6 items"),
        (("--dataset", "shapes"), "give one of: --images PATH, --dataset D, --embeddings PATH"),
        (("--queries", "missing.txt"), "cannot read the texts in missing.txt"),
        (("--min-recall", "2"), "--min-recall is 2.0: it must be above 0 and at most 1"),
    ],
)
def test_requests_that_cannot_be_met_are_one_line(clip, pictures, icclip, tmp_path, *, arguments, message):
    outcome = icclip("index", clip, "--images", pictures, "-o", tmp_path / "index", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "index").exists()


def test_what_is_there_is_not_replaced_unless_asked(index, clip, pictures, icclip, tmp_path):
    arguments = ("index", clip, "--images", pictures, "-o")
    outcome = icclip(*arguments, index)
    assert outcome.code == 2
    assert "exists and is an index: add to it with `icclip index add`, or pass --overwrite" in outcome.err
    assert icclip(*arguments, index, "--overwrite").code == 0
    outcome = icclip(*arguments, pictures, "--overwrite")
    assert outcome.code == 2
    assert "exists and is not an index" in outcome.err


@pytest.mark.parametrize(("content", "message"), [(b"\n\n", "has no texts"), (b"\xff\xfe", "is not UTF-8")])
def test_files_of_texts_that_cannot_be_used_are_one_line(clip, pictures, icclip, tmp_path, *, content, message):
    (tmp_path / "q.txt").write_bytes(content)
    outcome = icclip("index", clip, "--images", pictures, "-o", tmp_path / "index", "--queries", tmp_path / "q.txt")
    assert outcome.code == 2
    assert message in outcome.err
