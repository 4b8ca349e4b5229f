"""The mean over folds is that of the folds measured by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from icclip.retrieval.bootstrap import KEY, confidence_intervals
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.folds import fold_metrics
from icclip.retrieval.metrics import retrieval_metrics
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance
from icclip_plugins.metrics.ranking import icclip_metrics


def case(n=30, seed=0):
    """Uneven captions, some of them shared by images of one fold and by images of different folds."""
    rng = np.random.default_rng(seed)
    lists = [[f"caption {i} {j}" for j in range(1 + i % 3)] for i in range(n)]
    for row in (1, 2, 15):
        lists[row][0] = "the same caption"
    captions = CaptionMap.from_lists(lists)
    images = rng.normal(size=(n, 8)).astype(np.float32)
    texts = (images[captions.image_of_text] + rng.normal(size=(captions.n_texts, 8))).astype(np.float32)
    return images, texts, captions, lists


def test_means_worked_out_on_paper():
    # Each of four images has its own direction; the second caption points at the first image, which is in its fold.
    images = np.eye(4, dtype=np.float32)
    texts = images[[0, 0, 2, 3]]
    relevance = Relevance.of(CaptionMap.from_lists([["a"], ["b"], ["c"], ["d"]]), "pair")
    found = fold_metrics(images, texts, relevance, 2, resamples=0)
    assert (found["count"], found["mean"]["n_images"], found["mean"]["n_texts"]) == (2, 2, 2)
    # Image 0 ties its caption with the other one, image 1 scores 0 with both; the second fold is perfect.
    assert found["mean"]["i2t_R@1"] == (0 + 1) / 2
    assert found["mean"]["t2i_R@1"] == (1 / 2 + 1) / 2
    assert found["mean"]["t2i_MeanR"] == (1.5 + 1) / 2
    assert KEY not in found["mean"]


@pytest.mark.parametrize("protocol", ["text", "pair"])
def test_they_are_those_of_the_folds_by_themselves(protocol):
    images, texts, captions, lists = case()
    keys = [f"image {i // 2}" if i in {10, 11} else i for i in range(30)]
    found = fold_metrics(
        images, texts, Relevance.of(captions, protocol, keys), 3, metrics=icclip_metrics(), resamples=20
    )
    expected = []
    for start in (0, 10, 20):
        own = CaptionMap.from_lists(lists[start : start + 10])
        rows = slice(captions.offsets[start], captions.offsets[start + 10])
        relevance = Relevance.of(own, protocol, keys[start : start + 10])
        expected.append(retrieval_metrics(rank(images[start : start + 10], texts[rows], relevance), icclip_metrics()))
    for key in ("i2t_R@1", "t2i_R@5", "t2i_MedR", "i2t_MeanR", "rsum", "mR@1", "t2i_mAP", "avg_best_cosine", "n_texts"):
        assert found["mean"][key] == pytest.approx(np.mean([one[key] for one in expected])), key
    for key in ("rsum", "t2i_mAP"):
        low, high = found["mean"][KEY][key]
        assert low < found["mean"][key] < high


def test_the_intervals_are_narrower_than_those_of_one_fold():
    images, texts, captions, _ = case(n=300)
    relevance = Relevance.of(captions, "pair")
    mean = fold_metrics(images, texts, relevance, 3)["mean"]
    first = CaptionMap.from_lists(
        [list(captions.texts[captions.offsets[i] : captions.offsets[i + 1]]) for i in range(100)]
    )
    rows = slice(0, captions.offsets[100])
    one = confidence_intervals(rank(images[:100], texts[rows], Relevance.of(first, "pair")))
    widths = [high - low for low, high in (mean[KEY]["t2i_R@1"], one["t2i_R@1"])]
    # Three times the images: narrower by the root of 3.
    assert widths[0] == pytest.approx(widths[1] / 3**0.5, rel=0.2)


def test_folds_have_the_same_size():
    images, texts, captions, _ = case()
    with pytest.raises(ValueError, match="30 images do not make 4 folds of the same size"):
        fold_metrics(images, texts, Relevance.of(captions, "pair"), 4)
