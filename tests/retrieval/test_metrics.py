from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval

from icclip.errors import PluginError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import MetricSpec
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.metrics import DIRECTIONS, SEED_KEYS, retrieval_metrics
from icclip.retrieval.ranking import Answers, RetrievalRanks, rank
from icclip.retrieval.relevance import Relevance
from icclip_plugins.metrics.ranking import (
    map_at_r,
    mean_average_precision,
    ndcg,
    precision,
    r_precision,
    reciprocal_rank,
)


def answers_of(ahead, per_query, above=None, cosines=None):
    """Answers of queries with as many right ones each; the entries are given with the best first."""
    ahead = np.array(ahead)
    queries = np.arange(len(ahead) // per_query)
    return Answers(
        queries=queries,
        lists=queries.copy(),
        offsets=np.arange(0, len(ahead) + 1, per_query),
        sizes=np.ones(len(ahead), np.int64),
        ahead=ahead,
        above=ahead.copy() if above is None else np.array(above),
        cosines=np.array(cosines or [0.5] * len(ahead), dtype=np.float32),
        grades=np.ones(len(ahead)),
    )


def ranks_of(texts_ahead, images_ahead, *, per_image, texts_above=None, images_above=None, cosines=None):
    captions = CaptionMap.from_lists([["a caption"] * per_image] * (len(texts_ahead) // per_image))
    return RetrievalRanks(
        Relevance.of(captions, "pair"),
        answers_of(texts_ahead, per_image, texts_above, cosines),
        answers_of(images_ahead, 1, images_above),
    )


@pytest.fixture
def two_images():
    # Two captions an image. Wrong answers before each right one, the better one of an image first:
    return ranks_of([0, 4, 7, 12], [0, 1, 5, 11], per_image=2, cosines=[0.5, 0.25, 0.75, 0.125])


def test_the_thirteen_keys_come_first_in_the_seed_projects_order_as_floats(two_images):
    metrics = retrieval_metrics(two_images, Registry().default_metrics())
    assert tuple(metrics)[:13] == SEED_KEYS
    assert tuple(metrics)[13:] == (
        *("mR@1", "mR@5", "mR@10", "rsum"),
        *("i2t_mAP", "t2i_mAP", "i2t_nDCG@10", "t2i_nDCG@10"),
        *("i2t_mAP@R", "t2i_mAP@R", "i2t_R-Precision", "t2i_R-Precision"),
        *("i2t_MRR", "t2i_MRR", "i2t_P@10", "t2i_P@10"),
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


def test_what_stands_within_the_first_r_on_paper():
    # Three right answers, so that places 1 to 3 count. Query 0: places 1, 3, 7: (1/1 + 2/3) / 3. Query 1:
    # places 4, 5, 6: nothing. Texts have one right image: place 1, or nothing.
    ranks = ranks_of([0, 1, 4, 3, 3, 3], [0, 1, 0, 2, 0, 0], per_image=3)
    assert map_at_r(ranks) == pytest.approx({"i2t_mAP@R": (1 + 2 / 3) / 3 / 2, "t2i_mAP@R": 4 / 6})
    assert r_precision(ranks) == pytest.approx({"i2t_R-Precision": 2 / 3 / 2, "t2i_R-Precision": 4 / 6})


LISTED = tuple(f"{direction}_{name}" for name in ("mAP", "nDCG@10", "mAP@R", "R-Precision") for direction in DIRECTIONS)


def random_run(seed, n=30, words=15, *, judged=False):
    """A relevance with shared captions or graded judgements, and the ranks of embeddings without ties in it."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, n - 6, n).tolist()
    captions = CaptionMap.from_lists([[f"word {w}" for w in rng.integers(0, words, rng.integers(1, 6))] for _ in keys])
    relevance = Relevance.of(captions, "text", keys)
    if judged:
        pairs = np.column_stack([rng.integers(0, n - 3, 200), rng.integers(0, captions.n_texts, 200)])
        relevance = Relevance.judged(captions, "file", pairs, rng.integers(0, 4, 200).astype(float))
    images, texts = (rng.standard_normal((rows, 16)).astype(np.float32) for rows in (n, captions.n_texts))
    images, texts = images[relevance.images.first], texts[relevance.texts.first]
    return relevance, images[relevance.images.of_row], texts[relevance.texts.of_row]


def dense(relevance):
    """float64 [n_images, n_texts]: the grade of every pair."""
    grades = np.zeros((len(relevance.images), len(relevance.texts)))
    grades[relevance.image_of_pair, relevance.members] = 1 if relevance.grades is None else relevance.grades
    return grades[relevance.images.of_row][:, relevance.texts.of_row]


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_trec_eval_measures_the_same(seed, judged):
    relevance, images, texts = random_run(seed, judged=judged)
    metrics = retrieval_metrics(rank(images, texts, relevance), Registry().default_metrics())
    grades, cosines = dense(relevance), images.astype(np.float64) @ texts.T.astype(np.float64)
    cosines /= np.linalg.norm(images, axis=1)[:, None] * np.linalg.norm(texts, axis=1)[None, :]
    names = {"map": "mAP", "ndcg_cut_10": "nDCG@10", "Rprec": "R-Precision", "success_1": "R@1", "success_5": "R@5"}
    for direction, known, scores in (("i2t", grades, cosines), ("t2i", grades.T, cosines.T)):
        queries = {
            str(q): {f"d{d}": int(g) for d, g in enumerate(row) if g} for q, row in enumerate(known) if row.any()
        }
        # Copies are tied: which one comes first makes no difference, as both are right or both wrong.
        run = {q: {f"d{d}": float(s) for d, s in enumerate(scores[int(q)])} for q in queries}
        measures = {"map", "ndcg_cut.10", "Rprec", "success.1,5"}
        found = pytrec_eval.RelevanceEvaluator(queries, measures).evaluate(run).values()
        for theirs, ours in names.items():
            # Its scores are float32, its gains those of whole numbers.
            assert metrics[f"{direction}_{ours}"] == pytest.approx(np.mean([one[theirs] for one in found]), abs=1e-6)


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_mean_average_precision_at_r_equals_its_definition(seed, judged):
    relevance, images, texts = random_run(seed, judged=judged)
    found = map_at_r(rank(images, texts, relevance))
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts)]
    right = dense(relevance) > 0
    for direction, known, scores in (("i2t", right, units[0] @ units[1].T), ("t2i", right.T, units[1] @ units[0].T)):
        values = []
        for own, row in zip(known, scores, strict=True):
            r, hits = int(own.sum()), own[np.argsort(-np.round(row, 6), kind="stable")]
            if r:
                values.append(sum(hits[: place + 1].mean() for place in range(r) if hits[place]) / r)
        assert found[f"{direction}_mAP@R"] == pytest.approx(np.mean(values))


def test_better_grades_first_give_more():
    captions = CaptionMap.from_lists([["good", "fair"], ["bad"]])
    relevance = Relevance.judged(captions, "file", np.array([[0, 0], [0, 1]]), np.array([3.0, 1.0]))
    image, texts = np.eye(3)[:2], np.array([[0.6, 0, 0.8], [0.8, 0, 0.6], [0, 1, 0]])
    # The fair one first: (1 + 3 / log2(3)) / (3 + 1 / log2(3)); tied ones count as if it were.
    expected = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert ndcg(rank(image, texts, relevance))["i2t_nDCG@10"] == pytest.approx(expected)
    assert ndcg(rank(image, texts[[0, 0, 2]], relevance))["i2t_nDCG@10"] == pytest.approx(expected)
    assert ndcg(rank(image, texts[[1, 0, 2]], relevance))["i2t_nDCG@10"] == pytest.approx(1)


def test_how_many_queries_were_judged_is_said_where_it_is_not_all():
    relevance, images, texts = random_run(0, judged=True)
    metrics = retrieval_metrics(rank(images, texts, relevance))
    assert metrics["n_images"] == 30
    assert metrics["n_image_queries"] == (dense(relevance) > 0).any(axis=1).sum() < 30
    assert metrics["n_text_queries"] == (dense(relevance) > 0).any(axis=0).sum()


def test_a_perfect_model_scores_one_with_any_number_of_captions():
    perfect = ranks_of([0] * 36, [0] * 36, per_image=12)  # more captions than nDCG looks at
    metrics = retrieval_metrics(perfect, Registry().default_metrics())
    assert metrics["rsum"] == 600
    assert [metrics[key] for key in LISTED] == pytest.approx([1] * 8)


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
    metrics = retrieval_metrics(
        rank(np.ones((50, 8)), np.ones((250, 8)), Relevance.of(captions, "pair")), Registry().default_metrics()
    )
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
        ({"rsum": 1.0}, "metric 'mine' returned 'rsum', which is already taken: choose another key"),
        ({"x": float("nan")}, "metric 'mine' returned nan for 'x': return a finite number"),
        ({"x": "high"}, "metric 'mine' returned 'high' for 'x'"),
    ],
)
def test_what_another_metric_may_not_return(two_images, returned, message):
    with pytest.raises(PluginError, match=message):
        retrieval_metrics(two_images, [metric(lambda _ranks: returned)])


def test_reciprocal_rank_and_precision_worked_out_on_paper(two_images):
    # Best answers of the images at 1 and 8, of the texts at 1, 2, 6, 12; places 1, 6 and 8, 14 of the images' answers.
    assert reciprocal_rank(two_images) == {
        "i2t_MRR": pytest.approx((1 + 1 / 8) / 2),
        "t2i_MRR": pytest.approx((1 + 1 / 2 + 1 / 6 + 1 / 12) / 4),
    }
    assert precision(two_images) == {"i2t_P@10": pytest.approx((2 + 1) / 20), "t2i_P@10": pytest.approx(3 / 40)}


@pytest.mark.parametrize("seed", range(3))
def test_reciprocal_rank_and_precision_agree_with_trec_eval(seed):
    rng = np.random.default_rng(seed)
    captions = CaptionMap.from_lists(
        [[f"word {w}" for w in rng.integers(0, 25, rng.integers(1, 6))] for _ in range(30)]
    )
    images, texts = (rng.standard_normal((rows, 12)) for rows in (30, captions.n_texts))
    relevance = Relevance.of(captions, "pair")
    scores = images @ texts.T / np.linalg.norm(images, axis=1)[:, None] / np.linalg.norm(texts, axis=1)
    right = {str(i): {str(j): 1 for j in relevance.texts_of(i).tolist()} for i in range(30)}
    run = {str(i): {str(j): float(score) for j, score in enumerate(row)} for i, row in enumerate(scores)}
    found = pytrec_eval.RelevanceEvaluator(right, {"recip_rank", "P_10"}).evaluate(run).values()
    ranks = rank(images, texts, relevance)
    assert reciprocal_rank(ranks)["i2t_MRR"] == pytest.approx(np.mean([one["recip_rank"] for one in found]))
    assert precision(ranks)["i2t_P@10"] == pytest.approx(np.mean([one["P_10"] for one in found]))
