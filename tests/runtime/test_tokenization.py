from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.bundles import TEXTS

from icclip.bundles.manifest import TextInputs
from icclip.errors import CheckpointError
from icclip.runtime.tokenization import Tokenization

NASTY = [
    *TEXTS, " ", "\t\n  two\u00a0spaces \r\n", "UPPER Case", "ÀÉÎõü Straße İstanbul", "e\u0301 combining a\u0308\u0327",
    "一只猫坐在桌子上", "ねこ", "고양이", "👩‍👩‍👧‍👦 🏳️‍🌈 ❤", "&amp; &lt;b&gt; <p>", "<|endoftext|>", "a <|startoftext|> b", "</s> x </s>",
    "<unk>", "don't we'll 12345 3.14", "!?.,;:'\"()[]{}", "\u200bzero\u200dwidth", "x" * 500, "word " * 300, "\x00\x07",
    "\ufb01 ligature \uff26\uff35\uff2c\uff2c", "\U0001d518\U0001d52b\U0001d526", "a\u2028b", "-", "'s",
]  # fmt: skip


def ids_of(tokenizer, texts, inputs):
    return tokenizer(
        [t.lower() for t in texts] if inputs.lowercase else list(texts),
        padding=inputs.padding, max_length=inputs.max_length, truncation=True, return_tensors="np",
    )["input_ids"]  # fmt: skip


def check(tokenizer, directory, inputs):
    tokenization = Tokenization.open(directory, inputs)
    np.testing.assert_array_equal(tokenization(NASTY), ids_of(tokenizer, NASTY, inputs))
    for text in NASTY:
        np.testing.assert_array_equal(tokenization([text]), ids_of(tokenizer, [text], inputs), err_msg=repr(text))


def test_the_ids_of_transformers(tiny, bundle):
    check(tiny.tokenizer, bundle, tiny.text)


@pytest.mark.parametrize(
    "change", [{"lowercase": True}, {"max_length": 5}, {"padding": "max_length"}, {"padding": "longest"}]
)
def test_the_ids_of_transformers_under_other_policies(tiny, bundle, change):
    check(tiny.tokenizer, bundle, dataclasses.replace(tiny.text, **change))


@pytest.mark.parametrize("side", ["left", "right"])
def test_either_side_may_be_padded_and_cut(tiny, bundle, side, monkeypatch):
    monkeypatch.setattr(tiny.tokenizer, "padding_side", side)
    monkeypatch.setattr(tiny.tokenizer, "truncation_side", side)
    check(tiny.tokenizer, bundle, dataclasses.replace(tiny.text, padding_side=side, truncation_side=side))


def test_the_ids_of_openai_clip(clip_tokenizer):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(clip_tokenizer)
    inputs = TextInputs(padding="longest", max_length=77, lowercase=False, pad_id=tokenizer.pad_token_id)
    check(tokenizer, clip_tokenizer, inputs)


def test_what_is_cut_keeps_its_end_token(tiny, bundle):
    ids = Tokenization.open(bundle, tiny.text)(["long " * 200])
    assert ids.shape == (1, tiny.text.max_length)
    assert ids[0, -1] == tiny.tokenizer.eos_token_id
    assert ids.dtype == np.int64


def test_no_texts_give_no_rows(tiny, bundle):
    assert len(Tokenization.open(bundle, tiny.text)([])) == 0


def test_a_missing_or_broken_tokenizer_is_named(tiny, tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*tokenizer.json .*copy the bundle again"):
        Tokenization.open(tmp_path, tiny.text)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer.json is not a valid tokenizer"):
        Tokenization.open(tmp_path, tiny.text)


@pytest.mark.parametrize("max_length", [5, 9, 24, 77])
def test_what_is_cut_and_by_how_much_is_what_transformers_would_not_cut(tiny, bundle, max_length):
    inputs = dataclasses.replace(tiny.text, max_length=max_length)
    texts = [text.lower() for text in NASTY] if inputs.lowercase else NASTY
    lengths = [len(ids) for ids in tiny.tokenizer(texts, verbose=False)["input_ids"]]
    found = Tokenization.open(bundle, inputs).cut_captions(NASTY)
    assert found.count == sum(length > max_length for length in lengths)
    assert found.longest == max(lengths)
    assert (found.total, found.limit) == (len(NASTY), max_length)
