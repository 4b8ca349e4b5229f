from __future__ import annotations

import numpy as np
import pytest

from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.relevance import Kinds, Relevance, same_text

CAPTIONS = CaptionMap.from_lists([["a dog", "one dog"], ["A  dog", "a puppy"], ["a cat"], ["a bird", "a tit"]])


def right(relevance):
    """Every pair of rows."""
    images = range(relevance.captions.n_images)
    pairs = {(image, text) for image in images for text in relevance.texts_of(image).tolist()}
    texts = range(relevance.captions.n_texts)
    assert pairs == {(image, text) for text in texts for image in relevance.images_of(text).tolist()}
    return pairs


OWN = {(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (3, 5), (3, 6)}


def test_kinds_are_numbered_as_they_appear():
    kinds = Kinds.of("abac")
    assert kinds.of_row.tolist() == [0, 1, 0, 2]
    assert kinds.first.tolist() == [0, 1, 3]
    assert kinds.sizes.tolist() == [2, 1, 1]
    assert len(kinds) == 3
    assert len(Kinds.all_different(4)) == 4


def test_by_pairs_a_caption_is_right_for_its_own_row_alone():
    relevance = Relevance.of(CAPTIONS, "pair", [b"x", b"x", b"y", b"z"])
    assert right(relevance) == OWN
    assert relevance.is_pairs
    assert (relevance.n_shared_captions, relevance.n_duplicate_images) == (0, 0)


def test_by_text_the_same_caption_is_right_for_every_image_that_has_it():
    relevance = Relevance.of(CAPTIONS, "text")
    # "a dog" and "A  dog" are one; what else its images are called is not shared.
    assert right(relevance) == OWN | {(0, 2), (1, 0)}
    assert not relevance.is_pairs
    assert (relevance.n_shared_captions, relevance.n_duplicate_images) == (2, 0)


def test_by_text_copies_of_an_image_share_their_captions():
    relevance = Relevance.of(CAPTIONS, "text", [b"x", b"y", b"z", b"z"])
    assert right(relevance) == OWN | {(0, 2), (1, 0)} | {(2, 5), (2, 6), (3, 4)}
    assert relevance.n_duplicate_images == 1


def test_without_copies_both_protocols_are_the_same():
    captions = CaptionMap.from_lists([["a dog", "a dog"], ["a cat"]])
    relevance = Relevance.of(captions, "text")
    assert relevance.is_pairs
    assert right(relevance) == {(0, 0), (0, 1), (1, 2)}


def test_there_is_a_key_for_every_image():
    with pytest.raises(ValueError, match="3 keys for 4 images"):
        Relevance.of(CAPTIONS, "text", [b"x"] * 3)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A dog ", "a  DOG", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("stra\u00dfe", "STRASSE", True),
        ("a dog", "a dog.", False),
        ("a dog", "dog", False),
    ],
)
def test_what_is_the_same_caption(one, other, same):
    assert (same_text(one) == same_text(other)) is same


def test_judgements_count_where_they_are_above_nothing_and_the_best_of_two():
    pairs = np.array([[0, 0], [0, 2], [0, 2], [2, 1], [3, 6]])
    relevance = Relevance.judged(CAPTIONS, "file", pairs, np.array([1.0, 2, 3, 0, -1]))
    assert right(relevance) == {(0, 0), (0, 2)}
    assert relevance.grades.tolist() == [1, 3]
    assert relevance.protocol == "file"
    assert not relevance.is_pairs


def test_judgements_of_one_grade_are_binary():
    assert Relevance.judged(CAPTIONS, "file", np.array([[0, 0], [1, 1]]), np.array([2.0, 2])).grades is None


def test_judgements_that_judge_the_own_captions_are_pairs():
    pairs = np.array(sorted(OWN))
    assert Relevance.judged(CAPTIONS, "file", pairs, np.ones(len(pairs))).is_pairs
    swapped = pairs.copy()
    swapped[:2] = [[0, 2], [1, 0]]
    assert not Relevance.judged(CAPTIONS, "file", swapped, np.ones(len(pairs))).is_pairs


def test_nothing_judged_right_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="nothing is judged right"):
        Relevance.judged(CAPTIONS, "file", np.array([[0, 0]]), np.array([0.0]))
