"""Cutting before tokenizing changes no token, or is not done."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from icclip.bundles.manifest import TextInputs
from icclip.runtime.tokenization import Tokenization
from icclip.runtime.truncation import separable

PIECES = [
    "dog", "Runs", "x1", "12345", "a", "é", "e\u0301", "İ", "ΣΑΣ", "!?", "...", "don't", "-", "👩‍👩‍👧", "一只猫", "<|endoftext|>",
    "</s>", "\u00a0", "\u2003", "\t", "\n", "  ", " ", " ", " ", "supercalifragilistic", "\ufb01", "\u200b", "...a",
]  # fmt: skip


@pytest.fixture
def tokenization(bundle, tiny):
    return Tokenization.open(bundle, tiny.text)


def test_openai_clip_is_cut(clip_tokenizer):
    inputs = TextInputs(padding="longest", max_length=77, lowercase=False, pad_id=49407)
    tokenization = Tokenization.open(clip_tokenizer, inputs)
    draw = random.Random(1)
    texts = ["".join(draw.choices(PIECES, k=2000)) for _ in range(50)]
    assert all(tokenization.shortened(text) != text for text in texts)
    np.testing.assert_array_equal(tokenization(texts), whole(tokenization, texts))


def whole(tokenization, texts):
    """The plain way: every text whole."""
    plain = dataclasses.replace(tokenization)
    plain.__dict__["cuts"] = False
    return plain(texts)


def test_random_texts_have_the_same_tokens(tokenization):
    assert tokenization.cuts
    draw = random.Random(0)
    texts = ["".join(draw.choices(PIECES, k=draw.randint(100, 1500))) for _ in range(200)]
    assert sum(tokenization.shortened(text) != text for text in texts) > 100
    np.testing.assert_array_equal(tokenization(texts), whole(tokenization, texts))


@pytest.mark.parametrize("text", ["! " * 5000 + "dog", "a" + " " * 5000 + "b c", "x" * 9000, "dog " * 3000, " " * 9000])
def test_hard_texts_have_the_same_tokens(tokenization, text):
    np.testing.assert_array_equal(tokenization([text]), whole(tokenization, [text]))


def test_only_a_beginning_of_a_megabyte_is_tokenized(tokenization):
    assert len(tokenization.shortened("a dog runs " * 90_000)) < 2000


def test_lower_casing_and_cutting_go_together(bundle, tiny):
    tokenization = Tokenization.open(bundle, dataclasses.replace(tiny.text, lowercase=True))
    text = "ΣΑΣ İstanbul DOG " * 200
    assert tokenization.shortened(text) != text
    np.testing.assert_array_equal(tokenization([text]), whole(tokenization, [text]))


def test_what_is_cut_at_the_left_is_left_whole(bundle, tiny):
    tokenization = Tokenization.open(bundle, dataclasses.replace(tiny.text, truncation_side="left"))
    assert tokenization.shortened("dog " * 3000) == "dog " * 3000


def made(normalizer=None, splitter=None, **options):
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[], **options))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    return tokenizer


SPACES = pre_tokenizers.WhitespaceSplit()


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (made(splitter=SPACES), True),
        (made(), False),
        (made(splitter=SPACES, dropout=0.1), False),
        (made(splitter=pre_tokenizers.Metaspace(split=False)), False),
        (made(splitter=pre_tokenizers.Metaspace()), True),
        (made(splitter=pre_tokenizers.ByteLevel(use_regex=False, add_prefix_space=False)), False),
        (made(splitter=pre_tokenizers.ByteLevel()), True),
        (made(splitter=pre_tokenizers.Split(" ", "merged_with_previous")), False),
        (made(splitter=pre_tokenizers.Sequence([SPACES, pre_tokenizers.Split("x", "isolated")])), False),
        # As Gemma does it: there is no white space left to split at.
        (made(normalizers.Replace(" ", "\u2581"), SPACES), False),
        (made(normalizers.Replace(tokenizers.Regex("dog.*"), ""), SPACES), False),
        (made(normalizers.Replace(tokenizers.Regex("[!?]"), ""), SPACES), True),
        (made(normalizers.Replace(tokenizers.Regex("[!a]"), ""), SPACES), False),
        (made(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]), SPACES), True),
    ],
)
def test_what_is_provable(tokenizer, expected):
    assert separable(tokenizer) is expected


def test_added_tokens_with_a_space_end_the_proof():
    tokenizer = made(splitter=SPACES)
    tokenizer.add_tokens(["new york"])
    assert not separable(tokenizer)
