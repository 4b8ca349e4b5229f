"""Corpora in shards: the layout, what is done again, and that every item is there exactly once."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bundle_fixtures import bundles, tinies
from support.images import photo

from icclip.embedding import worker as module
from icclip.embedding.layout import Layout, shard_of
from icclip.embedding.places import inputs_of
from icclip.embedding.worker import EmbedImages
from icclip.runtime import Encoder

__all__ = ["bundles", "tinies"]
REPOSITORY = Path(__file__).parents[2]
COUNT = 23


@pytest.fixture
def clip(bundles):
    return bundles["clip"]


def picture(number):
    file = io.BytesIO()
    photo(30 + number % 7, 40, seed=number).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number in range(COUNT):
        (folder / ("more" if number % 3 else ".") / f"{number:02}.png").write_bytes(picture(number))
    return folder


def tar(path, samples):
    with tarfile.open(path, "w") as archive:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def rows_of(directory):
    """image_path -> (vector, caption), after checking that nothing stands twice."""
    found = {}
    for file in sorted((directory / "metadata").iterdir()):
        number = file.stem.rpartition("_")[2]
        vectors = np.load(directory / "img_emb" / f"img_emb_{number}.npy", allow_pickle=False)
        table = pq.read_table(file)
        assert vectors.dtype == np.float32
        assert len(vectors) == len(table)
        for name, caption, vector in zip(*(table[c].to_pylist() for c in table.column_names), vectors, strict=True):
            assert name not in found
            found[name] = vector, caption
    return found


def failures_of(directory):
    return {
        row["input"]: row["error"]
        for file in (directory / "failed").iterdir()
        for row in pq.read_table(file).to_pylist()
    }


@pytest.mark.parametrize("shards", [1, 5, 64])
def test_the_result_is_the_same_for_any_number_of_shards(clip, pictures, icclip, tmp_path, shards):
    outcome = icclip("embed", clip, pictures, "-o", tmp_path / "out", "--shards", shards, "--json")
    assert outcome.code == 0, outcome.err
    said = json.loads(outcome.out)
    assert {name: said[name] for name in ("shards", "finished", "rows", "failed")} == {
        "shards": shards, "finished": shards, "rows": COUNT, "failed": 0,
    }  # fmt: skip
    plain = sorted(pictures.rglob("*.png"))
    expected = dict(zip(map(str, plain), Encoder.open(clip).encode_images(plain), strict=True))
    found = rows_of(tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, vector in expected.items():
        np.testing.assert_allclose(found[name][0], vector, atol=1e-6)
    assert not (tmp_path / "out/inputs").exists()
    manifest = json.loads((tmp_path / "out/icclip.json").read_text())
    assert manifest["fingerprint"] == Encoder.open(clip).fingerprint
    assert (manifest["complete"], manifest["rows"], manifest["dtype"]) == (True, COUNT, "float32")
    made_by = pq.read_schema(tmp_path / "out/metadata/metadata_0000.parquet").metadata[b"icclip.fingerprint"]
    assert made_by.decode() == manifest["fingerprint"]


def test_machines_share_the_shards(clip, pictures, icclip, tmp_path):
    command = ("embed", clip, pictures, "-o", tmp_path / "out", "--shards", 3)
    for shard in (2, 0, 1):
        assert icclip(*command, "--shard", shard).code == 0
    assert icclip("embed", clip, pictures, "-o", tmp_path / "one", "--shards", 3).code == 0
    for kind in ("img_emb", "metadata", "failed"):
        for file in (tmp_path / "one" / kind).iterdir():
            assert (tmp_path / "out" / kind / file.name).read_bytes() == file.read_bytes()


def test_the_shard_of_a_name_never_changes(pictures, tmp_path):
    assert [shard_of(name, 1000) for name in ("0.jpg", "a/b.png", "über.png")] == [386, 740, 1]
    names = [one.name for one in inputs_of([pictures])]
    pictures.rename(tmp_path / "elsewhere")
    assert [one.name for one in inputs_of([tmp_path / "elsewhere"])] == names


def test_a_source_named_twice_is_embedded_once(pictures):
    assert len(list(inputs_of([pictures, pictures / "00.png", pictures]))) == COUNT


def test_finished_shards_are_not_made_again(clip, pictures, icclip, tmp_path, monkeypatch):
    command = ("embed", clip, pictures, "-o", tmp_path / "out", "--shards", 4)
    embed, done = module.ShardWorker.embed, []

    def dies(self, shard):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(shard)
        return embed(self, shard)

    with monkeypatch.context() as patch:
        patch.setattr(module.ShardWorker, "embed", dies)
        assert icclip(*command).code != 0
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/img_emb").iterdir()}
    assert len(made) == 2
    outcome = icclip(*command)
    assert outcome.code == 0, outcome.err
    assert "2 of 4 shards are finished already" in outcome.err
    assert all(path.stat().st_mtime_ns == at for path, at in made.items())
    assert len(rows_of(tmp_path / "out")) == COUNT


KILLED = """
import os, sys
from icclip.embedding import shard_writer
from icclip.cli import main
finish = shard_writer.ShardWriter.finish
def dies(self):
    if self._shard == 1:
        os.kill(os.getpid(), 9)
    return finish(self)
shard_writer.ShardWriter.finish = dies
main(sys.argv[1:])
"""


def test_a_kill_in_a_shard_leaves_none_of_it(clip, pictures, icclip, tmp_path):
    command = [str(part) for part in ("embed", clip, pictures, "-o", tmp_path / "out", "--shards", 3)]
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *command], env={**os.environ, "PYTHONPATH": paths}, check=False
    )
    assert done.returncode == -9
    assert [path.name for path in (tmp_path / "out/finished").iterdir()] == ["0000.json"]
    assert [path.name for path in (tmp_path / "out/img_emb").iterdir()] == ["img_emb_0000.npy"]
    assert len(list((tmp_path / "out").glob(".shard-1-*"))) == 1
    assert icclip(*command).code == 0
    assert not list((tmp_path / "out").glob(".shard-*"))
    assert len(rows_of(tmp_path / "out")) == COUNT


# What files hold ----------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    """Two archives, a table and an image."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    tar(
        folder / "0.tar",
        [
            ("a/1.png", picture(1)),
            ("a/1.txt", b"a dog\n"),
            ("a/1.json", b"{}"),
            ("a/2.jpg", b"broken"),
            ("a/2.txt", b"x"),
        ],
    )
    tar(
        folder / "1.tar",
        [("3.png", picture(3)), ("notes.txt", b"no image"), ("4.png", picture(4)), ("4.txt", b"a cat")],
    )
    images = [{"bytes": picture(5), "path": None}, {"bytes": None, "path": None}, {"bytes": picture(6), "path": "6"}]
    pq.write_table(pa.table({"image": images, "caption": ["five", "none", "six"]}), folder / "t.parquet")
    (folder / "7.png").write_bytes(picture(7))
    (folder / "readme.md").write_text("no image")
    return folder


def test_archives_tables_and_images(clip, corpus, icclip, tmp_path):
    outcome = icclip("embed", clip, corpus, "-o", tmp_path / "out", "--shards", 2, "--on-bad-image", "skip")
    assert outcome.code == 0, outcome.err
    found = rows_of(tmp_path / "out")
    captions = {
        "0.tar#a/1.png": "a dog", "1.tar#3.png": None, "1.tar#4.png": "a cat", "t.parquet#0": "five", "t.parquet#2": "six",
        "7.png": None,
    }  # fmt: skip
    assert {name.rpartition("corpus/")[2]: caption for name, (_, caption) in found.items()} == captions
    encoder = Encoder.open(clip)
    for name, number in {"0.tar#a/1.png": 1, "t.parquet#2": 6, "7.png": 7}.items():
        (expected,) = encoder.encode_images([picture(number)])
        np.testing.assert_allclose(found[f"{corpus}/{name}"][0], expected, atol=1e-6)
    failed = {name.rpartition("corpus/")[2]: error for name, error in failures_of(tmp_path / "out").items()}
    assert failed.keys() == {"0.tar#a/2.jpg", "t.parquet#1"}
    assert "not an image that Pillow can read" in failed["0.tar#a/2.jpg"]
    assert "the image is null, or not the content of an image file" in failed["t.parquet#1"]
    assert "warning: 2 inputs could not be read and were left out: see" in outcome.err


def test_captions_are_embedded_beside_their_images(clip, corpus, icclip, tmp_path):
    outcome = icclip(
        "embed", clip, corpus, "-o", tmp_path / "out", "--shards", 1, "--on-bad-image", "skip", "--captions"
    )
    assert outcome.code == 0, outcome.err
    table = pq.read_table(tmp_path / "out/metadata/metadata_0000.parquet")
    texts = np.load(tmp_path / "out/text_emb/text_emb_0000.npy", allow_pickle=False)
    np.testing.assert_allclose(texts, Encoder.open(clip).encode_texts(table["caption"].to_pylist()), atol=1e-6)
    assert sorted(table["caption"].to_pylist()) == ["a cat", "a dog", "five", "six"]
    assert any(error.endswith("7.png: has no caption") for error in failures_of(tmp_path / "out").values())


def test_damaged_containers_are_failures(clip, tmp_path, icclip):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(0))
    (folder / "b.tar").write_bytes(b"no archive" * 100)
    (folder / "c.parquet").write_bytes(b"no table")
    pq.write_table(pa.table({"label": [1]}), folder / "d.parquet")
    tar(folder / "e.tar", [("1.png", picture(1)), ("2.png", picture(2))])
    # In its second member, and within the header of that.
    whole = (folder / "e.tar").read_bytes()
    with tarfile.open(folder / "e.tar") as archive:
        second = archive.getmembers()[1].offset
    (folder / "e.tar").write_bytes(whole[: second + 600])
    (folder / "f.tar").write_bytes(whole[: second + 200])
    outcome = icclip("embed", clip, folder, "-o", tmp_path / "out", "--shards", 1, "--on-bad-image", "skip")
    assert outcome.code == 0, outcome.err
    failed = {Path(name).name: error for name, error in failures_of(tmp_path / "out").items()}
    assert failed.keys() == {"b.tar", "c.parquet", "d.parquet", "e.tar", "f.tar"}
    assert all("incomplete or damaged tar file" in failed[name] for name in ("b.tar", "e.tar", "f.tar"))
    assert "the table is damaged" in failed["c.parquet"]
    assert "has no column of images" in failed["d.parquet"]
    outcome = icclip("embed", clip, folder, "-o", tmp_path / "strict", "--shards", 1)
    assert outcome.code == 2
    assert "pass --on-bad-image skip to leave such images out" in outcome.err
    (folder / "a.png").unlink()
    (folder / "e.tar").unlink()
    (folder / "f.tar").unlink()
    outcome = icclip("embed", clip, folder, "-o", tmp_path / "none", "--shards", 1, "--on-bad-image", "skip")
    assert outcome.code == 2
    assert "none of the inputs could be read" in outcome.err


# Mistakes -----------------------------------------------------------------------------------------


def test_mistakes_are_one_line(clip, pictures, icclip, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "texts.txt").write_text("a dog\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    (tmp_path / "empty").mkdir()
    shards = ("--shards", 2)
    cases = [
        ((pictures, "-o", out, "--shard", 1), "--shard needs --shards N and -o DIRECTORY"),
        ((pictures, "-o", out, "--captions"), "--captions needs --shards N"),
        ((pictures, "-o", out, "--engine", "ray"), "--engine needs --shards N"),
        ((pictures, "-o", tmp_path / "x.npy", *shards), "--shards writes a directory: give -o a name without .npy"),
        ((pictures, "-o", out, *shards, "--shard", 2), "--shard is 2: with 2 shards the last is 1"),
        (("--texts", tmp_path / "texts.txt", "-o", out, *shards), "--shards takes images, .tar and .parquet files"),
        ((pictures, "-o", out, *shards, "--address", "auto"), "--address needs --engine ray"),
        (
            (pictures, "-o", out, *shards, "--engine", "ray", "--shard", 1),
            "--engine ray embeds all shards: leave out --shard",
        ),
        ((pictures, "-o", tmp_path / "full", *shards), "holds other files: give -o a new directory"),
        ((tmp_path / "none", "-o", out, *shards), "there is no file"),
        ((tmp_path / "empty", "-o", tmp_path / "other", *shards), "has no images, .tar or .parquet files"),
        (("nonsense://a/b", "-o", tmp_path / "third", *shards), "nonsense://a/b cannot be opened"),
    ]
    for arguments, message in cases:
        outcome = icclip("embed", clip, *arguments)
        assert outcome.code == 2, arguments
        assert message in outcome.err, (message, outcome.err)
        assert "Traceback" not in outcome.err


def test_other_inputs_in_a_directory_are_refused(clip, pictures, icclip, tmp_path):
    out = tmp_path / "out"
    assert icclip("embed", clip, pictures, "-o", out, "--shards", 2).code == 0
    outcome = icclip("embed", clip, pictures, "-o", out, "--shards", 3, "--on-bad-image", "skip")
    assert outcome.code == 2
    assert "(shards, on_bad_image differ): repeat that command, or give -o a new directory" in outcome.err
    Layout(out).mark(0).write_text("{")
    assert "0000.json is damaged: remove it, so that the shard is made again" in icclip(
        "embed", clip, pictures, "-o", out, "--shards", 2
    ).err  # fmt: skip
    (out / "icclip.json").write_text('{"kind": "index"}')
    assert "does not describe embeddings" in icclip("embed", clip, pictures, "-o", out, "--shards", 2).err


# Workers ------------------------------------------------------------------------------------------


def test_the_callable_for_other_engines_is_pickled_without_its_encoder(clip, tmp_path):
    embed = EmbedImages(str(clip), batch_size=2, options={"provider": "cpu", "threads": 1})
    batch = {"name": ["a", "b", "a"], "content": [picture(0), b"broken", picture(2)], "id": [1, 2, 3]}
    embed(batch)
    pickled = pickle.dumps(embed)
    assert len(pickled) < 2000
    made = pickle.loads(pickled)(batch)
    expected = Encoder.open(clip).encode_images([picture(0), picture(2)])
    np.testing.assert_allclose([made["embedding"][0], made["embedding"][2]], expected, atol=1e-6)
    assert made["embedding"][1] is None
    assert [error is None for error in made["error"]] == [True, False, True]
    assert (made["name"], made["id"], "content" in made) == (["a", "b", "a"], [1, 2, 3], False)


def test_a_worker_with_another_encoder_is_refused(clip, bundles, pictures, icclip, tmp_path):
    out = tmp_path / "out"
    assert icclip("embed", clip, pictures, "-o", out, "--shards", 2).code == 0
    manifest = Layout(out).read()
    Layout(out).mark(0).unlink()
    from icclip.config import EncoderConfig

    other = module.LazyEncoder(EncoderConfig(checkpoint=str(bundles["siglip"])))
    said = module.ShardWorker(out, manifest, other)({"shard": [0, 1]})
    assert "is another encoder here" in said["problem"][0]
    assert (said["problem"][1], said["shard"]) == ("", [0, 1])


# Object stores ------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    """A bucket on a server of moto, with two images and an archive."""
    pytest.importorskip("flask", reason="moto's server needs it")
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    from icclip.embedding import places

    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    places._system.cache_clear()
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket="photos")
    for number in range(2):
        client.put_object(Bucket="photos", Key=f"set/deep/{number}.png", Body=picture(number))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("2.png")
        member.size = len(picture(2))
        archive.addfile(member, io.BytesIO(picture(2)))
    client.put_object(Bucket="photos", Key="set/2.tar", Body=file.getvalue())
    yield "s3://photos/set"
    running.stop()
    places._system.cache_clear()


def test_a_bucket(clip, bucket, icclip, tmp_path):
    outcome = icclip("embed", clip, bucket, "-o", tmp_path / "out", "--shards", 2)
    assert outcome.code == 0, outcome.err
    found = rows_of(tmp_path / "out")
    assert found.keys() == {f"{bucket}/deep/0.png", f"{bucket}/deep/1.png", f"{bucket}/2.tar#2.png"}
    expected = Encoder.open(clip).encode_images([picture(0), picture(1)])
    np.testing.assert_allclose([found[f"{bucket}/deep/{i}.png"][0] for i in range(2)], expected, atol=1e-6)
    assert [one.name for one in inputs_of([f"{bucket}/deep/*.png"])] == ["0.png", "1.png"]
    outcome = icclip("embed", clip, "s3://photos/none", "-o", tmp_path / "none", "--shards", 2)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
