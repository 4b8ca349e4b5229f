"""Tokenizers of sentencepiece become tokenizer.json, with the same ids or not at all."""

from __future__ import annotations

import dataclasses
import types

import pytest

from icclip.errors import CheckpointError
from icclip.runtime.tokenization import Tokenization
from icclip_export.tokenizer import PROBES, check_tokens, text_inputs, write_tokenizer

TEXTS = [f"a {c} {s} on the {p}" for c in ("red", "blue") for s in ("dog", "square") for p in ("grass", "beach, café")]


@pytest.fixture(scope="session")
def sentencepiece_siglip(models, tmp_path_factory):
    """A SigLIP with the tokenizer of its first release: lower case and punctuation are done in Python."""
    import sentencepiece
    from transformers import SiglipTokenizer

    root = tmp_path_factory.mktemp("spiece")
    (root / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(root / "texts.txt"), model_prefix=str(root / "spiece"), vocab_size=60, pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = SiglipTokenizer(str(root / "spiece.model"))
    loaded = models["siglip"]
    processor = types.SimpleNamespace(tokenizer=tokenizer, image_processor=loaded.feeder.processor.image_processor)
    return _with_processor(loaded, processor)


def _with_processor(loaded, processor):
    return dataclasses.replace(loaded, feeder=dataclasses.replace(loaded.feeder, processor=processor))


def test_sentencepiece_becomes_one_file_with_the_same_ids(sentencepiece_siglip, tmp_path):
    write_tokenizer(sentencepiece_siglip, tmp_path, TEXTS)
    tokenization = Tokenization.open(tmp_path, text_inputs(sentencepiece_siglip))
    for text in (*PROBES, *TEXTS):
        assert tokenization([text]).tolist() == sentencepiece_siglip.feeder.text_inputs([text])["input_ids"].tolist()
    assert (tokenization(["A RED dog!"]) == tokenization(["a red dog"])).all()


def test_a_fast_tokenizer_is_what_the_processor_saved(loaded, tmp_path):
    loaded.feeder.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()
    write_tokenizer(loaded, tmp_path, TEXTS)
    assert (tmp_path / "tokenizer.json").read_bytes() == before


def test_other_ids_are_refused(models, tmp_path):
    from tokenizers import Tokenizer, normalizers

    loaded = models["clip"]
    loaded.feeder.save(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.normalizer = normalizers.NFC()  # no longer lower case
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        CheckpointError, match=r"cannot be converted to tokenizer.json: the token ids differ on 'A Red'"
    ):
        check_tokens(loaded, tmp_path, ["a red", "A Red"])


def test_a_tokenizer_without_any_fast_form_is_refused(models, tmp_path):
    slow = types.SimpleNamespace(is_fast=False, pad_token_id=0)
    processor = types.SimpleNamespace(tokenizer=slow)
    loaded = _with_processor(models["clip"], processor)
    with pytest.raises(CheckpointError, match="has no fast version: save the checkpoint with a fast tokenizer"):
        write_tokenizer(loaded, tmp_path, TEXTS)


def test_a_tokenizer_that_cannot_pad_is_refused(models, tmp_path):
    processor = types.SimpleNamespace(tokenizer=types.SimpleNamespace(is_fast=True, pad_token_id=None))
    with pytest.raises(CheckpointError, match="has no pad token"):
        write_tokenizer(_with_processor(models["clip"], processor), tmp_path, TEXTS)
