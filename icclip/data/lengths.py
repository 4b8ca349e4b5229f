"""Count captions that are longer than a text tower can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable


@dataclass(frozen=True, slots=True)
class CutCaptions:
    """How many captions a tokenizer cuts, and by how much."""

    total: int
    """Number of captions that were checked."""
    count: int
    """Number of captions that are cut."""
    longest: int
    """Number of tokens of the longest caption, including special tokens; 0 if none is cut."""
    limit: int
    """Number of tokens that the text tower reads."""

    @classmethod
    def among(cls, texts: Sequence[str], limit: int, lengths: Callable[[list[str]], Sequence[int]]) -> Self:
        """Count the captions that are cut.

        Args:
            texts: the captions.
            limit: tokens that the text tower reads.
            lengths: returns the number of tokens of each text, including special tokens, before cutting.
        """
        # A token takes at least one byte. Beyond ASCII, normalisation may make a character longer first.
        doubtful = [text for text in texts if len(text) + _ENDS > limit or not text.isascii()]
        cut = [length for length in lengths(doubtful) if length > limit] if doubtful else []
        return cls(len(texts), len(cut), max(cut, default=0), limit)

    @property
    def line(self) -> str:
        """One line for the user; empty if nothing is cut."""
        if not self.count:
            return ""
        verb = "caption is" if self.total == 1 else "captions are"
        return (
            f"{self.count:,} of {self.total:,} {verb} longer than the {self.limit} tokens that the text tower reads; "
            f"the longest has {self.longest}"
        )

    def to_mapping(self) -> dict[str, int]:
        """Plain values for JSON."""
        return {"count": self.count, "longest": self.longest, "limit": self.limit}


_ENDS = 3
"""Number of tokens that mark the ends of a text, plus a space that some tokenizers put before it."""


@runtime_checkable
class CutsCaptions(Protocol):
    """An encoder that can tell which captions it cuts."""

    def cut_captions(self, texts: Sequence[str]) -> CutCaptions:
        """Which of these texts are longer than the text tower can read."""


def cut_captions(encoder: Any, texts: Sequence[str]) -> CutCaptions | None:
    """Count the texts that an encoder cuts; None if it cannot tell, or cuts nothing."""
    found = encoder.cut_captions(texts) if isinstance(encoder, CutsCaptions) else None
    return found if found is not None and found.count else None
