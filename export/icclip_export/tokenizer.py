"""Save a checkpoint's tokenizer as one tokenizer.json that gives the same ids without transformers."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TextInputs
from icclip.errors import CheckpointError
from icclip.models.loaded import LoadedModel
from icclip.models.quiet import quiet_transformers
from icclip.runtime.tokenization import TOKENIZER, Tokenization

PROBES = (
    "",
    "a",
    "A Photo of TWO dogs, running!",
    "  spaces   and\ttabs\nand lines  ",
    "it's 1999: 50% (or more) off -- #tag @name_1",
    "café naïve Übergröße — “quoted” … 漢字 🙂",
    "word " * 200,
)
"""Texts that differ in case, punctuation, white space, digits and scripts, and one that is cut."""


def text_inputs(loaded: LoadedModel) -> TextInputs:
    """The checkpoint's text policy with the token that its tokenizer pads with."""
    tokenizer, policy = loaded.feeder.processor.tokenizer, loaded.feeder.text_policy
    return TextInputs(
        padding=policy.padding,
        max_length=policy.max_length,
        lowercase=policy.lowercase,
        pad_id=tokenizer.pad_token_id,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
    )


def write_tokenizer(loaded: LoadedModel, directory: Path, texts: Sequence[str]) -> None:
    """Write tokenizer.json if the processor's own files lack it, and prove it on texts.

    Args:
        loaded: the checkpoint.
        directory: the directory in which its processor was saved.
        texts: real texts, which are checked in addition to PROBES.

    Raises:
        CheckpointError: the same ids cannot be had without transformers.
    """
    tokenizer = loaded.feeder.processor.tokenizer
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"{loaded.source}: the tokenizer has no pad token: set one in tokenizer_config.json")
    if not tokenizer.is_fast:
        _fast_from_sentencepiece(tokenizer, loaded.source).save(str(directory / TOKENIZER))
    check_tokens(loaded, directory, [*PROBES, *texts])


def check_tokens(loaded: LoadedModel, directory: Path, texts: Sequence[str]) -> None:
    """Raise CheckpointError if tokenizer.json gives other ids than the checkpoint's processor."""
    tokenization = Tokenization.open(directory, text_inputs(loaded))
    for text in texts:
        expected = loaded.feeder.text_inputs([text])["input_ids"].numpy()
        if not np.array_equal(tokenization([text]), expected):
            raise CheckpointError(
                f"{loaded.source}: {type(loaded.feeder.processor.tokenizer).__name__} cannot be converted to {TOKENIZER}: "
                f"the token ids differ on {text[:60]!r}; save the checkpoint with a fast tokenizer"
            )


def _fast_from_sentencepiece(tokenizer: Any, source: str) -> Any:
    """Convert a sentencepiece tokenizer to a `tokenizers.Tokenizer`.

    SigLIP's tokenizer cleans texts in Python before sentencepiece (big_vision's `canonicalize`); here, that becomes
    part of the normaliser.
    """
    from tokenizers import Regex, normalizers
    from transformers.convert_slow_tokenizer import T5Converter

    if not hasattr(tokenizer, "sp_model"):
        raise CheckpointError(
            f"{source}: {type(tokenizer).__name__} has no fast version: save the checkpoint with a fast tokenizer"
        )
    # The converter of this family asks for extra ids, which only T5 has.
    tokenizer._extra_ids = getattr(tokenizer, "_extra_ids", 0)  # noqa: SLF001
    with quiet_transformers():
        fast = T5Converter(tokenizer).converted()
    if hasattr(tokenizer, "canonicalize_text"):
        steps = [normalizers.Lowercase()] if tokenizer.do_lower_case else []
        steps += [
            normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
        fast.normalizer = normalizers.Sequence([*steps, fast.normalizer])
    return fast
