"""Train a tokenizer on the captions of a dataset, for models trained from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
# OpenAI CLIP's: contractions, runs of letters, single digits, runs of anything else.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def write_tokenizer(directory: Path, captions: Iterable[str], *, vocab_size: int, max_length: int) -> None:
    """Train a tokenizer on `captions` and write it to `directory` as a CLIP tokenizer.

    It is built like OpenAI CLIP's: lower-cased byte-level BPE with `</w>` at the ends of words, so any
    text can be tokenized. End-of-text has the highest id and is also used for padding, so both ways in
    which transformers finds the pooled position (`eos_token_id`, and the largest id) find it. The result
    depends on the captions alone.

    Args:
        directory: an existing directory.
        captions: the texts that the merges are learned from.
        vocab_size: the largest number of entries, including special tokens; there are always at least 514.
        max_length: the largest number of tokens in a text, including special tokens.
    """
    vocab, merges = _learn(captions, vocab_size)
    tokenizer = _pipeline(BPE(vocab, merges, unk_token=EOS, end_of_word_suffix=END_OF_WORD))
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.post_processor = processors.RobertaProcessing(
        (EOS, vocab[EOS]), (BOS, vocab[BOS]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    # Both spellings of the same: transformers 4 reads tokenizer.json, 5 rebuilds from the lists.
    (directory / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "unk_token": EOS,
        "do_lower_case": True,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _learn(captions: Iterable[str], vocab_size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn the vocabulary and merges. Every byte is in the vocabulary, inside and at the end of a word, so nothing is unknown."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet += [letter + END_OF_WORD for letter in alphabet]
    tokenizer = _pipeline(BPE(end_of_word_suffix=END_OF_WORD))
    trainer = BpeTrainer(
        vocab_size=max(vocab_size - 2, len(alphabet)),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    merges = merges[: max(0, vocab_size - 2 - len(alphabet))]
    words = dict.fromkeys([*alphabet, *("".join(merge) for merge in merges), BOS, EOS])
    return {word: number for number, word in enumerate(words)}, merges


def _pipeline(model: BPE) -> Tokenizer:
    """The steps that CLIP applies to a text before BPE."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
