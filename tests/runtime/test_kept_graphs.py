"""Optimised graphs on the disk: the same embeddings, and nothing that goes wrong with them is noticed by the user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.bundles import TEXTS
from support.images import photo

from icclip.bundles import manifest as m
from icclip.caches import cache_entries, clear_cache
from icclip.errors import CheckpointError
from icclip.report.caches import CacheList
from icclip.runtime import Encoder, kept_graphs
from icclip.runtime.kept_graphs import GRAPH, RECORD, WEIGHTS, kept_graph


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A cache of its own, in which even tiny graphs are kept."""
    monkeypatch.setenv("ICCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_graphs, "SMALLEST", 1)
    return tmp_path / "cache" / "graphs"


@pytest.fixture(scope="module")
def images():
    return [photo(w, h, seed=h) for w, h in ((40, 30), (30, 90), (200, 33), (32, 32), (7, 5))]


def embedded(bundle, images, precision=None, **options):
    with Encoder.open(bundle, precision, provider="cpu", threads=2, **options) as encoder:
        return encoder.encode_images(images), encoder.encode_texts(TEXTS)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def kept(root):
    return sorted(path.parent for path in root.glob(f"*/{RECORD}"))


@pytest.fixture
def twice(bundle, images, root):
    """A bundle whose graphs are kept."""
    for _ in range(2):
        embedded(bundle, images)
    assert len(kept(root)) == 2
    return bundle


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_graph_is_kept_the_second_time_and_gives_the_same(dynamic, images, root, precision):
    plain = embedded(dynamic, images, precision, keep_graphs=False)
    assert not root.exists()
    assert same(embedded(dynamic, images, precision), plain)
    assert [list(place.iterdir()) for place in root.iterdir()] == [[], []]
    assert same(embedded(dynamic, images, precision), plain)
    assert {path.name for place in kept(root) for path in place.iterdir()} == {GRAPH, WEIGHTS, RECORD}
    before = {place: place.stat().st_mtime_ns for place in kept(root)}
    assert same(embedded(dynamic, images, precision), plain)
    assert {place: place.stat().st_mtime_ns for place in kept(root)} == before


def test_the_kept_graph_is_what_runs(twice, images, root, monkeypatch):
    monkeypatch.setattr("icclip.runtime.sessions.Opening.plain", lambda _: pytest.fail("the bundle's own graph"))
    monkeypatch.setattr("icclip.runtime.sessions.Opening.writing", lambda *_: pytest.fail("made again"))
    embedded(twice, images)


def test_many_inputs_run_from_the_kept_graph_too(twice, root):
    many = [photo(30 + row, 40, seed=row) for row in range(20)]
    plain = embedded(twice, many, keep_graphs=False)
    assert same(embedded(twice, many), plain)


def damage_half(place):
    (place / GRAPH).write_bytes((place / GRAPH).read_bytes()[:100])


def damage_weights(place):
    content = bytearray((place / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (place / WEIGHTS).write_bytes(content)


def damage_missing(place):
    (place / WEIGHTS).unlink()


def damage_record(place):
    (place / RECORD).write_text("{")


def damage_other_format(place):
    (place / RECORD).write_text(json.dumps({"format": 0, "files": {}}))


@pytest.mark.parametrize(
    "damage",
    [damage_half, damage_weights, damage_missing, damage_record, damage_other_format],
    ids=lambda f: f.__name__,
)
def test_a_damaged_one_is_made_again(twice, images, root, damage):
    plain = embedded(twice, images, keep_graphs=False)
    for place in kept(root):
        damage(place)
    assert same(embedded(twice, images), plain)
    assert len(kept(root)) == 2
    assert all((place / WEIGHTS).exists() for place in kept(root))
    assert same(embedded(twice, images), plain)


def test_one_that_onnxruntime_cannot_open_is_made_again(twice, images, root):
    plain = embedded(twice, images, keep_graphs=False)
    for place in kept(root):
        (place / GRAPH).write_bytes(b"no graph at all")
        record = json.loads((place / RECORD).read_text())
        record["files"][GRAPH] = {"sha256": m.record(place / GRAPH).sha256, **kept_graphs._looks(place / GRAPH)}
        (place / RECORD).write_text(json.dumps(record))
    assert same(embedded(twice, images), plain)
    assert len(kept(root)) == 2


def test_a_copy_is_known_by_its_content(twice, images, root, monkeypatch):
    for place in kept(root):
        for path in place.iterdir():
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
    monkeypatch.setattr("icclip.runtime.sessions.Opening.plain", lambda _: pytest.fail("the bundle's own graph"))
    embedded(twice, images)


def test_another_bundle_onnxruntime_or_processor_has_another_place(bundles, root, monkeypatch, tmp_path):
    def place(family="clip", graph="onnx/vision_model.onnx"):
        return kept_graph(m.read_manifest(bundles[family]), graph).directory

    names = [place(), place("siglip"), place(graph="onnx/text_model.onnx")]
    monkeypatch.setattr(kept_graphs, "_onnxruntime", lambda: ("9.9", "another build"))
    names.append(place())
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor : 0\nflags : sse2 avx9\n")
    real = kept_graphs._processor
    monkeypatch.setattr(kept_graphs, "_processor", lambda: real(facts))
    names.append(place())
    assert real(tmp_path / "nothing")[:2] == real(facts)[:2]
    assert len(set(names)) == len(names)


def test_small_graphs_and_users_who_do_not_want_it_are_left_alone(bundle, images, root, monkeypatch):
    for value in ("off", "0", "No"):
        monkeypatch.setenv("ICCLIP_KEEP_GRAPHS", value)
        embedded(bundle, images)
    monkeypatch.delenv("ICCLIP_KEEP_GRAPHS")
    monkeypatch.setattr(kept_graphs, "SMALLEST", 32 << 20)
    embedded(bundle, images)
    assert not root.exists()


@pytest.mark.parametrize("wrong", ["a file in the way", "no room", "cannot be written", "no home"])
def test_without_a_place_for_them_the_bundles_own_are_opened(bundle, images, root, monkeypatch, wrong):
    plain = embedded(bundle, images, keep_graphs=False)
    if wrong == "a file in the way":
        root.parent.write_text("a file")
    elif wrong == "no room":
        monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    elif wrong == "cannot be written":
        monkeypatch.setattr("tempfile.mkdtemp", lambda **_: "/dev/null/nowhere")
    else:
        monkeypatch.setattr(kept_graphs, "cache_directory", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    for _ in range(3):
        assert same(embedded(bundle, images), plain)
    assert not list(root.parent.rglob(RECORD)) if root.parent.is_dir() else True


def test_a_damaged_bundle_is_named_and_keeps_nothing(fresh, images, root):
    graph = fresh / "onnx" / "vision_model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 0xFF
    graph.write_bytes(content)
    for _ in range(3):
        with pytest.raises(CheckpointError, match="is not the file that"):
            embedded(fresh, images)
    assert kept(root) == []


ENCODE = """
import sys
import numpy as np
from icclip.runtime import Encoder, kept_graphs
kept_graphs.SMALLEST = 1
for _ in range(3):
    with Encoder.open(sys.argv[1], provider="cpu", threads=1) as encoder:
        print(encoder.encode_texts(["two dogs"]).tobytes().hex())
"""


def test_several_processes_at_once(bundle, root, pytestconfig):
    environment = {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)}

    def run(_):
        done = subprocess.run(
            [sys.executable, "-c", ENCODE, str(bundle)], check=True, capture_output=True, text=True, env=environment
        )
        return done.stdout.split()

    with ThreadPoolExecutor(4) as pool:
        found = {row for rows in pool.map(run, range(4)) for row in rows}
    assert len(found) == 1
    assert len(kept(root)) == 1
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_pickles_and_checks_carry_the_choice(bundle, root):
    import pickle

    for keep in (True, False):
        encoder = Encoder.open(bundle, provider="cpu", keep_graphs=keep)
        assert pickle.loads(pickle.dumps(encoder)).options.keep is keep
    assert Encoder.open(bundle, provider="cpu") == Encoder.open(bundle, provider="cpu", keep_graphs=False)


def test_they_are_listed_and_cleared(twice, images, root):
    (root / f".{'0' * 32}.abc").mkdir()
    (root / ("0" * 32)).mkdir()
    (root / "thesis").mkdir()
    entries = cache_entries(root.parent)
    assert {entry.kind for entry in entries} == {"graphs"}
    assert len(entries) == 4
    assert sum(entry.bytes for entry in entries) > 0
    table = next(iter(CacheList(entries).renderables()))
    assert set(table.columns[1]._cells[:4]) == {
        "a graph, optimised for this CPU",
        "a note that a graph was opened",
        "unfinished or damaged",
    }
    # In use: the file goes on existing for the session that has mapped it.
    with Encoder.open(twice, provider="cpu") as encoder:
        before = encoder.encode_images(images)
        assert len(clear_cache(entries).removed) == 4
        assert np.array_equal(encoder.encode_images(images), before)
    assert [path.name for path in root.iterdir()] == ["thesis"]
