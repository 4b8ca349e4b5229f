"""What is reported, against programs that others wrote: trec_eval, scipy, and a plain sort of all similarities."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytrec_eval
from scipy import stats

from icclip.plugins.registry import Registry
from icclip.retrieval.bootstrap import Hits, differences
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.comparison import by_image, compare, holm, sign_flip
from icclip.retrieval.metrics import SEED_KEYS, retrieval_metrics
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance

# trec_eval ---------------------------------------------------------------------------------------

CASES = {
    "one caption for each image": ([1] * 23, 40, False),
    "uneven captions": ([1, 5, 2, 9, 1, 3, 12, 1, 4] * 3, 60, False),
    "uneven captions, most cosines tied": ([1, 5, 2, 9, 1, 3, 12, 1, 4] * 3, 4, False),
    "shared captions and copies of images": ([1, 5, 2, 3, 1, 4, 2] * 4, 50, True),
    "shared captions and copies of images, most cosines tied": ([1, 5, 2, 3, 1, 4, 2] * 4, 4, True),
    "all cosines the same": ([5] * 12, 1, False),
    "one image with one caption": ([1], 3, False),
    "one image with several captions": ([4], 3, False),
    "two images with one caption for both": ([1, 1], 3, True),
}


def case(counts, palette, *, shared, seed=0):
    """A split, its right answers written out as bool [images, texts], and embeddings with ties.

    There are as many different embeddings as `palette` says. With `shared`, captions and images repeat.
    """
    rng = np.random.default_rng([seed, palette, len(counts)])
    keys = rng.integers(0, max(1, len(counts) - 3), len(counts)).tolist() if shared else list(range(len(counts)))
    words = itertools.count()
    captions = [[f"word {rng.integers(0, 9) if shared else next(words)}" for _ in range(count)] for count in counts]
    texts = [text for own in captions for text in own]
    pairs = {(keys[image], text) for image, own in enumerate(captions) for text in own}
    right = np.array([[(key, text) in pairs for text in texts] for key in keys])
    rows = rng.standard_normal((palette, 16)).astype(np.float32)
    of_content = {content: rows[rng.integers(0, palette)] for content in dict.fromkeys([*keys, *texts])}
    relevance = Relevance.of(CaptionMap.from_lists(captions), "text", keys)
    return relevance, right, *(np.stack([of_content[one] for one in many]) for many in (keys, texts))


def cosines_of(images, texts):
    """float64 [images, texts], rounded so far that what is mathematically the same is the same."""
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in map(np.float64, (images, texts))]
    return np.round(units[0] @ units[1].T, 5)


def trec_eval(scores, right, measures, *, against):
    """The values of every query. Of equal scores trec_eval puts the later name first: the wrong ones', or the right ones'."""
    letter = {True: "a", False: "z"} if against else {True: "z", False: "a"}
    names = [[f"{letter[bool(good)]}{place}" for place, good in enumerate(own)] for own in right]
    judged = {
        str(q): {name: 1 for name, good in zip(names[q], own, strict=True) if good} for q, own in enumerate(right)
    }
    run = {str(q): dict(zip(names[q], own.tolist(), strict=True)) for q, own in enumerate(scores)}
    found = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(run)
    return [found[str(q)] for q in range(len(scores))]


NAMES = {
    "success_1": "R@1", "success_5": "R@5", "success_10": "R@10", "map": "mAP", "ndcg_cut_10": "nDCG@10",
    "Rprec": "R-Precision", "recip_rank": "MRR", "P_10": "P@10",
}  # fmt: skip
MEASURES = {"success.1,5,10", "map", "ndcg_cut.10", "Rprec", "recip_rank", "P.10"}


@pytest.mark.parametrize("name", CASES)
def test_every_metric_is_that_of_trec_eval_with_ties_against_the_model(name):
    counts, palette, shared = CASES[name]
    relevance, right, images, texts = case(counts, palette, shared=shared)
    metrics = retrieval_metrics(rank(images, texts, relevance), Registry().default_metrics())
    scores = cosines_of(images, texts)
    for direction, own, known in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        theirs = trec_eval(own, known, MEASURES, against=True)
        for measure, ours in NAMES.items():
            expected = np.mean([one[measure] for one in theirs])
            assert metrics[f"{direction}_{ours}"] == pytest.approx(expected, abs=1e-9), (direction, ours)
        ranks = [round(1 / one["recip_rank"]) for one in theirs]
        assert metrics[f"{direction}_MeanR"] == pytest.approx(np.mean(ranks))
        assert metrics[f"{direction}_MedR"] == statistics.median_low(ranks)


@pytest.mark.parametrize("name", [name for name in CASES if "tied" in name or "the same" in name])
def test_the_optimistic_values_are_those_of_trec_eval_with_ties_for_the_model(name):
    counts, palette, shared = CASES[name]
    relevance, right, images, texts = case(counts, palette, shared=shared)
    metrics = retrieval_metrics(rank(images, texts, relevance))
    scores, differ = cosines_of(images, texts), 0
    for direction, own, known in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        theirs = trec_eval(own, known, MEASURES, against=False)
        for measure in ("success_1", "success_5", "success_10"):
            key = f"{direction}_{NAMES[measure]}"
            differ += f"{key}_optimistic" in metrics
            assert metrics.get(f"{key}_optimistic", metrics[key]) == np.mean([one[measure] for one in theirs])
    assert differ


# A plain sort -------------------------------------------------------------------------------------


def sorted_out(images, texts, right):
    """The seed project's thirteen numbers by sorting every row of the whole matrix, the wrong ones of equal cosines (float32) first."""
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in map(np.float64, (images, texts))]
    cosines, found = np.float64(np.float32(units[0] @ units[1].T)), {}
    for direction, scores, known in (("i2t", cosines, right), ("t2i", cosines.T, right.T)):
        order = np.argsort(1e-10 * known - scores, axis=1)
        ranks = np.take_along_axis(known, order, axis=1).argmax(axis=1) + 1
        found |= {f"{direction}_R@{k}": np.mean(ranks <= k) for k in (1, 5, 10)}
        found |= {f"{direction}_MedR": statistics.median_low(ranks.tolist()), f"{direction}_MeanR": ranks.mean()}
    best = np.where(right, cosines, -2).max(axis=1).mean()
    return found | {"avg_best_cosine": best, "n_images": len(images), "n_texts": len(texts)}


def assert_the_same_numbers(images, texts, relevance, right):
    metrics = retrieval_metrics(rank(images, texts, relevance))
    expected = sorted_out(images, texts, right)
    assert tuple(expected) == SEED_KEYS
    assert {key: metrics[key] for key in SEED_KEYS} == pytest.approx(expected, rel=1e-6)
    return metrics


@pytest.fixture(scope="module")
def thousand():
    """1,000 images with five captions each: right answers by pairs, and embeddings of which many find each other."""
    rng = np.random.default_rng(0)
    captions = CaptionMap.from_lists([[f"{image} {number}" for number in range(5)] for image in range(1000)])
    images = rng.standard_normal((1000, 64)).astype(np.float32)
    texts = np.repeat(images, 5, axis=0) + 2.5 * rng.standard_normal((5000, 64)).astype(np.float32)
    return images, texts, Relevance.of(captions, "pair"), np.repeat(np.eye(1000, dtype=bool), 5, axis=1)


def test_the_thirteen_numbers_of_a_thousand_images_are_those_of_a_plain_sort(thousand):
    metrics = assert_the_same_numbers(*thousand)
    assert 0.1 < metrics["t2i_R@1"] < metrics["i2t_R@10"] < 1


def test_a_perfect_model_finds_everything(thousand):
    images, _, relevance, right = thousand
    metrics = assert_the_same_numbers(images, np.repeat(images, 5, axis=0) * 3, relevance, right)
    assert metrics["rsum"] == 600
    assert metrics["i2t_MeanR"] == metrics["t2i_MeanR"] == 1


def test_a_collapsed_model_finds_nothing(thousand):
    images, texts, relevance, _ = thousand
    metrics = retrieval_metrics(rank(np.ones_like(images), np.ones_like(texts), relevance))
    assert metrics["rsum"] == 0
    assert (metrics["i2t_MedR"], metrics["t2i_MedR"]) == (4996, 1000)


def test_a_model_that_collapsed_but_for_noise_is_at_chance(thousand):
    images, texts, relevance, _ = thousand
    noise = np.random.default_rng(1)
    almost = [1 + 0.1 * noise.standard_normal(rows.shape).astype(np.float32) for rows in (images, texts)]
    metrics = retrieval_metrics(rank(*almost, relevance))
    assert metrics["avg_best_cosine"] > 0.98
    # Of 5,000 texts five are right for an image, of 1,000 images one for a text: 0.1, 0.5 and 1 % both ways.
    assert metrics["rsum"] == pytest.approx(3.2, abs=1.5)
    assert metrics["t2i_MeanR"] == pytest.approx(500.5, rel=0.05)


@pytest.mark.parametrize("protocol", ["pair", "text"])
def test_the_thirteen_numbers_of_flickr8ks_test_split_are_those_of_a_plain_sort(flickr8k, protocol):
    """A caption's embedding is the sum of random vectors of its words; an image's is that of its captions and of noise."""
    rows = pq.read_table(sorted((flickr8k / "data").glob("test-*.parquet"))).to_pylist()
    captions = [[row[f"caption_{number}"] for number in range(5)] for row in rows]
    files = [row["image"]["bytes"] for row in rows]
    assert (len(rows), len(set(files))) == (1000, 1000)
    words = [[sorted(" ".join(text.lower().split()).split()) for text in own] for own in captions]
    rng = np.random.default_rng(0)
    vectors = {
        word: rng.standard_normal(96) for word in sorted({word for own in words for text in own for word in text})
    }
    texts = np.float32([np.sum([vectors[word] for word in text], axis=0) for own in words for text in own])
    images = texts.reshape(1000, 5, 96).mean(axis=1) + 2 * rng.standard_normal((1000, 96)).astype(np.float32)
    said = [[" ".join(text.casefold().split()) for text in own] for own in captions]
    if protocol == "text":
        right = np.array([[text in own for every in said for text in every] for own in said])
    else:
        right = np.repeat(np.eye(1000, dtype=bool), 5, axis=1)
    relevance = Relevance.of(CaptionMap.from_lists(captions), protocol, files)
    assert (right.sum() > 5000) == (protocol == "text")  # some captions stand at several images
    metrics = assert_the_same_numbers(images, texts, relevance, right)
    assert 0.1 < metrics["t2i_R@1"] < metrics["i2t_R@10"] < 1


# scipy --------------------------------------------------------------------------------------------


def two_models(seed, *, n=40, shared=False):
    """The hits of two models on one split of uneven captions, and what each image adds to each recall, written out."""
    rng = np.random.default_rng(seed)
    captions = [
        [f"word {rng.integers(0, 25 if shared else 10**6)}" for _ in range(rng.integers(1, 6))] for _ in range(n)
    ]
    relevance = Relevance.of(CaptionMap.from_lists(captions), "text" if shared else "pair")
    texts = rng.standard_normal((relevance.captions.n_texts, 24)).astype(np.float32)[relevance.texts.first]
    texts = texts[relevance.texts.of_row]
    owner = np.repeat(np.arange(n), [len(own) for own in captions])
    images = np.stack([texts[owner == image].mean(axis=0) for image in range(n)])
    hits, written = [], []
    for noise in (0.9, 0.7):
        found = rank(images + noise * rng.standard_normal(images.shape).astype(np.float32), texts, relevance)
        hits.append(Hits.of(found))
        written.append(
            {f"i2t_R@{k}": (found.i2t <= k).astype(float) for k in (1, 5, 10)}
            | {f"t2i_R@{k}": np.bincount(owner, found.t2i <= k) for k in (1, 5, 10)}
        )
    return hits, written, np.bincount(owner).astype(float)


def written_metrics(parts, counts):
    """float64 [..., images] of each metric from sums over images: the recalls, their means, and rsum."""
    recalls = {key: own / (len(counts) if key.startswith("i2t") else counts.sum()) for key, own in parts.items()}
    means = {f"mR@{k}": (recalls[f"i2t_R@{k}"] + recalls[f"t2i_R@{k}"]) / 2 for k in (1, 5, 10)}
    return recalls | means | {"rsum": 100 * sum(recalls.values())}


@pytest.mark.parametrize("shared", [False, True], ids=["pairs", "shared captions"])
@pytest.mark.parametrize("seed", range(2))
def test_the_p_values_of_a_comparison_are_those_of_scipys_exact_test(seed, shared):
    hits, written, counts = two_models(seed, n=13, shared=shared)
    before, now = (written_metrics(parts, counts) for parts in written)
    found = compare(*hits, resamples=10)
    assert list(found) == list(by_image(hits[0]))
    for key, change in found.items():
        exact = stats.permutation_test(
            (now[key] - before[key],), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
        )
        assert change.difference == pytest.approx(exact.statistic), key
        # 10,000 random exchanges are within three standard errors of all of them.
        assert change.p == pytest.approx(exact.pvalue, abs=0.016), key


def test_the_p_value_of_clear_differences_is_that_of_the_binomial():
    """Every moved image moved the same way by the same amount: 2 / 2^n, and with some against it the sign test's."""
    for wins, losses in ((8, 0), (9, 2), (5, 5)):
        gains = np.concatenate([np.ones(wins), -np.ones(losses), np.zeros(7)])[:, None]
        theirs = stats.binomtest(wins, wins + losses).pvalue
        assert sign_flip(gains, 40_000)[0] == pytest.approx(theirs, abs=0.01)


@pytest.mark.parametrize("seed", range(2))
def test_the_intervals_of_differences_are_those_of_scipys_paired_bootstrap(seed):
    """Recalls of uneven captions are ratios of sums over the images that were drawn."""
    hits, (before, now), counts = two_models(seed, n=150)
    found = differences(*hits, resamples=4000)
    for key in ("i2t_R@1", "t2i_R@1", "t2i_R@5"):
        queries = np.ones(150) if key.startswith("i2t") else counts

        def difference(had, has, drawn, axis=-1):
            return (has.sum(axis) - had.sum(axis)) / drawn.sum(axis)

        theirs = stats.bootstrap(
            (before[key], now[key], queries), difference, paired=True, method="percentile", n_resamples=4000,
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        own = found[key]
        assert (own.low, own.high) == pytest.approx((theirs.low, theirs.high), abs=0.15 * (theirs.high - theirs.low)), (
            key
        )


def test_the_smallest_difference_that_can_be_shown_has_the_power_that_it_promises():
    """A true difference of that size, in standard errors, is found by a two-sided z test in four of five cases."""
    (before, now), _, _ = two_models(0, n=150)
    change, gains = compare(before, now, resamples=10)["rsum"], by_image(now)["rsum"] - by_image(before)["rsum"]
    errors = change.detectable / np.sqrt(np.square(gains).sum())
    limit = stats.norm.ppf(0.975)
    assert stats.norm.sf(limit - errors) + stats.norm.cdf(-limit - errors) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_holms_p_values_reject_what_his_procedure_rejects(seed):
    """Step by step, as he wrote it: the smallest against level / m, the next against level / (m - 1), until one is larger."""
    rng = np.random.default_rng(seed)
    p = np.round(rng.uniform(0, 0.08, rng.integers(1, 9)), 2)  # some are equal
    corrected = np.array(holm(p.tolist()))
    for level in (0.01, 0.05, 0.1, 0.333):
        rejected = set()
        for step, place in enumerate(np.argsort(p, kind="stable").tolist()):
            if p[place] * (len(p) - step) > level:
                break
            rejected.add(place)
        assert set(np.flatnonzero(corrected <= level).tolist()) == rejected
