"""Rewrite the graphs of a bundle, and keep what computes the same as torch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from icclip.bundles.manifest import Tower
from icclip.console import counted
from icclip.errors import GateError
from icclip_export.onnx.export import check_graph, check_numbers
from icclip_export.onnx.graphs import external_data

if TYPE_CHECKING:
    from icclip.console import Reporter
    from icclip.models.loaded import LoadedModel


def rewrite_towers(loaded: LoadedModel, graphs: Mapping[Tower, Path], reporter: Reporter) -> None:
    """Replace each graph by its rewritten form, if it gives what torch gives.

    A graph without any of the patterns stays as it is, byte by byte. One that differs from torch once it is rewritten
    stays, too: it is correct, and only slower, so the export goes on with a warning.

    Args:
        loaded: the model on the CPU in float32.
        graphs: the float32 graphs of its towers.
        reporter: says what was rewritten.

    Raises:
        OSError: the files cannot be written, for example because the disk is full.
    """
    for tower, graph in graphs.items():
        with tempfile.TemporaryDirectory(dir=graph.parent) as folder:
            _rewrite(tower, graph, Path(folder) / graph.name, loaded, reporter)


def _rewrite(tower: Tower, graph: Path, made: Path, loaded: LoadedModel, reporter: Reporter) -> None:
    from icclip_export.onnx.towers import tower_exports
    from icclip_export.rewriting.pipeline import rewrite

    counts = rewrite(graph, made)
    if not counts:
        return
    try:
        check_graph(made)
        check_numbers(tower, tower_exports(loaded)[tower], made, loaded)
    except GateError as error:
        reporter.warn(f"the {tower} tower stays as it was exported, because its rewritten graph is wrong: {error}")
        return
    _replace(graph, made)
    said = ", ".join(f"{name} ({counted(count, 'place')})" for name, count in counts.items())
    reporter.note(f"rewrote the {tower} graph: {said}")


def _replace(graph: Path, made: Path) -> None:
    for path in external_data(graph):
        path.unlink()
    for path in (*external_data(made), made):
        path.replace(graph.with_name(path.name))
