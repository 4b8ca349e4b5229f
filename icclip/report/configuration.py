"""A configuration that has been checked, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from icclip.config import TrainConfig


@dataclass(frozen=True)
class CheckedConfig:
    """The result of `icclip config check`: a file whose configuration is valid."""

    file: Path
    config: TrainConfig

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": True, "config": self.config.to_mapping()}

    def renderables(self) -> Iterable[RenderableType]:
        """One line that names the model and the data."""
        # Text, not str: square brackets in a path are markup in a str.
        return [Text(f"{self.file} is valid: it trains {self.config.model.name} on {self.config.data.label}")]

    def verdict(self) -> None:
        """An invalid configuration has already raised ConfigError."""
