"""Inspect the captions of a split and their lengths in a model's tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import is_bundle, read_manifest
from icclip.config import ModelConfig
from icclip.inspecting.images import smallest_median_largest
from icclip.plugins.registry import Registry

AT_ONCE = 4096


def caption_findings(lists: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Count a split's captions.

    Args:
        lists: the captions of each image.
    """
    texts = [text for own in lists for text in own]
    images_of = Counter(text for own in lists for text in set(own))
    shared = {text for text, count in images_of.items() if count > 1}
    return {
        "images": len(lists),
        "captions": len(texts),
        "captions_per_image": smallest_median_largest(np.array([len(own) for own in lists])),
        "distinct_captions": len(images_of),
        "shared_captions": len(shared),
        "captions_at_several_images": sum(text in shared for text in texts),
        "characters": smallest_median_largest(np.array([len(text) for text in texts])),
    }


class TextLengths:
    """Counts the tokens of a text by a model's tokenizer, including special tokens, before any are cut.

    Args:
        registry: knows the backends.
        model: a bundle, a run, a transformers directory or a hub id.

    Raises:
        UsageError: the model cannot be opened.
    """

    def __init__(self, registry: Registry, model: str) -> None:
        self.model = model
        self.limit, self._ids = _of_bundle(Path(model)) if is_bundle(Path(model)) else _of_checkpoint(registry, model)

    def findings(self, texts: Sequence[str]) -> dict[str, Any]:
        """How many of the texts are cut, and how much of them is lost."""
        lengths = np.concatenate(
            [self._lengths(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
        )
        cut = lengths[lengths > self.limit]
        return {
            "tokens": smallest_median_largest(lengths),
            "limit": self.limit,
            "cut": len(cut),
            "cut_share": len(cut) / len(lengths),
            "tokens_lost_of_cut": float(np.mean(cut - self.limit)) if len(cut) else 0.0,
        }

    def _lengths(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([len(ids) for ids in self._ids(list(texts))])


def _of_bundle(bundle: Path) -> tuple[int, Any]:
    from icclip.runtime.tokenization import Tokenization

    inputs = read_manifest(bundle).text
    tokenizer = Tokenization.open(bundle, inputs).tokenizer
    tokenizer.no_truncation()

    def ids(texts: list[str]) -> list[list[int]]:
        lowered = [text.lower() for text in texts] if inputs.lowercase else texts
        return [encoding.ids for encoding in tokenizer.encode_batch(lowered)]

    return inputs.max_length, ids


def _of_checkpoint(registry: Registry, model: str) -> tuple[int, Any]:
    from icclip.models.opening import open_model

    feeder = open_model(registry, ModelConfig(name=model)).feeder
    policy, tokenizer = feeder.text_policy, feeder.processor.tokenizer

    def ids(texts: list[str]) -> list[list[int]]:
        lowered = [text.lower() for text in texts] if policy.lowercase else texts
        found: list[list[int]] = tokenizer(lowered, padding=False, truncation=False, verbose=False)["input_ids"]
        return found

    return policy.max_length, ids
