from __future__ import annotations

import numpy as np
import pytest

from icclip.retrieval import agreement, blocks
from icclip.retrieval.agreement import centred_cosines, cosines, ranking_agreement, tower_agreement

SQUARE = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)


def test_cosines_of_rows():
    found = cosines(np.array([[2.0, 0], [3, 4], [0, 0]]), np.array([[0, 5.0], [4, 3], [1, 0]]))
    np.testing.assert_allclose(found, [0, 24 / 25, np.nan])


def test_centred_cosines_by_hand():
    # Mean (4, 0): centred (-1, 0) and (1, 0); the candidate's less the same mean: (-1, 0) and (0, 1).
    found = centred_cosines(np.array([[3.0, 0], [5, 0]]), np.array([[3.0, 0], [4, 1]]))
    np.testing.assert_allclose(found, [1, 0], atol=1e-12)


def test_a_row_that_is_the_mean_has_no_centred_cosine():
    found = centred_cosines(np.array([[3.0, 0], [5, 0], [4, 0]]), np.array([[3.0, 0], [5, 0], [4, 2]]))
    np.testing.assert_allclose(found, [1, 1, np.nan])


def test_a_candidate_that_is_the_mean_everywhere_has_lost_everything():
    reference = np.array([[3.0, 0], [5, 0]])
    np.testing.assert_array_equal(centred_cosines(reference, np.array([[4.0, 0], [4, 0]])), [0, 0])


def test_raw_cosine_hides_what_centred_cosine_shows():
    """All embeddings are nearly the same vector, and the damage turns the little that differs around."""
    differing = np.array([[0.05, 0], [0, 0.05], [-0.05, 0], [0, -0.05]])
    common = np.ones((4, 1))
    reference = np.hstack([common, differing])
    damaged = np.hstack([common, -differing])
    found = tower_agreement(reference, damaged)
    # Both have the squared length 1.0025, and their product is .9975.
    assert found.min_cosine == pytest.approx(0.9975 / 1.0025)
    assert found.centred_min_cosine == pytest.approx(-1)
    assert found.centred_mean_cosine == pytest.approx(-1)


def test_the_mean_of_centred_cosines_is_that_of_all_rows():
    # SQUARE's mean is 0; one of its four rows is turned round.
    found = tower_agreement(SQUARE, SQUARE * np.array([[1], [1], [1], [-1]], np.float32))
    assert (found.centred_mean_cosine, found.centred_min_cosine) == (0.5, -1)


def test_the_worst_rows_come_first():
    angles = np.array([0.0, 0.3, 0.1, 0.2])
    candidate = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = tower_agreement(np.tile([1.0, 0.0], (4, 1)), candidate, worst=2)
    assert found.worst == (1, 3)
    assert found.worst_cosines == pytest.approx((np.cos(0.3), np.cos(0.2)))
    assert found.mean_cosine == pytest.approx(np.cos(angles).mean())
    assert found.embedding_abs == pytest.approx(np.sin(0.3))
    # Nothing but the common part: no direction to compare.
    assert (found.centred_min_cosine, found.centred_worst, found.spread) == (None, None, 0)


def test_a_zero_embedding_is_the_worst_there_is():
    assert tower_agreement(SQUARE, SQUARE * [[1], [1], [0], [1]]).worst[0] == 2


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(4, 1\) against \(4, 2\)"):
        tower_agreement(SQUARE, SQUARE[:, :1])


def test_a_changed_answer_is_a_flip_and_its_gap_is_measured_in_the_reference():
    answers = np.array([[1.0, 0], [0.8, 0.6], [0, 1]])
    query = np.array([[1.0, 0]])
    turned = np.array([[0.6, 0.8]])
    # Reference similarities 1, .8, 0; the candidate's .6, .96, .8: its first answer has .8 in the reference.
    found = ranking_agreement((query, answers), (turned, answers), top=1)
    assert (found.flips.count, found.flips.near_ties, found.flips.worst) == (1, 0, 0)
    assert found.flips.largest_gap == pytest.approx(0.2)
    assert found.similarity_abs == pytest.approx(0.8)
    assert found.overlap == 0


def test_a_flip_between_answers_that_are_almost_tied_is_a_near_tie():
    answers = np.array([[1.0, 0, 0], [0.9995, 0.0316, 0]])
    turned = answers[::-1]
    found = ranking_agreement((np.eye(3)[:1], answers), (np.eye(3)[:1], turned), top=2)
    assert (found.flips.count, found.flips.near_ties) == (1, 1)


def test_equal_answers_are_interchangeable():
    twice = np.array([[1.0, 0], [1.0, 0], [0, 1]])
    found = ranking_agreement((SQUARE[:1], twice), (SQUARE[:1], twice + np.array([[0, 0], [1e-9, 0], [0, 0]])), top=1)
    assert (found.flips.count, found.flips.worst, found.overlap) == (0, None, 1)


def test_overlap_is_the_share_of_the_first_answers():
    query, answers = np.array([[1.0, 0]]), np.array([[0.9, 0], [0.8, 0], [0.7, 0], [0.1, 0]])
    moved = np.array([[0.9, 0], [0.1, 0], [0.7, 0], [0.8, 0]])
    # First two: 0 and 1 against 0 and 3.
    assert ranking_agreement((query, answers), (query, moved), top=2).overlap == 0.5


def test_blocks_change_nothing():
    rng = np.random.default_rng(0)
    reference, candidate = (tuple(rng.normal(size=(n, 4)) for n in (25, 13)) for _ in range(2))
    assert ranking_agreement(reference, candidate, block=4) == ranking_agreement(reference, candidate)


def test_the_block_follows_the_free_memory(monkeypatch):
    rng = np.random.default_rng(0)
    reference, candidate = (tuple(rng.normal(size=(n, 4)) for n in (25, 13)) for _ in range(2))
    expected = ranking_agreement(reference, candidate)
    spans, sizes = agreement.spans, []
    monkeypatch.setattr(agreement, "spans", lambda rows, size: sizes.append(size) or spans(rows, size))
    # One part in 32 of it is enough for five rows of 13 similarities.
    monkeypatch.setattr(blocks, "free_memory", lambda: 32 * 5 * 13 * 8)
    assert ranking_agreement(reference, candidate) == expected
    assert sizes == [5]
