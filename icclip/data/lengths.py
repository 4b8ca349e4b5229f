"""Captions that are longer than what a text tower reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable


@dataclass(frozen=True, slots=True)
class CutCaptions:
    """How many captions a tokenizer cuts, and by how much."""

    total: int
    """Captions that were looked at."""
    count: int
    """Those that are cut."""
    longest: int
    """Tokens of the longest caption, with those that mark its ends; 0 where none is cut."""
    limit: int
    """Tokens that the text tower reads."""

    @classmethod
    def among(cls, texts: Sequence[str], limit: int, lengths: Callable[[list[str]], Sequence[int]]) -> Self:
        """Look for them.

        Args:
            texts: the captions.
            limit: tokens that the text tower reads.
            lengths: texts -> how many tokens each has, with those that mark its ends and without being cut.
        """
        # A token takes at least one byte. Beyond ASCII, normalisation may make a character longer first.
        doubtful = [text for text in texts if len(text) + _ENDS > limit or not text.isascii()]
        cut = [length for length in lengths(doubtful) if length > limit] if doubtful else []
        return cls(len(texts), len(cut), max(cut, default=0), limit)

    @property
    def line(self) -> str:
        """What to tell the user; empty where nothing is cut."""
        if not self.count:
            return ""
        verb = "caption is" if self.total == 1 else "captions are"
        return (
            f"{self.count:,} of {self.total:,} {verb} longer than the {self.limit} tokens that the text tower reads; "
            f"the longest has {self.longest}"
        )

    def to_mapping(self) -> dict[str, int]:
        """For JSON."""
        return {"count": self.count, "longest": self.longest, "limit": self.limit}


_ENDS = 3
"""Tokens that mark the ends of a text, and a space that some tokenizers put before it."""


@runtime_checkable
class CutsCaptions(Protocol):
    """An encoder that can say which captions it cuts."""

    def cut_captions(self, texts: Sequence[str]) -> CutCaptions:
        """Which of these are longer than what the text tower reads."""


def cut_captions(encoder: Any, texts: Sequence[str]) -> CutCaptions | None:
    """What an encoder cuts of these texts; None where it cannot say, or cuts nothing."""
    found = encoder.cut_captions(texts) if isinstance(encoder, CutsCaptions) else None
    return found if found is not None and found.count else None
