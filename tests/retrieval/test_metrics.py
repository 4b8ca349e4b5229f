from __future__ import annotations

import math

import numpy as np
import pytest

from icclip.errors import PluginError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import MetricSpec
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.metrics import SEED_KEYS, retrieval_metrics
from icclip.retrieval.ranking import RetrievalRanks, rank
from icclip_plugins.metrics.ranking import mean_average_precision, ndcg


def ranks_of(texts_ahead, images_ahead, *, per_image, texts_above=None, images_above=None, cosines=None):
    captions = CaptionMap.from_lists([["a caption"] * per_image] * (len(texts_ahead) // per_image))
    return RetrievalRanks(
        captions,
        np.array(texts_ahead),
        np.array(texts_ahead if texts_above is None else texts_above),
        np.array(images_ahead),
        np.array(images_ahead if images_above is None else images_above),
        np.array(cosines or [0.5] * len(texts_ahead), dtype=np.float32),
    )


@pytest.fixture
def two_images():
    # Image 0 has captions 0, 1; image 1 captions 2, 3. Negatives before each caption, per direction:
    return ranks_of([4, 0, 7, 12], [0, 1, 5, 11], per_image=2, cosines=[0.25, 0.5, 0.75, 0.125])


def test_the_thirteen_keys_come_first_in_the_seed_projects_order_as_floats(two_images):
    metrics = retrieval_metrics(two_images, Registry().default_metrics())
    assert tuple(metrics)[:13] == SEED_KEYS
    assert tuple(metrics)[13:] == (
        *("mR@1", "mR@5", "mR@10", "rsum"),
        *("i2t_mAP", "t2i_mAP", "i2t_nDCG@10", "t2i_nDCG@10"),
    )
    assert {type(value) for value in metrics.values()} == {float}


def test_values_worked_out_on_paper(two_images):
    # i2t: best ranks 1 and 8. t2i: ranks 1, 2, 6, 12; the lower of the two middle ones is 2.
    expected = (
        ("i2t_R@1", 1 / 2), ("i2t_R@5", 1 / 2), ("i2t_R@10", 1.0), ("i2t_MedR", 1.0), ("i2t_MeanR", 4.5),
        ("t2i_R@1", 1 / 4), ("t2i_R@5", 2 / 4), ("t2i_R@10", 3 / 4), ("t2i_MedR", 2.0), ("t2i_MeanR", 21 / 4),
        ("avg_best_cosine", (0.5 + 0.75) / 2), ("n_images", 2.0), ("n_texts", 4.0),
        ("mR@1", 3 / 8), ("mR@5", 1 / 2), ("mR@10", 7 / 8), ("rsum", 350.0),
    )  # fmt: skip
    assert retrieval_metrics(two_images) == dict(expected)


def test_median_is_the_lower_one_as_torchs():
    torch = pytest.importorskip("torch")
    for ranks in ([3], [9, 2], [4, 1, 8], [7, 7, 1, 2], [1, 2, 3, 4, 5, 6]):
        metrics = retrieval_metrics(ranks_of([r - 1 for r in ranks], [0] * len(ranks), per_image=1))
        assert metrics["i2t_MedR"] == torch.tensor(ranks).median().item()


def test_mean_average_precision_on_paper(two_images):
    # Image 0: places 1 + 0 = 1 and 2 + 4 = 6: (1/1 + 2/6) / 2. Image 1: places 8 and 14: (1/8 + 2/14) / 2.
    expected = ((1 + 2 / 6) / 2 + (1 / 8 + 2 / 14) / 2) / 2
    assert mean_average_precision(two_images) == pytest.approx(
        {"i2t_mAP": expected, "t2i_mAP": (1 + 1 / 2 + 1 / 6 + 1 / 12) / 4}
    )


def test_ndcg_on_paper(two_images):
    # Places as above; gains 1 / log2(1 + place) up to place 10; the best possible places are 1 and 2.
    best = 1 + 1 / math.log2(3)
    image_0, image_1 = (1 + 1 / math.log2(7)) / best, (1 / math.log2(9)) / best
    assert ndcg(two_images) == pytest.approx(
        {
            "i2t_nDCG@10": (image_0 + image_1) / 2,
            "t2i_nDCG@10": (1 + 1 / math.log2(3) + 1 / math.log2(7)) / 4,
        }
    )


def test_a_perfect_model_scores_one_with_any_number_of_captions():
    perfect = ranks_of([0] * 36, [0] * 36, per_image=12)  # more captions than nDCG looks at
    metrics = retrieval_metrics(perfect, Registry().default_metrics())
    assert metrics["rsum"] == 600
    assert [metrics[key] for key in ("i2t_mAP", "t2i_mAP", "i2t_nDCG@10", "t2i_nDCG@10")] == pytest.approx([1] * 4)


def test_optimistic_values_stand_last_where_ties_make_a_difference():
    tied = ranks_of([1, 0], [0, 0], per_image=1, texts_above=[0, 0])
    metrics = retrieval_metrics(tied)
    assert metrics["i2t_R@1"] == 0.5
    assert {key: metrics[key] for key in tuple(metrics)[17:]} == {
        "i2t_R@1_optimistic": 1.0,
        "i2t_MeanR_optimistic": 1.0,
        "rsum_optimistic": 600.0,
    }


def test_a_collapsed_model_scores_zero_and_says_that_it_is_ties():
    captions = CaptionMap.from_lists([["a"] * 5] * 50)
    metrics = retrieval_metrics(rank(np.ones((50, 8)), np.ones((250, 8)), captions), Registry().default_metrics())
    assert metrics["rsum"] == 0
    assert metrics["rsum_optimistic"] == 600
    assert metrics["avg_best_cosine"] == pytest.approx(1)
    assert metrics["i2t_nDCG@10"] == metrics["t2i_nDCG@10"] == 0


def metric(compute):
    return MetricSpec(name="mine", summary="", compute=compute)


def test_another_metric_is_added_at_the_end(two_images):
    metrics = retrieval_metrics(two_images, [metric(lambda ranks: {"t2i_worst": ranks.t2i.max()})])
    assert list(metrics.items())[-1] == ("t2i_worst", 12.0)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "metric 'mine' returned list: return a mapping"),
        ({"rsum": 1.0}, "metric 'mine' returned 'rsum', which exists"),
        ({"x": float("nan")}, "metric 'mine' returned nan for 'x': return a finite number"),
        ({"x": "high"}, "metric 'mine' returned 'high' for 'x'"),
    ],
)
def test_what_another_metric_may_not_return(two_images, returned, message):
    with pytest.raises(PluginError, match=message):
        retrieval_metrics(two_images, [metric(lambda _ranks: returned)])
