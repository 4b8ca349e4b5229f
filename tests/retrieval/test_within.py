"""Retrieval within a modality, by hand and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from icclip.errors import CheckpointError
from icclip.retrieval.bootstrap import KEY, draws
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.relevance import Relevance
from icclip.retrieval.within import Partners, rank_within, within_metrics


def test_captions_worked_out_on_paper():
    # Two images with two captions each, at the angles 0 and 10, and 20 and 90 degrees.
    angles = np.radians([0, 10, 20, 90])
    texts = np.column_stack([np.cos(angles), np.sin(angles)])
    relevance = Relevance.of(CaptionMap.from_lists([["a", "b"], ["c", "d"]]), "pair")
    found = within_metrics(np.eye(2), texts, relevance, resamples=0)
    # 0 finds 10; 10 finds 0 and 20 equally near, and ties count as misses; 20 finds 10, 0, then 90; 90 finds 20.
    partners = Partners.of(relevance, "t2t")
    queries, ranks = rank_within(texts, partners)
    assert queries.tolist() == [0, 1, 2, 3]
    assert ranks.tolist()[0] == ranks.tolist()[3] == 1
    assert ranks.tolist()[2] == 3
    assert found["t2t_queries"] == 4
    assert found["t2t_R@5"] == 1
    assert not any(key.startswith("i2i") for key in found), "no two images share a caption"


def test_ties_count_as_misses():
    texts = np.ones((4, 3))
    relevance = Relevance.of(CaptionMap.from_lists([["a", "b"], ["c", "d"]]), "pair")
    assert rank_within(texts, Partners.of(relevance, "t2t"))[1].tolist() == [3, 3, 3, 3]


def test_copies_of_the_query_are_not_what_is_looked_for():
    # Under `text` the two captions "a" are one: it is answered by "b" of its first image and by "c" of its second.
    captions = CaptionMap.from_lists([["a", "b"], ["A ", "c"], ["d"]])
    relevance = Relevance.of(captions, "text")
    partners = Partners.of(relevance, "t2t")
    assert [relevance.texts.first[partners.of_kind(kind)].tolist() for kind in range(4)] == [[1, 3], [0], [0], []]
    assert partners.queries().tolist() == [0, 1, 2]
    images = Partners.of(relevance, "i2i")
    assert [images.of_kind(kind).tolist() for kind in range(3)] == [[1], [0], []]
    texts = np.array([[1, 0], [0, 1], [1, 0], [0.9, 0.1], [0.95, 0.05]])
    found = within_metrics(np.ones((3, 2)), texts, relevance, resamples=0)
    # Both rows of "a" are queries: "d" is nearer to them than "c", so they find it second.
    assert (found["t2t_queries"], found["i2i_queries"]) == (4, 2)
    assert found["t2t_R@1"] == 0


def plain(embeddings, rows_right, same):
    """Rank of the best right row for each row that has one."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores, found = unit @ unit.T, {}
    for row in range(len(unit)):
        if not rows_right[row].any():
            continue
        best = scores[row][rows_right[row]].max()
        wrong = ~rows_right[row] & ~same[row]
        found[row] = 1 + int((scores[row][wrong] >= best - 1e-12).sum())
    return found


@pytest.mark.parametrize("protocol", ["text", "pair"])
@pytest.mark.parametrize("block", [1, 7, None])
def test_ranks_are_those_of_plain_loops(protocol, block):
    rng = np.random.default_rng(0)
    lists = [[f"word {rng.integers(0, 25)}" for _ in range(rng.integers(1, 4))] for _ in range(30)]
    captions = CaptionMap.from_lists(lists)
    relevance = Relevance.of(captions, protocol, [i if i != 9 else 8 for i in range(30)])
    kinds = {"i2i": relevance.images, "t2t": relevance.texts}
    right = np.zeros((30, captions.n_texts), bool)
    for row in range(30):
        right[row, relevance.texts_of(row)] = True
    shares = {"i2i": (right.astype(int) @ right.T) > 0, "t2t": (right.T.astype(int) @ right) > 0}
    for direction, rows in (("i2i", 30), ("t2t", captions.n_texts)):
        own = kinds[direction]
        embeddings = rng.normal(size=(len(own), 4))[own.of_row]
        same = own.of_row[:, None] == own.of_row
        expected = plain(embeddings, shares[direction] & ~same, same)
        queries, ranks = rank_within(embeddings, Partners.of(relevance, direction), block=block)
        found = {
            row: int(ranks[queries.tolist().index(own.of_row[row])])
            for row in range(rows)
            if own.of_row[row] in queries
        }
        assert found == expected


def test_intervals_draw_images_with_their_captions():
    rng = np.random.default_rng(1)
    captions = CaptionMap.from_lists([[f"{i} {j}" for j in range(2 + i % 2)] for i in range(40)])
    relevance = Relevance.of(captions, "pair")
    texts = rng.normal(size=(40, 6))[captions.image_of_text] + rng.normal(size=(captions.n_texts, 6))
    found = within_metrics(rng.normal(size=(40, 6)), texts, relevance, resamples=200, seed=3)
    _, ranks = rank_within(texts, Partners.of(relevance, "t2t"))
    values = []
    for weights in np.concatenate(list(draws(40, 200, 3))):
        often = weights[captions.image_of_text]
        values.append((often * (ranks <= 1)).sum() / often.sum())
    assert found[KEY]["t2t_R@1"] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())
    assert list(found[KEY]) == ["t2t_R@1", "t2t_R@5", "t2t_R@10"]


def test_embeddings_that_are_no_numbers():
    relevance = Relevance.of(CaptionMap.from_lists([["a", "b"]]), "pair")
    with pytest.raises(CheckpointError, match="NaN or infinity for 1 of 2 texts"):
        within_metrics(np.ones((1, 2)), np.array([[1, 0], [np.nan, 0]]), relevance)
