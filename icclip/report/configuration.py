"""A configuration that has been checked or put together, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config.declare import help_by_path
from icclip.config.toml import toml

if TYPE_CHECKING:
    from rich.console import RenderableType

    from icclip.config import TrainConfig


@dataclass(frozen=True)
class ShownConfig:
    """The result of `icclip config show`: a whole configuration, ready to be saved as a file for `--config`."""

    config: TrainConfig

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.config.to_mapping()

    def renderables(self) -> Iterable[RenderableType]:
        """The configuration as TOML, each value below a comment with its meaning."""
        return [toml(self.to_mapping(), help_by_path(type(self.config))).removesuffix("\n")]

    def verdict(self) -> None:
        """An invalid configuration has already raised ConfigError."""


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
        return [f"{self.file} is valid: it trains {self.config.model.name} on {self.config.data.label}"]

    def verdict(self) -> None:
        """An invalid configuration has already raised ConfigError."""
