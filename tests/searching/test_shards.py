"""An index of embeddings in shards, built without holding them, and lists on the disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.images import photo

from icclip.console import Reporter
from icclip.embedding.layout import Counts, Layout, Manifest
from icclip.embedding.shard_writer import shard_writer
from icclip.errors import CheckpointError
from icclip.runtime import Encoder
from icclip.searching.engine import Engine
from icclip.searching.on_disk import built_on_disk, factory_on_disk
from icclip.searching.opening import OpenIndex
from icclip.searching.record import read_record
from icclip.searching.shards import Shards

pytest.importorskip("faiss")


def units(count, dim, seed=0):
    made = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def written(directory, fingerprint, vectors, shards, *, captions=True):
    """Shards with these vectors, one after another."""
    manifest = Manifest(
        fingerprint=fingerprint, checkpoint="model", encoder="model", dim=vectors.shape[1], shards=shards, sources=("x",),
        captions=False, on_bad_image="fail", batch_size=32,
    )  # fmt: skip
    layout = Layout(directory)
    layout.begin(manifest)
    for shard, rows in enumerate(np.array_split(np.arange(len(vectors)), shards)):
        with shard_writer(layout, manifest, shard) as writer:
            texts = [f"picture number {row}" if captions and row % 2 else None for row in rows]
            writer.add([f"{row}.jpg" for row in rows], vectors[rows], texts, None)
            writer.finish()
    layout.write(manifest)
    return directory


@pytest.fixture
def embedded(clip, icclip, tmp_path):
    """Forty images in five shards, one of which is empty or nearly so."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        photo(30 + i % 5, 40, seed=i).save(folder / f"{i:02}.png")
    assert icclip("embed", clip, folder, "-o", tmp_path / "emb", "--shards", 5).code == 0
    return tmp_path / "emb"


def test_an_index_of_shards_is_that_of_the_images(embedded, clip, icclip, tmp_path):
    outcome = icclip("index", clip, "--embeddings", embedded, "-o", tmp_path / "index")
    assert outcome.code == 0, outcome.err
    index = OpenIndex.open(tmp_path / "index")
    paths = pq.read_table(tmp_path / "index/items.parquet")["path"].to_pylist()
    assert sorted(Path(path).name for path in paths) == [f"{i:02}.png" for i in range(40)]
    expected = Encoder.open(clip).encode_images([Path(path) for path in paths])
    np.testing.assert_allclose(index.engine.vectors(np.arange(40)), expected, atol=1e-6)
    assert index.record.source == "emb"
    assert not list((tmp_path / "index").glob("vectors*"))
    hits = json.loads(icclip("search", tmp_path / "index", paths[7], "--json").out)["hits"]
    assert hits[0]["item"]["path"] == paths[7]
    again = icclip("index", "add", tmp_path / "index", "--embeddings", embedded, "--json")
    assert json.loads(again.out)["unchanged"] == 40


def test_parts_are_read_as_the_whole(tmp_path):
    vectors = units(101, 8)
    shards = Shards.open(written(tmp_path / "emb", "f", vectors, 7), "f", Reporter(silent=True))
    assert shards.vectors.shape == (101, 8)
    for rows in (slice(0, 101), slice(13, 44), slice(14, 15), slice(100, 200), slice(50, 50)):
        np.testing.assert_allclose(shards.vectors[rows], vectors[rows], atol=1e-7)
    rows = np.array([100, 0, 14, 15, 15, 60])
    np.testing.assert_allclose(shards.vectors[rows], vectors[rows], atol=1e-7)
    assert [item.path for items, _ in shards.items() for item in items] == [f"{row}.jpg" for row in range(101)]
    texts, owners = shards.captions(30, 0)
    assert texts == [f"picture number {row}" for row in owners]
    assert (len(texts), len(set(texts))) == (30, 30)


def test_the_captions_of_the_shards_measure_the_index(clip, icclip, tmp_path):
    fingerprint, width = Encoder.open(clip).fingerprint, Encoder.open(clip).encode_texts(["a"]).shape[1]
    written(tmp_path / "emb", fingerprint, units(60, width), 3)
    outcome = icclip("index", clip, "--embeddings", tmp_path / "emb", "-o", tmp_path / "index", "--json")
    assert outcome.code == 0, outcome.err
    measured = json.loads(outcome.out)["gate"]
    assert (measured["texts"], measured["text"]["queries"]) == ("captions of emb", 30)
    assert measured["text"]["R@1"] == measured["text"]["exact_R@1"]


# Lists on the disk --------------------------------------------------------------------------------


def test_lists_on_the_disk_hold_what_lists_in_memory_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("icclip.searching.on_disk.CHUNK", 500)
    monkeypatch.setattr("icclip.searching.on_disk.BLOCK_BYTES", 1)
    vectors, queries = units(3000, 32), units(50, 32, seed=1)
    for factory in ("IVF16,Flat", "IVF16,SQ8", "PCA16,IVF16,Flat"):
        directory = tmp_path / factory.replace(",", "-")
        directory.mkdir()
        made = built_on_disk(factory, vectors, vectors, directory)
        plain = Engine.built(factory, vectors, vectors, 32).with_effort({"nprobe": 16})
        expected = plain.search(queries, 10)
        for engine in (made, _moved(made, directory)):
            cosines, rows = engine.with_effort({"nprobe": 16}).search(queries, 10)
            np.testing.assert_allclose(cosines, expected[0], atol=1e-6)
            np.testing.assert_array_equal(rows, expected[1])
        size = (directory / "lists.ivfdata").stat().st_size + (directory / "index.faiss").stat().st_size
        assert made.serialized_bytes() == size
        assert sorted(path.name for path in directory.iterdir()) == ["index.faiss", "lists.ivfdata", "lists.npy"]


def _moved(engine, directory):
    """Saved, and opened in another place."""
    engine.save(directory / "index.faiss")
    shutil.copytree(directory, directory.with_name(f"{directory.name} elsewhere"))
    return Engine.open(directory.with_name(f"{directory.name} elsewhere") / "index.faiss", {})


def test_an_index_on_the_disk_is_measured_and_searched(clip, icclip, tmp_path):
    encoder = Encoder.open(clip)
    images = np.stack([encoder.encode_images([photo(30, 40, seed=i)])[0] for i in range(8)])
    width = images.shape[1]
    near = np.repeat(images, 200, axis=0) + 0.3 * units(1600, width)
    vectors = near / np.linalg.norm(near, axis=1, keepdims=True)
    written(tmp_path / "emb", encoder.fingerprint, vectors.astype(np.float32), 4)
    outcome = icclip("index", clip, "--embeddings", tmp_path / "emb", "-o", tmp_path / "index", "--on-disk", "--json")
    assert outcome.code == 0, outcome.err
    record = read_record(tmp_path / "index")
    assert record.factory.endswith(",SQ8")
    assert set(record.bytes) == {"index.faiss", "items.parquet", "lists.ivfdata", "lists.npy"}
    assert record.gate["text"]["recall@10"][0] >= 0.95
    (tmp_path / "index").rename(tmp_path / "moved")
    photo(30, 40, seed=3).save(tmp_path / "query.png")
    outcome = icclip("search", tmp_path / "moved", tmp_path / "query.png", "--json")
    assert outcome.code == 0, outcome.err
    hits = json.loads(outcome.out)["hits"]
    cosines = vectors @ encoder.encode_images([tmp_path / "query.png"])[0]
    exact = {f"{row}.jpg" for row in np.argsort(-cosines)[:10]}
    assert len(exact & {hit["item"]["path"] for hit in hits}) >= 9
    for words in (
        ("add", tmp_path / "moved", "--embeddings", tmp_path / "emb"),
        ("remove", tmp_path / "moved", "0.jpg"),
    ):
        outcome = icclip("index", *words)
        assert outcome.code == 2
        assert (
            "has its lists on the disk and is not changed in place: build it again from its embeddings" in outcome.err
        )


def test_the_kind_on_the_disk():
    assert factory_on_disk(None, 100_000, 512) == "IVF1024,SQ8"
    assert factory_on_disk("ivf-pq", 100_000, 512) == "IVF1024,PQ128np"
    assert factory_on_disk(None, 100_000_000, 512) == "IVF32768_HNSW32,SQ8"
    assert factory_on_disk("IVF64,Flat", 100, 512) == "IVF64,Flat"


MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np
from icclip.console import Reporter
from icclip.searching import on_disk
from icclip.searching.shards import Shards
import threading, time
def anonymous():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) * 1024
shards = Shards.open(Path(sys.argv[1]), "f", Reporter(silent=True))
training = shards.vectors[:2000]
before = most = anonymous()
def watch():
    global most
    while True:
        most = max(most, anonymous())
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
on_disk.BLOCK_BYTES = 1
on_disk.built_on_disk("IVF16,SQ8", shards.vectors, training, Path(sys.argv[2]))
print(most - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_vectors(tmp_path):
    peaks = []
    for count in (100_000, 400_000):
        out = tmp_path / f"out{count}"
        out.mkdir()
        written(tmp_path / f"emb{count}", "f", np.tile(units(10_000, 64), (count // 10_000, 1)), 8, captions=False)
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(tmp_path / f"emb{count}"), str(out)],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks.append(int(done.stdout))
    # 300,000 more vectors are 77 MB, and their codes 22 MB; blocks of 65,536 are held at a time.
    assert peaks[1] < peaks[0] + 15e6


def test_a_table_that_does_not_fit_is_refused(tmp_path):
    vectors = units(2000, 16)
    built_on_disk("IVF4,SQ8", vectors, vectors, tmp_path).save(tmp_path / "index.faiss")
    table = np.load(tmp_path / "lists.npy")
    for wrong in (table[:3], table * 2, table.astype(np.float64), table - 10**6):
        np.save(tmp_path / "lists.npy", wrong)
        with pytest.raises(CheckpointError, match="does not fit the lists beside it"):
            Engine.open(tmp_path / "index.faiss", {})
    (tmp_path / "lists.npy").write_bytes(b"no table")
    with pytest.raises(CheckpointError, match=r"lists.npy cannot be read"):
        Engine.open(tmp_path / "index.faiss", {})


# Mistakes -----------------------------------------------------------------------------------------


def test_mistakes_are_one_line(clip, bundles, embedded, icclip, tmp_path):
    out = ("-o", tmp_path / "index")
    cases = [
        ((clip, "--kind", "hnsw", "--on-disk"), "'hnsw' has no lists that could lie on the disk"),
        ((clip, "--kind", "Flat", "--on-disk"), "'Flat' has no lists that could lie on the disk"),
        ((clip, "--kind", "IVF4,PQ4np,Refine(Flat)", "--on-disk"), "has no lists that could lie on the disk"),
        ((clip, "--on-disk"), "ivf-pq needs at least 1,000 items to train on"),
        ((clip, "--on-disk", "--max-bytes", "1GB"), "--on-disk takes no --max-bytes, --stored-as or --to"),
        ((bundles["siglip"],), "was made by another encoder (fingerprint"),
    ]
    for (model, *words), message in cases:
        outcome = icclip("index", model, "--embeddings", embedded, *out, *words)
        assert outcome.code == 2
        assert message in outcome.err, outcome.err
        assert not (tmp_path / "index").exists()


def test_shards_that_are_not_finished_or_damaged(clip, icclip, tmp_path):
    encoder = Encoder.open(clip)
    width = encoder.encode_texts(["a"]).shape[1]
    emb = written(tmp_path / "emb", encoder.fingerprint, units(40, width), 4)
    command = ("index", clip, "--embeddings", emb, "-o", tmp_path / "index", "--overwrite", "--json")
    layout = Layout(emb)
    layout.mark(2).unlink()
    outcome = icclip(*command)
    assert json.loads(outcome.out)["items"] == 30
    assert "3 of 4 shards are finished; the others are left out" in outcome.err
    np.save(layout.images(1), units(10, width).astype(np.float64))
    assert "float64, but its shard has 10 rows of" in icclip(*command).err
    np.save(layout.images(1), np.zeros((10, width), np.float32))
    assert "holds an embedding that is zero or not finite" in icclip(*command).err
    layout.images(1).write_bytes(b"no array")
    assert "cannot be read" in icclip(*command).err
    np.save(layout.images(1), units(10, width))
    layout.metadata(1).write_bytes(layout.metadata(0).read_bytes()[:-9])
    assert "embed its shard again" in icclip(*command).err
    layout.finish(0, Counts(11, 0))
    assert "but its shard has 11 rows" in icclip(*command).err
    for shard in range(4):
        layout.finish(shard, Counts(0, 3))
    assert "has no finished shard with embeddings" in icclip(*command).err
    values = json.loads((emb / "icclip.json").read_text())
    (emb / "icclip.json").write_text(json.dumps({**values, "fingerprint": None}))
    layout.finish(3, Counts(10, 0))
    assert "does not say which encoder made it" in icclip(*command).err
