from __future__ import annotations

import numpy as np
import pytest

from icclip.retrieval import bootstrap
from icclip.retrieval.bootstrap import Hits, confidence_intervals, differences, draws, query_intervals
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.metrics import retrieval_metrics
from icclip.retrieval.ranking import Answers, RetrievalRanks
from icclip.retrieval.relevance import Relevance


def ranks_of(captions, ahead, protocol="pair", keys=None):
    """Ranks in which a text has as many wrong images before it as `ahead` says, and an image those of its first text."""
    relevance = Relevance.of(captions, protocol, keys)

    def answers(values):
        queries, ones = np.arange(len(values)), np.ones(len(values), np.int64)
        return Answers(
            queries,
            queries.copy(),
            np.arange(len(values) + 1),
            ones,
            values,
            values.copy(),
            ones.astype(np.float32),
            ones.astype(float),
        )

    return RetrievalRanks(relevance, answers(ahead[captions.offsets[:-1]]), answers(ahead))


def random_ranks(n=60, *, alike=False):
    """Captions of one image are answered alike, or each by itself."""
    rng = np.random.default_rng(0)
    captions = CaptionMap.from_lists([["a"] * (4 if alike else 1 + i % 4) for i in range(n)])
    ahead = rng.integers(0, 14, n)[captions.image_of_text] if alike else rng.integers(0, 14, captions.n_texts)
    return ranks_of(captions, ahead)


def test_intervals_equal_metrics_of_resampled_splits():
    ranks, resamples = random_ranks(), 50
    values = {key: [] for key in confidence_intervals(ranks)}
    for weights in np.concatenate(list(draws(60, resamples, 7))):
        chosen = np.repeat(np.arange(60), weights)  # a split that holds each drawn image that many times
        spans = [slice(*ranks.captions.offsets[[i, i + 1]]) for i in chosen]
        ahead = np.concatenate([ranks.t2i_answers.ahead[span] for span in spans])
        captions = CaptionMap.from_lists([ranks.captions.texts[span] for span in spans])
        metrics = retrieval_metrics(ranks_of(captions, ahead))
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
    monkeypatch.setattr(bootstrap, "_DRAWN", 8 * 60 * 7)
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
    assert confidence_intervals(ranks_of(captions, zeros))["rsum"] == [600, 600]


def width(interval):
    return interval[1] - interval[0]


def test_a_caption_that_many_images_share_is_one_query():
    """Half of the ten class names are found, and 400 images named after them are 400 queries but ten texts."""
    captions = CaptionMap.from_lists([[f"class {image % 10}"] for image in range(400)])
    ahead = np.where(np.arange(400) % 10 < 5, 0, 50)
    shared = confidence_intervals(ranks_of(captions, ahead, "text"), resamples=4000)
    apart = confidence_intervals(ranks_of(captions, ahead), resamples=4000)
    assert shared["i2t_R@1"] == apart["i2t_R@1"]
    assert width(apart["t2i_R@1"]) == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 400), rel=0.1)
    # As many independent queries as captions, and what the images add is little beside it.
    assert width(shared["t2i_R@1"]) == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 10), rel=0.1)


def test_shared_captions_are_drawn_beside_their_images_as_written_out():
    captions = CaptionMap.from_lists([["a", "b"], ["a", "c"], ["d"], ["d", "a"]])
    ahead = np.array([0, 3, 0, 7, 20, 20, 0])
    ranks, resamples = ranks_of(captions, ahead, "text"), 60
    images = np.concatenate(list(draws(4, resamples, 7)))
    names = np.concatenate(list(draws(2, resamples, [7, 1])))  # "a" and "d"; "b" and "c" have one image each
    values = []
    for image, name in zip(images, names, strict=True):
        often = {"a": name[0], "d": name[1], "b": 1, "c": 1}
        weights = [image[i] * often[t] for i, t in zip(captions.image_of_text, captions.texts, strict=True)]
        values.append(np.average(ahead < 5, weights=weights) if sum(weights) else np.nan)
    found = confidence_intervals(ranks, resamples=resamples, seed=7)["t2i_R@5"]
    assert found == pytest.approx(np.nanquantile(values, [0.025, 0.975]).tolist())


def test_drawing_shared_captions_in_parts_changes_nothing(monkeypatch):
    captions = CaptionMap.from_lists([[f"class {image % 7}", f"image {image}"] for image in range(60)])
    ranks = ranks_of(captions, np.random.default_rng(0).integers(0, 14, 120), "text")
    whole = confidence_intervals(ranks)
    monkeypatch.setattr(bootstrap, "_DRAWN", 8 * 60 * 7)
    assert confidence_intervals(ranks) == whole


def test_byte_identical_images_are_drawn_as_one():
    captions = CaptionMap.from_lists([[f"text {image}"] for image in range(200)])
    ahead = np.repeat([0, 50], 100)[np.arange(200).reshape(100, 2).T.ravel()]
    alone = confidence_intervals(ranks_of(captions, ahead, "text"), resamples=4000)
    twice = confidence_intervals(ranks_of(captions, ahead, "text", (np.arange(200) % 100).tolist()), resamples=4000)
    assert width(twice["i2t_R@1"]) == pytest.approx(np.sqrt(2) * width(alone["i2t_R@1"]), rel=0.1)


# Two models on one split ---------------------------------------------------------------------------


def shared_ranks(seed):
    """40 images of which every fourth shares a caption with another."""
    rng = np.random.default_rng(seed)
    captions = CaptionMap.from_lists(
        [["own", "a dog"] if i % 4 == 0 else [f"own {i}", f"other {i}"] for i in range(40)]
    )
    return ranks_of(captions, rng.integers(0, 14, captions.n_texts), "text")


@pytest.mark.parametrize("make", [lambda seed: random_ranks(), shared_ranks])
def test_differences_are_those_of_the_resampled_metrics(make):
    before, now = make(1), make(2)
    found = differences(Hits.of(before), Hits.of(now), resamples=200, seed=3)
    had, has = retrieval_metrics(before), retrieval_metrics(now)
    for key, difference in found.items():
        assert difference.value == pytest.approx(has[key] - had[key])
        assert difference.low <= difference.value <= difference.high


def test_an_image_is_drawn_for_both_models_alike():
    """A model that answers one more query of every second image is better, though the separate intervals overlap."""
    captions = CaptionMap.from_lists([["a"] for _ in range(400)])
    ahead = np.random.default_rng(0).integers(0, 14, 400)
    better = np.where(np.arange(400) % 10 == 0, 0, ahead)
    before, now = (ranks_of(captions, own) for own in (ahead, better))
    apart = confidence_intervals(now)["rsum"][0] - confidence_intervals(before)["rsum"][1]
    assert apart < 0
    assert differences(Hits.of(before), Hits.of(now))["rsum"].low > 0


def test_equal_models_differ_by_nothing():
    found = differences(Hits.of(random_ranks()), Hits.of(random_ranks()))
    assert {(one.value, one.low, one.high) for one in found.values()} == {(0.0, 0.0, 0.0)}


def test_other_splits_are_refused():
    with pytest.raises(ValueError, match="not of the same split"):
        differences(Hits.of(random_ranks()), Hits.of(random_ranks(50)))


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_chance_is_called_a_difference_as_rarely_as_the_level_says(share):
    """Simulated pairs of equal models: about one interval in twenty leaves out 0."""
    captions, wrong = CaptionMap.from_lists([["a", "b"] for _ in range(200)]), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        image = rng.random((2, 200)) < share  # the two captions of an image are answered alike
        pair = [Hits.of(ranks_of(captions, np.where(np.repeat(own, 2), 0, 20))) for own in image]
        found = differences(*pair, resamples=200, seed=seed)["rsum"]
        wrong += not found.low <= 0 <= found.high
    assert wrong <= 20


@pytest.mark.parametrize("shared", [False, True])
def test_intervals_of_values_by_query_are_those_of_recall(shared):
    ranks = random_ranks()
    if shared:
        captions = CaptionMap.from_lists([[f"a {i % 7}", f"b {i}"] for i in range(30)])
        ranks = ranks_of(captions, np.random.default_rng(3).integers(0, 14, 60), protocol="text")
    values = {"i2t_first": (ranks.i2t <= 1).astype(float), "t2i_five": (ranks.t2i <= 5).astype(float)}
    found = query_intervals(ranks, values, resamples=200, seed=5)
    recalls = confidence_intervals(ranks, resamples=200, seed=5)
    assert found["i2t_first"] == pytest.approx(recalls["i2t_R@1"])
    assert found["t2i_five"] == pytest.approx(recalls["t2i_R@5"])


@pytest.mark.parametrize("values", [{"R": np.ones(60)}, {"i2t_R": np.ones(3)}])
def test_values_by_query_fit_the_queries(values):
    with pytest.raises(ValueError, match=r"name it i2t_... or t2i_..., with one for each query"):
        query_intervals(random_ranks(), values)
