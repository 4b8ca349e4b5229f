"""What every command prints through: plain values for `--json`, something for people to read, and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType


class Result(Protocol):
    """The outcome of a command; `Reporter.deliver` prints it and then asks for its verdict."""

    def to_mapping(self) -> Mapping[str, Any]:
        """Plain values for JSON."""
        ...

    def renderables(self) -> Iterable[RenderableType]:
        """Tables and text for people; a plain `str` is printed as it is."""
        ...

    def verdict(self) -> None:
        """Raise GateError (exit code 3) if a measurement missed its threshold, UsageError (2) if a check failed."""
        ...
