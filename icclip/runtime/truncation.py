"""Cut long texts before they are tokenized, if the tokens are provably the same.

If a tokenizer splits texts at white space and treats each piece by itself, the tokens of a beginning of a text are
the beginning of its tokens, provided that the text is cut between a letter or digit and a space. The tokens that
the model reads are then the same, whatever follows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

_CHARACTERS_PER_TOKEN = 8
_BOUNDARY = re.compile(r"(?<=[A-Za-z0-9]) ")

_LOCAL_NORMALIZERS = frozenset({
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Precompiled", "Prepend", "Strip", "StripAccents",
})  # fmt: skip
"""None looks further than a character and the marks that belong to it; Strip at the very ends alone."""
_SPLITTERS = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
_LOCAL_PRE_TOKENIZERS = frozenset({"Digits", "Punctuation"})
_MODELS = frozenset({"BPE", "Unigram", "WordLevel", "WordPiece"})
_WHITE_SPACE = frozenset({r"\s+", r"[\s]+", r"\s{2,}", r" {2,}", r" +", r"[ ]{2,}"})
_PUNCTUATION = re.compile(r"\[(?:\\[^\w\s]|\\?_|[^\w\s^\\\[\]-])+\]")
"""A class of single characters that are neither letters nor digits nor white space."""
_CLIP_SPLIT = re.compile(
    r"(?:<\|startoftext\|>\|<\|endoftext\|>\|)?'s\|'t\|'re\|'ve\|'m\|'ll\|'d\|\[\\p\{L\}\]\+\|\[\\p\{N\}\]\|\[\^\\s\\p\{L\}\\p\{N\}\]\+"
)
"""The pattern of OpenAI CLIP's tokenizer; no piece of it holds white space."""


def separable(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the tokens of a text that is cut before a space begin the tokens of the whole text."""
    model, normalizer, splitter = tokenizer.model, tokenizer.normalizer, tokenizer.pre_tokenizer
    if type(model).__name__ not in _MODELS or getattr(model, "dropout", None) or splitter is None:
        return False
    if any(" " in token.content for token in tokenizer.get_added_tokens_decoder().values()):
        return False
    return _normalizer_is_local(_state(normalizer)) and _splits(_state(splitter))


def cut(tokenizer: tokenizers.Tokenizer, text: str, length: int, *, lowercase: bool) -> str:
    """Cut `text` to a beginning with the same first `length` tokens, or return it unchanged if none is found.

    Args:
        tokenizer: a `separable` tokenizer that truncates to `length` at the right.
        text: the text.
        length: the number of tokens that the model reads.
        lowercase: whether the text is lower-cased before it is tokenized.
    """
    end = _CHARACTERS_PER_TOKEN * length
    while end < len(text):
        boundary = _last_boundary(text, end)
        if boundary is not None:
            beginning = text[:boundary]
            tokens = tokenizer.encode(beginning.lower() if lowercase else beginning, add_special_tokens=False)
            if len(tokens.ids) >= length:
                return beginning
        end *= 2
    return text


def _last_boundary(text: str, end: int) -> int | None:
    boundaries = [match.start() for match in _BOUNDARY.finditer(text, end // 2, end)]
    return boundaries[-1] if boundaries else None


def _state(component: Any) -> Mapping[str, Any] | None:
    """A part of a tokenizer as tokenizer.json describes it."""
    if component is None:
        return None
    state: Mapping[str, Any] = json.loads(component.__getstate__())
    return state


def _normalizer_is_local(state: Mapping[str, Any] | None) -> bool:
    if state is None or state["type"] in _LOCAL_NORMALIZERS:
        return True
    if state["type"] == "Sequence":
        return all(map(_normalizer_is_local, state["normalizers"]))
    return bool(state["type"] == "Replace" and _replaces_locally(state["pattern"], state["content"]))


def _replaces_locally(pattern: Mapping[str, str], content: str) -> bool:
    """White space by a space, or punctuation by nothing or a space: letters, digits and single spaces stay."""
    regex = pattern.get("Regex")
    if content not in ("", " "):
        return False
    if regex is None:
        text = pattern.get("String", "")
        return bool(text) and not any(character.isalnum() or character == " " for character in text)
    return (regex in _WHITE_SPACE and content == " ") or _PUNCTUATION.fullmatch(regex) is not None


def _splits(state: Mapping[str, Any] | None) -> bool:
    """Whether pieces end at white space, and every other step keeps to its piece."""
    if state is None:
        return False
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    return any(map(_is_splitter, steps)) and all(_is_splitter(step) or _keeps_to_its_piece(step) for step in steps)


def _is_splitter(state: Mapping[str, Any]) -> bool:
    kind = state["type"]
    if kind == "ByteLevel":
        return bool(state.get("use_regex", True))
    if kind == "Metaspace":
        return bool(state.get("split", True))
    if kind == "Split":
        pattern = state["pattern"].get("Regex", "")
        return bool(_CLIP_SPLIT.fullmatch(pattern) and state["behavior"] == "Removed" and state["invert"])
    return kind in _SPLITTERS


def _keeps_to_its_piece(state: Mapping[str, Any]) -> bool:
    return state["type"] in _LOCAL_PRE_TOKENIZERS or (
        state["type"] == "ByteLevel" and not state.get("use_regex", True) and not state.get("add_prefix_space", True)
    )
