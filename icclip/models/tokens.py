"""Token ids of texts that are known in advance, computed once instead of in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from icclip.plugins.specs import TextPolicy

AT_ONCE = 10_000
"""Number of texts tokenized in one call; the tokenizer's own result takes kilobytes per text."""


class Tokens:
    """Token ids by text.

    Args:
        texts: repeated texts are stored once.
        tokenize: maps texts to their ids, truncated and without padding.
    """

    def __init__(self, texts: Sequence[str], tokenize: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> None:
        self._numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        distinct = list(self._numbers)
        rows = [
            np.array(ids, np.int32)
            for start in range(0, len(distinct), AT_ONCE)
            for ids in tokenize(distinct[start : start + AT_ONCE])
        ]
        # Two arrays instead of one per text, because forked workers copy objects when they count references to them.
        self._ends = np.cumsum([len(ids) for ids in rows], dtype=np.int64)
        self._ids = np.concatenate(rows) if rows else np.empty(0, np.int32)

    def __contains__(self, text: object) -> bool:
        return text in self._numbers

    def __getitem__(self, text: str) -> np.ndarray:
        """int32 [length]. Raises KeyError."""
        number = self._numbers[text]
        return self._ids[self._ends[number - 1] if number else 0 : self._ends[number]]


def padded(rows: Sequence[np.ndarray], tokenizer: Any, policy: TextPolicy) -> dict[str, Tensor]:
    """Pad the ids [length] of each text to the policy's inputs, each int64 [b, length].

    The result is that of `tokenizer.pad`, which takes lists and warns that it is slow.
    """
    width = policy.max_length if policy.padding == "max_length" else max(map(len, rows))
    ids = np.full((len(rows), width), tokenizer.pad_token_id, np.int64)
    mask, types = np.zeros((2, len(rows), width), np.int64)
    for number, row in enumerate(rows):
        where = slice(width - len(row), width) if tokenizer.padding_side == "left" else slice(0, len(row))
        ids[number, where], mask[number, where] = row, 1
    made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: torch.from_numpy(made[name]) for name in policy.inputs}


def without_padding(inputs: dict[str, Tensor], tokenizer: Any, policy: TextPolicy) -> dict[str, Tensor]:
    """The text inputs [b, length] of rows taken from a larger batch, as short as their own longest text allows.

    Only where the text tower pads to the longest text, which then may be another one: the embeddings stay the same.
    One column more than needed may stay, because the token that pads may also be the one that ends a text.
    """
    ids = inputs["input_ids"]
    if policy.padding != "longest" or tokenizer.padding_side != "right" or ids.is_floating_point():
        return inputs
    used = (ids != tokenizer.pad_token_id).any(0).nonzero()
    width = int(used.max()) + 2 if len(used) else 1
    return {**inputs, **{name: inputs[name][:, :width] for name in policy.inputs}}
