from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from icclip.config import ModelConfig
from icclip.models.opening import open_model
from icclip.training.feeding.collate import (
    IDS,
    CaptionedImages,
    CaptionedPairs,
    Collator,
    EpochSampler,
    Example,
    split_batch,
)
from icclip.training.feeding.duplicates import Answers, caption_id
from icclip.training.step.losses import not_negatives


@pytest.fixture
def collator(registry, tiny):
    return Collator(open_model(registry, ModelConfig(name=str(tiny["softmax"]))).feeder, seed=1)


def example(epoch, row, image, captions=("a", "b", "c")):
    """An image with captions that no other has."""
    return Example(epoch, row, image, captions, Answers.of_captions(captions, row))


def epochs(collator, data, epochs, **options):
    """The batches of some epochs, as the trainer asks for them."""
    sampler = EpochSampler(len(data), seed=1)
    loader = DataLoader(data, batch_size=4, sampler=sampler, collate_fn=collator, **options)
    batches = []
    for epoch in range(epochs):
        sampler.epoch = epoch
        batches += list(loader)
    return batches


def test_a_batch_is_model_inputs_and_ids(collator, pictures, captions):
    inputs, ids = split_batch(collator([CaptionedImages(pictures, captions)[0, row] for row in (3, 5)]))
    assert inputs["pixel_values"].shape == (2, 3, 32, 32)
    assert len(inputs["input_ids"]) == 2
    assert IDS not in inputs
    assert ids[:, 1].tolist() == [3, 5]
    # Each has another caption, which another image might be shown with.
    assert ids.shape == (2, 3)
    assert len(set(ids[:, [0, 2]].flatten().tolist())) == 4


@pytest.mark.parametrize("tokenized", [True, False])
def test_pairs_come_in_the_order_of_their_captions_lengths(collator, pictures, tokenized):
    texts = ("a red circle above a blue square", "a square", "two red circles below a green square")
    feeder = collator.feeder.with_tokens(texts) if tokenized else collator.feeder
    examples = [example(0, row, pictures[row], (text,)) for row, text in enumerate(texts)]
    plain, sorted_ = (Collator(feeder, seed=1, by_length=by_length)(examples) for by_length in (False, True))
    order = [1, 0, 2]
    assert sorted_[IDS][:, 1].tolist() == order
    for name, value in plain.items():
        assert torch.equal(sorted_[name], value[order]), name


def test_workers_that_outlive_an_epoch_choose_as_none_do(collator, pictures, captions):
    data = CaptionedImages(pictures, captions)
    alone = epochs(collator, data, 3)
    for other, batch in zip(
        epochs(collator, data, 3, num_workers=2, persistent_workers=True, prefetch_factor=4), alone, strict=True
    ):
        assert torch.equal(other["input_ids"], batch["input_ids"])
        assert torch.equal(other[IDS], batch[IDS])


def test_each_epoch_has_its_own_order_and_all_rows(pictures):
    sampler = EpochSampler(16, seed=1)
    first = list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert {epoch for epoch, _ in second} == {1}
    assert [row for _, row in first] != [row for _, row in second]
    assert sorted(row for _, row in second) == list(range(16))


def test_all_captions_of_an_image_have_their_turn(collator, pictures):
    chosen = Counter(collator.choose(example(epoch, 3, pictures[0])) for epoch in range(300))
    assert set(chosen) == {0, 1, 2}
    # Binomial with n = 300 and p = 1/3: five standard deviations are 41.
    assert all(59 < count < 141 for count in chosen.values())


def test_round_robin_takes_the_next_caption_each_epoch(collator, pictures):
    collator = Collator(collator.feeder, seed=1, captions="round-robin")
    turns = [[collator.choose(example(epoch, row, pictures[0])) for epoch in range(4)] for row in (0, 1)]
    assert turns == [[0, 1, 2, 0], [1, 2, 0, 1]]


def test_all_captions_are_shown_once_an_epoch_each_with_its_image(collator, pictures, captions):
    data = CaptionedPairs(pictures, captions)
    assert len(data) == captions.n_texts
    for epoch in range(2):
        sampler = EpochSampler(len(data), seed=1)
        sampler.epoch = epoch
        shown = [data[index] for index in sampler]
        assert {example.epoch for example in shown} == {epoch}
        assert Counter((e.row, e.captions[collator.choose(e)]) for e in shown) == Counter(
            zip(captions.image_of_text.tolist(), captions.texts, strict=True)
        )
        assert all(example.image is pictures[example.row] for example in shown)
        assert all(len(example.captions) == 2 for example in shown)


def test_pairs_of_one_image_are_no_negatives_of_each_other(collator, pictures, captions):
    data = CaptionedPairs(pictures, captions)
    _, ids = split_batch(collator([data[0, 0], data[0, 1], data[0, 2]]))
    ignored = not_negatives(ids, ids, torch.arange(3))
    assert ignored.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


@pytest.mark.parametrize("policy", ["round-robin", "all"])
def test_workers_change_nothing_of_captions_and_augmentation(collator, pictures, captions, policy):
    collator = Collator(collator.feeder, seed=1, captions=policy, augment="light")
    data = (CaptionedPairs if policy == "all" else CaptionedImages)(pictures, captions)
    alone = epochs(collator, data, 2)
    others = epochs(collator, data, 2, num_workers=2, persistent_workers=True)
    for other, batch in zip(others, alone, strict=True):
        assert all(torch.equal(other[name], batch[name]) for name in batch)


def test_an_image_is_augmented_anew_each_epoch_and_by_the_seed(collator, pictures):
    def shown(seed, epoch, row, augment="light"):
        one = Collator(collator.feeder, seed, augment=augment)
        return np.asarray(one.picture(example(epoch, row, pictures[0], ("a",))))

    assert np.array_equal(shown(1, 0, 3), shown(1, 0, 3))
    for other in ((2, 0, 3), (1, 1, 3), (1, 0, 4)):
        assert not np.array_equal(shown(1, 0, 3), shown(*other))
    assert np.array_equal(shown(1, 0, 3, "off"), np.asarray(pictures[0]))


def test_captions_that_differ_in_case_and_space_are_the_same():
    assert caption_id("A  dog runs ") == caption_id("a dog\nruns")
    assert caption_id("a dog runs") != caption_id("a dog ran")
    assert caption_id("a dog runs") == 5504945449245550806
