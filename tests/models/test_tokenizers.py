from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from icclip.models.tokenizers import write_tokenizer


@pytest.fixture
def tokenizer(tmp_path, texts):
    write_tokenizer(tmp_path, texts, vocab_size=600, max_length=16)
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["a red square", "zürich ☃ 日本 🙂", "it's 12 o'clock"])
def test_any_text_is_spelled_and_read_back(tokenizer, text):
    ids = tokenizer(text).input_ids
    # End-of-text stands for what is unknown, too: one in the middle would cut the text there.
    assert ids.count(tokenizer.eos_token_id) == 1
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.replace(" ", "")


def test_case_does_not_matter(tokenizer):
    assert tokenizer("A RED Square").input_ids == tokenizer("a red square").input_ids


def test_end_of_text_is_the_highest_id_and_pads(tokenizer):
    ids = tokenizer(["a", "a red circle above"], padding=True).input_ids
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == max(tokenizer.get_vocab().values())
    assert ids[0][0] == tokenizer.bos_token_id
    assert ids[0][-1] == tokenizer.eos_token_id


def test_a_long_text_keeps_its_end(tokenizer):
    ids = tokenizer("word " * 50, truncation=True, max_length=16).input_ids
    assert len(ids) == 16
    assert ids[-1] == tokenizer.eos_token_id


def test_frequent_words_are_one_token_within_the_size(tmp_path):
    write_tokenizer(tmp_path, ["circle circle square"] * 3, vocab_size=520, max_length=16)
    vocab = AutoTokenizer.from_pretrained(tmp_path).get_vocab()
    assert len(vocab) <= 520
    assert "circle</w>" in vocab


def test_no_captions_still_give_the_bytes(tmp_path):
    write_tokenizer(tmp_path, [], vocab_size=1000, max_length=16)
    assert len(json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))) == 514
