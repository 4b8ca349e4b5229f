from __future__ import annotations

import itertools

import numpy as np
import pytest

from icclip.retrieval.bootstrap import Hits, SharedCaptions
from icclip.retrieval.comparison import by_image, compare, corrected, holm, sign_flip

NOTHING_SHARED = SharedCaptions(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4), np.int64), 0)


def hits(i2t, t2i, captions=2):
    """From each image's number of queries answered at 1, in both directions; at 5 and 10 all are."""
    own = [[a, 1, 1, 1, b, captions, captions, captions] for a, b in zip(i2t, t2i, strict=True)]
    return Hits(np.array(own, np.int64), NOTHING_SHARED)


def test_a_comparison_worked_out_on_paper():
    # Of four images: i2t R@1 2/4 and 3/4, t2i R@1 (of 8 captions) 3/8 and 6/8; the rest is 1 everywhere.
    changes = compare(hits([1, 1, 0, 0], [1, 1, 1, 0]), hits([1, 1, 1, 0], [2, 1, 2, 1]))
    assert (changes["i2t_R@1"].before, changes["i2t_R@1"].now) == (0.5, 0.75)
    assert changes["t2i_R@1"].difference == pytest.approx(3 / 8)
    assert changes["rsum"].difference == pytest.approx(100 * (1 / 4 + 3 / 8))
    assert changes["mR@1"].difference == pytest.approx((1 / 4 + 3 / 8) / 2)
    assert changes["i2t_R@5"].difference == changes["i2t_R@5"].detectable == 0
    assert changes["i2t_R@5"].p == 1
    # One image moved: its sign is + or -, both as far from 0. Three moved in t2i: 2 of 8 signs are as far.
    assert changes["i2t_R@1"].p == 1
    assert changes["t2i_R@1"].p == pytest.approx(2 / 8, abs=0.02)
    # Standard error of i2t R@1: one image of 1/4.
    assert changes["i2t_R@1"].detectable == pytest.approx((1.96 + 0.8416) / 4, abs=1e-4)


def test_the_test_agrees_with_all_exchanges():
    rng = np.random.default_rng(0)
    gains = rng.integers(-2, 4, (10, 1)).astype(float)
    signs = np.array(list(itertools.product([-1, 1], repeat=10)))
    exact = (np.abs(signs @ gains[:, 0]) >= abs(gains.sum())).mean()
    assert sign_flip(gains, 40_000)[0] == pytest.approx(exact, abs=0.01)


def test_the_captions_of_an_image_are_one_witness():
    # Six images won, each with five captions: as captions 30 of 30, as images 6 of 6, p = 2 / 2^6.
    before, now = hits([1] * 6, [0] * 6, 5), hits([1] * 6, [5] * 6, 5)
    assert compare(before, now)["t2i_R@1"].p == pytest.approx(2 / 64, abs=0.006)


def test_shared_captions_count_at_the_image_of_their_row():
    shared = SharedCaptions(np.array([0, 2]), np.array([0, 0]), np.array([[1, 1, 1, 1], [0, 0, 1, 1]]), 1)
    own = np.zeros((3, 8), np.int64)
    own[:, 3] = own[:, 7] = 1
    parts = by_image(Hits(own, shared))
    assert parts["t2i_R@1"].tolist() == [0.2, 0, 0]
    assert parts["t2i_R@10"].tolist() == [0.2, 0, 0.2]


def test_different_splits_are_refused():
    with pytest.raises(ValueError, match="not of the same split"):
        compare(hits([1, 1], [1, 1]), hits([1, 1, 1], [1, 1, 1]))


def test_holm_worked_out_on_paper():
    # Ascending: .01 x 3, .02 x 2, .9 x 1; never below an earlier one, never above 1.
    assert holm([0.9, 0.01, 0.02]) == pytest.approx([0.9, 0.03, 0.04])
    assert holm([0.02, 0.021, 0.022]) == pytest.approx([0.06, 0.06, 0.06])
    assert holm([0.8, 0.7]) == [1, 1]


def test_several_comparisons_are_corrected_metric_by_metric():
    first, second = (compare(hits([1] * 6, [0] * 6), hits([1] * 6, [n] * 6)) for n in (2, 1))
    found = corrected([first, second])
    assert found[0]["t2i_R@1"].p == pytest.approx(2 * first["t2i_R@1"].p)
    assert found[1]["rsum"].difference == second["rsum"].difference
    assert corrected([]) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_test_agrees_with_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    gains = rng.integers(-2, 4, 60).astype(float)
    theirs = stats.permutation_test(
        (gains,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=20_000, rng=rng
    )
    assert sign_flip(gains[:, None], 20_000)[0] == pytest.approx(theirs.pvalue, abs=0.02)


def test_intervals_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    before, now = (hits(rng.integers(0, 2, 200), rng.integers(0, 3, 200)) for _ in range(2))
    found = compare(before, now, resamples=4000)["t2i_R@1"]
    gains = by_image(now)["t2i_R@1"] - by_image(before)["t2i_R@1"]
    theirs = stats.bootstrap(
        (gains * 200,), np.mean, method="percentile", n_resamples=4000, rng=rng
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
