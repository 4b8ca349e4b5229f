"""The gate sees what a bad index loses, and the choice keeps to what it was given."""

from __future__ import annotations

import json

import numpy as np
import pytest

from icclip.searching import gate
from icclip.searching.choice import candidates
from icclip.searching.engine import Engine, best_of, blocks_of, factory_of, kind_for

pytest.importorskip("faiss")


def unit(rng, *shape):
    values = rng.normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def space():
    """Images in one cone and texts in another, as in CLIP's space."""
    rng = np.random.default_rng(0)
    gap = unit(rng, 64)
    base = unit(rng, 3000, 64)
    images = base + 1.5 * gap
    texts = base[:400] + 0.3 * unit(rng, 400, 64) - 1.5 * gap
    return tuple(values / np.linalg.norm(values, axis=1, keepdims=True) for values in (images, texts))


def queries_of(texts, count=100):
    relevant = tuple(np.array([i]) for i in range(count))
    return gate.Queries(texts[:count], np.arange(count), relevant, np.arange(50), "made")


def test_exact_search_is_a_sort():
    rng = np.random.default_rng(1)
    vectors, queries = unit(rng, 500, 8), unit(rng, 7, 8)
    cosines, rows = best_of(
        queries,
        9,
        ((rows, block) for rows, block in [(np.arange(300), vectors[:300]), (np.arange(300, 500), vectors[300:])]),
    )
    plain = queries @ vectors.T
    np.testing.assert_array_equal(rows, np.argsort(-plain, axis=1, kind="stable")[:, :9])
    np.testing.assert_allclose(cosines, np.sort(plain, axis=1)[:, ::-1][:, :9])


def test_without_itself():
    cosines = np.array([[1.0, 0.9, 0.8], [0.7, 0.6, 0.5]])
    rows = np.array([[4, 2, 3], [1, 2, 3]])
    kept, kept_rows = gate.without_itself((cosines, rows), np.array([4, 9]))
    assert kept_rows.tolist() == [[2, 3], [1, 2]]
    assert kept.tolist() == [[0.9, 0.8], [0.7, 0.6]]


def test_an_exact_index_passes(space):
    images, texts = space
    queries = queries_of(texts)
    exact = gate.Exact.of(images, queries)
    measured = gate.measure(Engine.built("Flat", images, images, 64), images, queries, exact, 0)
    assert gate.lowest_recall(measured) == 1
    assert measured["text"]["R@1"] == measured["text"]["exact_R@1"]
    assert gate.failures(measured, 1.0) == []


def test_text_queries_show_a_loss_that_image_queries_hide():
    """Images lie in clusters, and one list holds the neighbours of an image; those of a text lie in many lists."""
    rng = np.random.default_rng(0)
    images = np.repeat(unit(rng, 60, 64), 50, axis=0) + 0.05 * unit(rng, 3000, 64)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    mixed = images[rng.integers(3000, size=(100, 6))].sum(axis=1)
    queries = queries_of(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))
    exact = gate.Exact.of(images, queries)
    engine = Engine.built("IVF20,Flat", images, images, 64).with_effort({"nprobe": 1})
    measured = gate.measure(engine, images, queries, exact, 0)
    assert measured["image"]["recall@10"][0] > 0.9
    assert measured["text"]["recall@10"][0] < 0.8
    (failed,) = gate.failures(measured, 0.9)
    assert failed.startswith("text queries find")
    assert gate.lowest_recall(measured) == measured["text"]["recall@10"][0]


def test_copies_count_as_found():
    """Of equal images any is right."""
    rng = np.random.default_rng(2)
    vectors = np.repeat(unit(rng, 20, 16), 30, axis=0)
    queries = gate.Queries(unit(rng, 5, 16), np.arange(5), None, np.arange(5), "made")
    exact = gate.Exact.of(vectors, queries)
    measured = gate.measure(
        Engine.built("HNSW32,Flat", vectors, vectors, 16).with_effort({"efSearch": 600}), vectors, queries, exact, 0
    )
    assert measured["text"]["recall@10"][0] == 1


def test_intervals_draw_groups():
    values = np.repeat([0.0, 1.0], 50)
    value, low, high = gate.interval(values, np.arange(100), 0)
    assert value == 0.5
    assert 0.35 < low < 0.5 < high < 0.65
    # Two groups that agree within themselves say much less.
    assert gate.interval(values, values.astype(int), 0)[1:] == [0.0, 1.0]
    assert gate.interval(np.array([]), np.array([]), 0) == [1.0, 1.0, 1.0]


def test_one_item_has_no_image_queries(clip_index_of_one):
    assert clip_index_of_one["gate"]["image"]["recall@10"] == [1.0, 1.0, 1.0]


@pytest.fixture
def clip_index_of_one(clip, pictures, icclip, tmp_path):
    outcome = icclip("index", clip, "--images", pictures / "0.png", "-o", tmp_path / "one", "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


# Choosing -----------------------------------------------------------------------------------------


def test_the_kind_follows_the_number_of_items():
    assert [kind_for(n) for n in (10, 100_000, 5_000_000)] == ["flat", "hnsw", "ivf-pq"]
    assert factory_of("ivf-pq", 1_000_000, 512, None) == "IVF4096,PQ64np,Refine(SQ8)"
    assert factory_of("flat", 10, 8, "float16") == "SQfp16"
    assert factory_of("PCA8,Flat", 10, 16, None) == "PCA8,Flat"


def test_candidates_estimate_their_size():
    rng = np.random.default_rng(3)
    vectors = unit(rng, 2000, 64)
    for _, factory, size in candidates(2000, 64):
        assert Engine.built(factory, vectors, vectors, 64).serialized_bytes() == pytest.approx(size, rel=0.25), factory


@pytest.fixture
def many(clip, tmp_path):
    from searching.test_index import write_embeddings

    write_embeddings(tmp_path / "many.parquet", clip, 2000)
    return tmp_path / "many.parquet"


def built(icclip, clip, many, output, *arguments):
    return icclip("index", clip, "--embeddings", many, "-o", output, "--n-queries", 50, *arguments, "--json")


def test_a_recall_chooses_the_smallest_that_reaches_it(clip, many, icclip, tmp_path):
    outcome = built(icclip, clip, many, tmp_path / "index", "--min-recall", 0.9)
    assert outcome.code == 0, outcome.err
    tried = json.loads(outcome.out)["tried"]
    assert [one["bytes"] for one in tried] == sorted(one["bytes"] for one in tried)
    assert [one["chosen"] for one in tried] == [False] * (len(tried) - 1) + [True]
    assert all(min(one["text_recall@10"][0], one["image_recall@10"][0]) < 0.9 for one in tried[:-1])


def test_a_size_chooses_the_best_that_fits(clip, many, icclip, tmp_path):
    dim_bytes = 2000 * 16
    outcome = built(
        icclip, clip, many, tmp_path / "index", "--max-bytes", f"{3 * dim_bytes // 1000}kB", "--gate", "off"
    )
    made = json.loads(outcome.out)
    chosen = next(one for one in made["tried"] if one["chosen"])
    assert chosen["bytes"] <= 3 * dim_bytes
    recalls = [min(one["text_recall@10"][0], one["image_recall@10"][0]) for one in made["tried"]]
    assert max(recalls) == recalls[made["tried"].index(chosen)]


def test_a_failed_gate_is_exit_code_three(clip, many, icclip, tmp_path):
    outcome = built(icclip, clip, many, tmp_path / "index", "--kind", "IVF32,PQ2x4np")
    assert outcome.code == 3
    assert "of what exact search finds" in outcome.err
    made = json.loads(outcome.out)
    assert made["failures"]
    assert made["gate"]["passed"] is False
    info = icclip("index", "info", tmp_path / "index")
    assert info.code == 0
    assert "index gate: failed" in info.out


def test_queries_from_a_file(clip, pictures, icclip, tmp_path):
    (tmp_path / "q.txt").write_text("a dog\n\na cat\n")
    arguments = ("--images", pictures, "--queries", tmp_path / "q.txt", "-o", tmp_path / "index", "--json")
    gated = json.loads(icclip("index", clip, *arguments).out)["gate"]
    assert (gated["texts"], gated["text"]["queries"]) == ("q.txt", 2)


def test_every_row_can_be_read_in_blocks():
    rows = [rows for rows, _ in blocks_of(np.zeros((70_000, 2), np.float32))]
    assert np.concatenate(rows).tolist() == list(range(70_000))
