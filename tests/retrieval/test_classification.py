"""Zero-shot classification by hand, against plain loops, and its intervals against drawing the images themselves."""

from __future__ import annotations

import numpy as np
import pytest

from icclip.errors import CheckpointError
from icclip.retrieval.classification import (
    KEYS,
    ClassRanks,
    by_image,
    class_changes,
    class_intervals,
    class_metrics,
    class_results,
    classify,
    prompt_means,
)


def ranked(labels, ranks, n_classes=8, predicted=None):
    labels, ranks = np.array(labels), np.array(ranks)
    other = np.where(ranks == 1, labels, (labels + 1) % n_classes) if predicted is None else np.array(predicted)
    return ClassRanks(n_classes, labels, ranks, ranks, other)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_case(n=300, classes=12, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    texts, labels = rng.normal(size=(classes, dim)), rng.integers(0, classes, n)
    return unit(0.6 * texts[labels] + rng.normal(size=(n, dim))), unit(texts), labels


# Ranks ------------------------------------------------------------------------------------------


def test_places_worked_out_on_paper():
    # Cosines with the classes x, y and -x: of (3, 4) / 5 they are .6, .8, -.6; of (-4, 3) / 5 they are -.8, .6, .8.
    classes = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    images = unit([[3, 4], [3, 4], [-4, 3], [-4, 3]])
    found = classify(images, classes, np.array([0, 1, 1, 0]))
    assert found.ranks.tolist() == found.optimistic.tolist() == [2, 1, 2, 3]
    assert found.predicted.tolist() == [1, 1, 2, 2]
    metrics = class_metrics(found)
    assert metrics == {"top1": 0.25, "top5": 1.0, "mean_per_class": 0.25}


def test_ties_count_against_the_right_class_and_the_other_is_predicted():
    classes = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    found = classify(unit([[2, 1], [2, 1]]), classes, np.array([0, 1]))
    assert (found.ranks.tolist(), found.optimistic.tolist()) == ([2, 2], [1, 1])
    assert found.predicted.tolist() == [1, 0]


def test_a_collapsed_model_recognises_nothing():
    found = classify(np.ones((6, 4)), np.ones((6, 4)), np.arange(6))
    assert (found.ranks == 6).all()
    assert class_metrics(found) == {"top1": 0, "top5": 0, "mean_per_class": 0}
    assert (found.predicted != found.labels).all()


def test_the_blocks_do_not_change_the_result_and_it_is_that_of_a_full_sort():
    images, texts, labels = random_case()
    whole = classify(images, texts, labels)
    for block in (1, 7, 299):
        found = classify(images, texts, labels, block=block)
        assert np.array_equal(found.ranks, whole.ranks)
        assert np.array_equal(found.predicted, whole.predicted)
    order = np.argsort(-(images.astype(np.float64) @ texts.T), axis=1)
    assert np.array_equal(whole.ranks, (order == labels[:, None]).argmax(axis=1) + 1)
    assert np.array_equal(whole.predicted, order[:, 0])


def test_prompts_are_averaged_as_unit_vectors():
    rng = np.random.default_rng(1)
    texts = rng.normal(size=(5 * 3, 8)) * rng.uniform(0.1, 9, (15, 1))
    found = prompt_means(texts, 3)
    for number in range(5):
        own = [row / np.linalg.norm(row) for row in texts[3 * number : 3 * number + 3]]
        mean = sum(own) / 3
        np.testing.assert_allclose(found[number], mean / np.linalg.norm(mean), rtol=1e-12)
    assert prompt_means(np.array([[1.0, 0], [-1, 0]]), 2).tolist() == [[0, 0]]


def test_the_ensemble_is_what_is_classified_with():
    images, texts, labels = random_case(seed=3)
    several = np.repeat(texts, 4, axis=0) + np.random.default_rng(4).normal(size=(48, 16)).astype(np.float32)
    found = classify(images, several, labels, prompts=4)
    assert np.array_equal(found.ranks, classify(images, prompt_means(several, 4), labels).ranks)


@pytest.mark.parametrize("which", ["image", "text"])
def test_embeddings_that_are_no_numbers(which):
    images, texts, labels = random_case(n=20)
    (images if which == "image" else texts)[3] = np.nan
    with pytest.raises(CheckpointError, match=rf"NaN or infinity for 1 of \d+ {which}s, the first is number 3"):
        classify(images, texts, labels)


def test_embeddings_of_two_models():
    images, texts, labels = random_case(n=20)
    with pytest.raises(CheckpointError, match=r"image embeddings have 16 dimensions and text embeddings 8"):
        classify(images, texts[:, :8], labels)


# Metrics ----------------------------------------------------------------------------------------


def test_metrics_of_uneven_classes_worked_out_on_paper():
    # Class 0: three of four; class 1: none of one; class 2 has no images.
    found = ranked([0, 0, 0, 0, 1], [1, 1, 1, 6, 2], n_classes=3)
    assert class_metrics(found) == pytest.approx({"top1": 3 / 5, "top5": 4 / 5, "mean_per_class": (3 / 4 + 0) / 2})
    assert {key: len(values) for key, values in by_image(found).items()} == dict.fromkeys(KEYS, 5)


def test_metrics_are_those_of_an_independent_library():
    from scipy import stats

    images, texts, labels = random_case(seed=5)
    scores = images.astype(np.float64) @ texts.T.astype(np.float64)
    places = np.array([len(row) + 1 - stats.rankdata(row)[label] for row, label in zip(scores, labels, strict=True)])
    metrics = class_metrics(classify(images, texts, labels))
    assert metrics["top1"] == pytest.approx((places == 1).mean())
    assert metrics["top5"] == pytest.approx((places <= 5).mean())
    per_class = [(places[labels == one] == 1).mean() for one in np.unique(labels)]
    assert metrics["mean_per_class"] == pytest.approx(np.mean(per_class))


def test_the_worst_class_comes_first_with_what_it_was_taken_for():
    labels, predicted = [0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 2, 0, 1, 1, 0, 1, 1, 2]
    ranks = [1 if one == other else 2 for one, other in zip(labels, predicted, strict=True)]
    first, second, third = class_results(ranked(labels, ranks, n_classes=3, predicted=predicted))
    assert (first.number, first.images, first.top1, first.taken_for, first.share) == (2, 4, 0.25, 1, 0.5)
    assert (second.number, second.top1, second.taken_for) == (0, pytest.approx(2 / 3), 2)
    assert (third.number, third.top1, third.taken_for, third.share) == (1, 1, None, 0)


# Intervals --------------------------------------------------------------------------------------


def plain_bootstrap(labels, first, five, resamples, seed):
    """Draws the images themselves, one resample at a time."""
    rng, values = np.random.default_rng(seed), []
    for _ in range(resamples):
        rows = rng.integers(0, len(labels), len(labels))
        own = labels[rows]
        per_class = [first[rows][own == one].mean() for one in np.unique(own)]
        values.append((first[rows].mean(), five[rows].mean(), np.mean(per_class)))
    return np.array(values)


def test_intervals_are_those_of_drawing_the_images_themselves():
    images, texts, labels = random_case(n=200, classes=6, seed=7)
    found = classify(images, texts, labels)
    intervals = class_intervals(found, resamples=4000)
    drawn = plain_bootstrap(labels, found.ranks == 1, found.ranks <= 5, 4000, 1)
    for column, key in enumerate(KEYS):
        expected = np.quantile(drawn[:, column], [0.025, 0.975])
        np.testing.assert_allclose(intervals[key], expected, atol=0.012)
    assert intervals == class_intervals(found, resamples=4000)
    assert intervals != class_intervals(found, resamples=4000, seed=1)


def test_differences_are_paired():
    before = ranked([0, 0, 1, 1], [1, 2, 1, 9], n_classes=10)
    now = ranked([0, 0, 1, 1], [1, 1, 1, 9], n_classes=10)
    changes = class_changes(before, now)
    top1 = changes["top1"]
    assert (top1.before, top1.now, top1.difference, top1.p) == (0.5, 0.75, 0.25, 1)
    # The one image that moved is drawn 0 to 3 times in nearly all resamples of four.
    assert (top1.low, top1.high) == (0, 0.75)
    assert top1.detectable == pytest.approx((1.96 + 0.8416) / 4, abs=1e-4)
    assert changes["mean_per_class"].difference == pytest.approx(0.25)
    assert changes["top5"].difference == changes["top5"].detectable == 0


def test_the_interval_of_a_difference_is_that_of_drawing_images_for_both_models():
    images, texts, labels = random_case(n=200, classes=6, seed=8)
    before = classify(images, texts, labels)
    now = classify(unit(images + 0.25 * texts[labels]), texts, labels)
    changes = class_changes(before, now, resamples=4000)
    rng = np.random.default_rng(2)
    moved = (now.ranks == 1).astype(float) - (before.ranks == 1)
    drawn = [moved[rng.integers(0, 200, 200)].mean() for _ in range(4000)]
    np.testing.assert_allclose(
        [changes["top1"].low, changes["top1"].high], np.quantile(drawn, [0.025, 0.975]), atol=0.006
    )
    assert changes["top1"].difference == pytest.approx(moved.mean())
    assert changes["top1"].significant


def test_equal_models_are_not_called_different_too_often():
    rng, called = np.random.default_rng(0), 0
    labels = np.arange(200) % 5
    for trial in range(200):
        one, other = (ranked(labels, np.where(rng.random(200) < 0.7, 1, 2)) for _ in range(2))
        called += class_changes(one, other, resamples=20, flips=400, seed=trial)["top1"].significant
    assert called <= 20


def test_models_on_other_images_are_not_compared():
    with pytest.raises(ValueError, match="not of the same images"):
        class_changes(ranked([0, 1], [1, 1]), ranked([1, 0], [1, 1]))
