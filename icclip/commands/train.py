"""`icclip train`."""

from __future__ import annotations


def train() -> None:
    """Fine-tune a model on captioned images."""
