from __future__ import annotations

import numpy as np
import pytest

from icclip.retrieval import bootstrap
from icclip.retrieval.bootstrap import confidence_intervals, draws
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.metrics import retrieval_metrics
from icclip.retrieval.ranking import RetrievalRanks


def random_ranks(n=60, *, alike=False):
    """Captions of one image are answered alike, or each by itself."""
    rng = np.random.default_rng(0)
    captions = CaptionMap.from_lists([["a"] * (4 if alike else 1 + i % 4) for i in range(n)])
    ahead = rng.integers(0, 14, n)[captions.image_of_text] if alike else rng.integers(0, 14, captions.n_texts)
    return RetrievalRanks(captions, ahead, ahead, ahead, ahead, np.zeros(captions.n_texts, dtype=np.float32))


def test_intervals_equal_metrics_of_resampled_splits():
    ranks, resamples = random_ranks(), 50
    values = {key: [] for key in confidence_intervals(ranks)}
    for weights in np.concatenate(list(draws(60, resamples, 7))):
        chosen = np.repeat(np.arange(60), weights)  # a split that holds each drawn image that many times
        spans = [slice(*ranks.captions.offsets[[i, i + 1]]) for i in chosen]
        ahead = np.concatenate([ranks.texts_ahead[span] for span in spans])
        captions = CaptionMap.from_lists([ranks.captions.texts[span] for span in spans])
        metrics = retrieval_metrics(RetrievalRanks(captions, ahead, ahead, ahead, ahead, np.zeros(len(ahead))))
        for key, collected in values.items():
            collected.append(metrics[key])
    intervals = confidence_intervals(ranks, resamples=resamples, seed=7)
    for key, collected in values.items():
        assert intervals[key] == pytest.approx(np.quantile(collected, [0.025, 0.975]).tolist())


def test_what_gets_an_interval():
    names = ["i2t_R@1", "t2i_R@1", "i2t_R@5", "t2i_R@5", "i2t_R@10", "t2i_R@10", "mR@1", "mR@5", "mR@10", "rsum"]
    assert list(confidence_intervals(random_ranks())) == names


def test_the_seed_decides():
    ranks = random_ranks()
    assert confidence_intervals(ranks, seed=1) == confidence_intervals(ranks, seed=1)
    assert confidence_intervals(ranks, seed=1) != confidence_intervals(ranks, seed=2)


def test_drawing_in_parts_changes_nothing(monkeypatch):
    ranks = random_ranks()
    whole = confidence_intervals(ranks)
    monkeypatch.setattr(bootstrap, "_NUMBERS_AT_ONCE", 60 * 7)
    assert confidence_intervals(ranks) == whole


def test_captions_that_are_answered_alike_widen_the_interval():
    ranks = random_ranks(400, alike=True)
    low, high = confidence_intervals(ranks)["t2i_R@5"]
    share = (ranks.t2i <= 5).mean()
    # As many independent queries as images, not as captions: 1.96 standard errors to both sides.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 400), rel=0.1)


def test_one_image_gives_a_point():
    captions = CaptionMap.from_lists([["a", "b"]])
    zeros = np.zeros(2, dtype=np.int64)
    intervals = confidence_intervals(RetrievalRanks(captions, zeros, zeros, zeros, zeros, np.zeros(2)))
    assert intervals["rsum"] == [600, 600]
