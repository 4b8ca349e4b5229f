"""`icclip eval`."""

from __future__ import annotations


def evaluate() -> None:
    """Measure retrieval of a checkpoint."""
