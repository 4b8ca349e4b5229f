from __future__ import annotations

import dataclasses
import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.formats import karpathy
from support.images import photo

from icclip.data.columns import dataset_of
from icclip.data.gallery import load_gallery
from icclip.data.loading import dataset_config
from icclip.data.sameness import difference_hash, image_digests, image_hashes, same_content, same_look
from icclip.errors import DataError
from icclip.models.opening import open_model
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.relevance import Relevance
from icclip.training.feeding.collate import CaptionedImages, CaptionedPairs, EpochSampler, as_ids
from icclip.training.feeding.duplicates import Answers, Duplicates, caption_id, kept_apart
from icclip.training.feeding.sources import Sources
from icclip.training.step.targets import not_negatives


def encoded(image, form="PNG", **options):
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def bits(one, other):
    return (difference_hash(one) ^ difference_hash(other)).bit_count()


def test_digests_are_of_the_content_of_bytes_and_files(tmp_path):
    contents = [encoded(photo(20, 20, seed)) for seed in range(3)]
    (tmp_path / "a.png").write_bytes(contents[2])
    split = dataset_of([*contents[:2], str(tmp_path / "a.png")], [["a"]] * 3)
    assert image_digests(split) == [hashlib.sha256(content).digest() for content in contents]


def test_more_images_than_are_in_memory_together(monkeypatch):
    monkeypatch.setattr("icclip.data.sameness.AT_ONCE", 2)
    contents = [encoded(photo(20, 20, seed)) for seed in range(5)]
    split = dataset_of(contents, [["a"]] * 5)
    assert image_digests(split) == [hashlib.sha256(content).digest() for content in contents]
    assert image_hashes(split).tolist() == [difference_hash(photo(20, 20, seed)) for seed in range(5)]


def test_a_file_that_is_missing_names_its_row(tmp_path):
    split = dataset_of([encoded(photo(20, 20)), str(tmp_path / "none.png")], [["a"]] * 2)
    for work in (image_digests, image_hashes):
        with pytest.raises(DataError, match=r"row 1: cannot read .*none.png"):
            work(split)


def test_a_hash_by_hand():
    # Brighter to the left in the first row, to the right in all others.
    levels = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (8, 1))
    levels[0] = levels[0][::-1]
    assert difference_hash(Image.fromarray(levels)) == 0xFF << 56


def test_the_same_picture_in_another_size_and_encoding_is_near_and_another_one_is_far():
    image = photo(400, 300, seed=1)
    assert bits(image, image.resize((200, 150))) <= 3
    assert bits(image, Image.open(io.BytesIO(encoded(image, "JPEG", quality=40)))) <= 3
    assert bits(image, photo(400, 300, seed=2)) > 16


def test_a_large_jpeg_is_hashed_from_a_fraction_of_its_pixels():
    image = photo(100, 75, seed=1).resize((2000, 1500))
    (found,) = image_hashes(dataset_of([encoded(image, "JPEG")], [["a"]]))
    assert (int(found) ^ difference_hash(image)).bit_count() <= 3


def test_groups_by_content():
    assert same_content([b"x", b"y", b"x", b"z", b"y"]).tolist() == [0, 1, 0, 3, 1]


def test_groups_by_look_join_along_chains_but_not_images_without_edges():
    hashes = np.array([0b1, 0b11, 0b111, 0b1111 << 20, 0, 0, 0b1], np.uint64)
    groups = np.array([0, 1, 2, 3, 4, 5, 0])
    assert same_look(groups, hashes, 0).tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert same_look(groups, hashes, 1).tolist() == [0, 0, 0, 3, 4, 5, 0]


CAPTIONS = CaptionMap.from_lists([["a dog", "one dog"], ["A  dog", "a puppy"], ["a cat"], ["a bird", "a tit"]])
DUPLICATES = Duplicates.of(np.array([0, 1, 2, 2]), CAPTIONS)


def test_what_images_share():
    first, second, third, fourth = DUPLICATES.shared_by_images()
    assert len(first) == 1
    assert first == second
    assert third == fourth == {("image", 2)}


def test_what_texts_share_is_their_image_too():
    dog, one_dog, other_dog, puppy, cat, bird, tit = DUPLICATES.shared_by_texts()
    assert one_dog == {("image", 0)}
    assert puppy == {("image", 1)}
    assert dog - one_dog == other_dog - puppy != set()
    assert cat == bird == tit == {("image", 2)}


def test_they_are_counted():
    assert DUPLICATES.counted() == "1 copy of other images and 1 caption of several images"


def conflicts(order, shared, size):
    """Pairs in one batch that share something."""
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return sum(
        not shared[one].isdisjoint(shared[other])
        for batch in batches
        for place, one in enumerate(batch)
        for other in batch[place + 1 :]
    )


def test_rows_that_share_wait_for_the_next_batch():
    shared = [frozenset(keys) for keys in ("a", "a", "", "b", "b", "")]
    assert kept_apart([0, 1, 2, 3, 4, 5], shared, 3) == [0, 2, 3, 1, 4, 5]


def test_a_row_that_waits_keeps_no_other_waiting():
    shared = [frozenset(keys) for keys in ("a", "ab", "b", "")]
    assert kept_apart([0, 1, 2, 3], shared, 2) == [0, 2, 1, 3]


def test_every_row_once_and_none_meets_before_the_last_batch():
    rows = np.random.default_rng(0).permutation(200).tolist()
    shared = [frozenset([row // 2] if row < 100 else []) for row in range(200)]
    order = kept_apart(rows, shared, 20)
    assert sorted(order) == list(range(200))
    assert conflicts(rows[:-20], shared, 20) > 0
    assert conflicts(order[:-20], shared, 20) == 0


def test_too_many_of_a_kind_meet_after_all():
    shared = [frozenset("a")] * 12
    assert sorted(kept_apart(range(12), shared, 4)) == list(range(12))


def test_without_duplicates_the_order_is_that_of_chance():
    plain, apart = EpochSampler(50, seed=3), EpochSampler(50, seed=3, shared=[frozenset()] * 50, step=8)
    assert list(plain) == list(apart)


def test_the_sampler_keeps_apart_what_meets_in_a_step_and_depends_on_seed_and_epoch_alone():
    shared = [frozenset([row % 30]) for row in range(60)]
    one, same = (EpochSampler(60, seed=3, shared=shared, step=10) for _ in range(2))
    first = [row for _, row in one]
    assert first == [row for _, row in same]
    assert conflicts(first, shared, 10) == 0
    one.epoch = 1
    assert [row for _, row in one] != first
    assert sorted(row for _, row in one) == list(range(60))


def test_duplicate_images_have_one_id_and_keep_their_own_captions():
    pictures = [photo(8, 8, seed) for seed in range(4)]
    data = CaptionedImages(pictures, CAPTIONS, DUPLICATES)
    assert [data[0, row].answers.image for row in range(4)] == [0, 1, 2, 2]
    assert data[0, 3].captions == ("a bird", "a tit")
    assert data[0, 3].row == 3
    assert data.shared() == DUPLICATES.shared_by_images()
    pairs = CaptionedPairs(pictures, CAPTIONS, DUPLICATES)
    assert [pairs[0, text].answers.image for text in range(7)] == [0, 0, 1, 1, 2, 2, 2]
    assert pairs.shared() == DUPLICATES.shared_by_texts()
    assert CaptionedImages(pictures, CAPTIONS).shared() is CaptionedPairs(pictures, CAPTIONS).shared() is None


def test_what_is_right_for_an_image_by_hand():
    # "a dog" stands at two images; the last two images are the same one, whose captions meet no other image.
    first, second, third, fourth = map(DUPLICATES.answers, range(4))
    assert first == Answers(0, [0, 1], [0])
    assert second == Answers(1, [0, 2], [0])
    assert third == Answers(2, [3], [])
    assert fourth == Answers(2, [4, 5], [])


def test_without_its_split_an_images_own_captions_are_right_for_it():
    known = Answers.of_captions(["A  dog", "a cat"], 7)
    assert known == Answers(7, [caption_id("a dog"), caption_id("a cat")], [caption_id("a dog"), caption_id("a cat")])


def negatives_of(relevance, shown):
    """Bool [images, images]: by the definition, whether the text shown with j is a wrong answer to image i."""
    return [[text not in relevance.texts_of(image) for text in shown] for image in range(len(shown))]


@pytest.mark.parametrize("judged", [0, 20])
@pytest.mark.parametrize("protocol", ["text", "pair"])
@pytest.mark.parametrize("seed", range(20))
def test_what_the_loss_takes_for_negatives_is_what_the_relevance_says(protocol, seed, judged):
    chance = np.random.default_rng(seed)
    lists = [[f"caption {n}" for n in chance.integers(12, size=chance.integers(1, 4))] for _ in range(15)]
    captions = CaptionMap.from_lists(lists)
    relevance = Relevance.of(captions, protocol, chance.integers(12, size=15).tolist())
    relevance = relevance.also(
        np.column_stack([chance.integers(15, size=judged), chance.integers(captions.n_texts, size=judged)])
    )
    duplicates = Duplicates(relevance)
    chosen = [int(chance.integers(len(own))) for own in lists]
    ids = as_ids([duplicates.answers(image) for image in range(15)], chosen)
    shown = [int(first) + one for first, one in zip(captions.offsets, chosen, strict=False)]
    found = ~not_negatives(ids, ids, torch.arange(15)) & ~torch.eye(15, dtype=torch.bool)
    assert found.tolist() == negatives_of(relevance, shown)


@pytest.mark.parametrize("protocol", ["text", "pair"])
def test_what_people_judge_right_is_no_negative_either(protocol, config, registry, quiet, tmp_path):
    (tmp_path / "judged.txt").write_text("00.jpg 0 04.jpg#1 1\n02.jpg 0 00.jpg#0 0")
    asked = dataset_config(registry, str(karpathy(tmp_path / "it")), qrels=tmp_path / "judged.txt", relevance=protocol)
    gallery = load_gallery(registry, asked, "train", quiet)
    feeder = open_model(registry, config.model).feeder
    examples = Sources(dataclasses.replace(config, data=asked), feeder, quiet).training(gallery, seen=0)
    answers = [examples.duplicates.answers(image) for image in range(6)]
    # The second caption of image 4 is right for image 0 too; what is judged wrong is not right.
    assert [list(own.right) for own in answers] == [[answers[4].captions[1]], [], [], [], [answers[4].captions[1]], []]
