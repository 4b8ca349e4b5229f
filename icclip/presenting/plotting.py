"""`icclip plot`: the curves of one or several runs as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import PlotConfig
from icclip.errors import UsageError
from icclip.files import atomic_write_bytes
from icclip.naming import public_name
from icclip.report.curves import curves_picture, curves_svg, panels_of
from icclip.runs.directory import RunDirectory

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What was drawn."""

    output: Path
    curves: Mapping[str, list[str]]
    """Title of each panel -> the runs that are in it."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"output": str(self.output), "curves": dict(self.curves)}

    def renderables(self) -> Iterable[RenderableType]:
        """One line."""
        return [f"{self.output}: {', '.join(self.curves)}"]

    def verdict(self) -> None:
        """A plot always succeeds, because it has no threshold to miss."""


def plot(config: PlotConfig) -> Plot:
    """Draw the curves.

    Raises:
        UsageError: a directory has logged nothing, matplotlib is missing, or the picture cannot be written.
    """
    runs = {}
    for place, path in enumerate(config.runs, 1):
        history = RunDirectory.open(path).history()
        if not history:
            raise UsageError(f"{path} has no metrics.jsonl with logged steps: give a run directory")
        name = public_name(str(path))
        runs[f"{name} ({place})" if name in runs else name] = history
    panels = panels_of(runs)
    if not panels:
        raise UsageError(f"{config.runs[0]} has logged neither a loss nor a recall yet: train for longer")
    suffix = config.output.suffix.lower()
    content = curves_svg(panels).encode() if suffix == ".svg" else curves_picture(panels, suffix)
    atomic_write_bytes(config.output, content)
    return Plot(output=config.output, curves={title: [one.name for one in series] for title, series in panels})
