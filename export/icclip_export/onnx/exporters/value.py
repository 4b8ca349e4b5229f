"""What an exporter is: one value, declared in one file of this package."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from icclip.errors import UsageError

if TYPE_CHECKING:
    from icclip_export.onnx.towers import TowerExport


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """One way to write a tower in torch as an ONNX graph.

    The graphs of all exporters have the same input and output, dynamic axes, opset, and external data; the nodes
    between them are each exporter's own.
    """

    name: Literal["optimum", "torch"]
    package: str
    """The distribution that it is made of, whose version names it in messages."""
    write: Callable[[TowerExport, Path, int], None]
    """A function (tower, path of the graph, opset) that writes the graph, with weights over 2 GB beside it.

    Raises OSError if the files cannot be written.
    """
    obstacle: Callable[[], UsageError | None]
    """Why it cannot be used with what is installed, cheaply; None if it can be."""

    @property
    def label(self) -> str:
        """Its name with the version of its package."""
        return f"{self.name} ({self.package} {installed(self.package)})"


def installed(distribution: str) -> str | None:
    """The installed version of a distribution, which is not imported; None if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
