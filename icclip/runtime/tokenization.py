"""Turn texts into `input_ids`, as transformers' fast tokenizers do, with tokenizer.json alone.

SigLIP's original tokenizer is a sentencepiece model that lower-cases and removes punctuation in
Python; in a bundle those steps are part of tokenizer.json's normalizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers

from icclip.bundles.manifest import TextInputs
from icclip.data.lengths import CutCaptions
from icclip.errors import CheckpointError
from icclip.foreign_files import LARGEST_EXPANSION, MAX_TOKENIZER_BYTES, expansion, read_text, reason
from icclip.runtime.once import once
from icclip.runtime.truncation import cut, separable

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Tokenization:
    """Makes token ids. Safe to use from several threads at once."""

    tokenizer: tokenizers.Tokenizer
    inputs: TextInputs
    path: Path = Path(TOKENIZER)
    """Of its file, for messages."""

    @classmethod
    def open(cls, bundle: Path, inputs: TextInputs) -> Tokenization:
        """Read the bundle's tokenizer.json. Raises CheckpointError."""
        path = bundle / TOKENIZER
        try:
            text = read_text(path, MAX_TOKENIZER_BYTES)
            tokenizer = tokenizers.Tokenizer.from_str(text)
        except OSError as error:
            raise CheckpointError(f"cannot read {path} ({error.strerror}): copy the bundle again") from error
        except Exception as error:  # The library raises bare Exception.
            raise CheckpointError(f"{path} is not a valid tokenizer ({error}): copy the bundle again") from error
        # The file may contain truncation and padding settings of the program that saved it.
        tokenizer.no_padding()
        factor = expansion(None if tokenizer.normalizer is None else json.loads(tokenizer.normalizer.__getstate__()))
        if factor > LARGEST_EXPANSION:
            raise CheckpointError(
                f"{path}: normalizer: its replacements make up to {factor:,.0f} characters of one: export the checkpoint again"
            )
        with _as_checkpoint_error(path, "cannot cut texts"):
            tokenizer.enable_truncation(inputs.max_length, direction=inputs.truncation_side)
        return cls(tokenizer, inputs, path)

    @once
    def cuts(self) -> bool:
        """Whether long texts can be cut before they are tokenized."""
        return self.inputs.truncation_side == "right" and separable(self.tokenizer)

    def shortened(self, text: str) -> str:
        """The text, or, if it is long, a beginning of it that provably has the same token ids."""
        if not self.cuts:
            return text
        return cut(self.tokenizer, text, self.inputs.max_length, lowercase=self.inputs.lowercase)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Turn texts into int64 [b, length]; the length is that of the longest text, or always `max_length`.

        Longer texts are cut so that the end-of-text token stays.
        """
        inputs = self.inputs
        encodings = self._encodings([self.shortened(text) for text in texts])
        rows = [encoding.ids for encoding in encodings]
        longest = inputs.padding == "longest"
        length = max(map(len, rows), default=0) if longest else inputs.max_length
        ids = np.full((len(rows), length), inputs.pad_id, np.int64)
        if any(len(own) > inputs.max_length for own in rows):
            raise CheckpointError(
                f"{self.path} makes {max(map(len, rows)):,} tokens of a text that is cut to {inputs.max_length}: "
                "export the checkpoint again"
            )
        for row, own in zip(ids, rows, strict=True):
            if inputs.padding_side == "right":
                row[: len(own)] = own
            else:
                row[length - len(own) :] = own
        return ids

    def tokens_in(self, texts: Sequence[str]) -> int:
        """How many tokens the text tower reads of these texts, padding left out."""
        return sum(len(encoding.ids) for encoding in self._encodings([self.shortened(text) for text in texts]))

    def cut_captions(self, texts: Sequence[str]) -> CutCaptions:
        """Which texts are longer than the text tower can read."""
        return CutCaptions.among(texts, self.inputs.max_length, self._lengths)

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Token counts before cutting; the tokenizer keeps what it cuts off as further pieces, each with special tokens."""
        return [
            len(encoding.ids) + sum(piece.special_tokens_mask.count(0) for piece in encoding.overflowing)
            for encoding in self._encodings(texts)
        ]

    def _encodings(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        cased = [text.lower() for text in texts] if self.inputs.lowercase else list(texts)
        with _as_checkpoint_error(self.path, "cannot make tokens of a text"):
            encodings: list[tokenizers.Encoding] = self.tokenizer.encode_batch(cased)
        return encodings


@contextmanager
def _as_checkpoint_error(path: Path, what: str) -> Iterator[None]:
    """Whatever a foreign tokenizer leads the library into: it raises bare Exception, and panics as a BaseException."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise CheckpointError(f"{path} {what}: {reason(Exception(str(error)))}: copy the bundle again") from error
