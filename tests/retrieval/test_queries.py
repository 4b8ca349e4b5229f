from __future__ import annotations

import numpy as np

from icclip.retrieval.bootstrap import Hits
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.queries import BINS, cosine_counts, first_answers, hits_of, query_ranks
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance


def split(seed=0, n=30):
    rng = np.random.default_rng(seed)
    captions = CaptionMap.from_lists([[f"word {w}" for w in rng.integers(0, 60, 3)] for _ in range(n)])
    keys = (np.arange(n) % (n - 3)).tolist()
    images, texts = (rng.standard_normal((rows, 8)).astype(np.float32) for rows in (n, 3 * n))
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
    return images, texts, Relevance.of(captions, "text", keys)


def test_hits_of_what_is_kept_are_those_of_the_ranking():
    images, texts, relevance = split()
    ranks = rank(images, texts, relevance)
    found, expected = hits_of(*query_ranks(ranks), len(relevance.images)), Hits.of(ranks)
    assert expected.shared.n_kinds > 0
    np.testing.assert_array_equal(found.own, expected.own)
    for name in ("owner", "kind", "hits", "n_kinds"):
        np.testing.assert_array_equal(getattr(found.shared, name), getattr(expected.shared, name))


def test_first_answers_are_those_of_a_full_sort():
    images, texts, _ = split()
    expected = np.argsort(-(texts @ images.T), axis=1, kind="stable")[:, :4]
    assert first_answers(texts, images, 4).tolist() == expected.tolist()
    assert first_answers(texts, images[:2]).shape == (len(texts), 2)


def test_queries_without_an_answer_keep_theirs_in_line():
    images, texts, whole = split()
    judged = Relevance.judged(whole.captions, "file", np.array([[2, 5], [7, 50]]), np.ones(2))
    first = first_answers(images, texts), first_answers(texts, images)
    i2t, t2i = query_ranks(rank(images, texts, judged), first)
    assert (i2t.query.tolist(), t2i.query.tolist()) == ([2, 7], [5, 50])
    assert i2t.first.tolist() == first[0][[2, 7]].tolist()
    assert i2t.caption.tolist() == [-1, -1]


def test_cosines_of_right_and_wrong_answers_are_counted_apart():
    captions = CaptionMap.from_lists([["a"], ["b"]])
    images = np.eye(2, dtype=np.float32)
    counts = cosine_counts(images, images, rank(images, images, Relevance.of(captions, "pair")))
    assert sum(counts["positives"]) == sum(counts["negatives"]) == 2
    assert counts["positives"][-1] == 2  # cosine 1
    assert counts["negatives"][BINS // 2] == 2  # cosine 0
