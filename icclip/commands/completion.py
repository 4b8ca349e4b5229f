"""Names that the shell completes, including those of third-party plugins.

Nothing heavy is imported. A plugin that fails offers no names, because a shell cannot show errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from icclip.config.encoder import AUTOCASTS
from icclip.errors import IcclipError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import BackendSpec, DatasetSpec, ExportTargetSpec, MetricSpec

Names = Callable[[Registry], Iterable[str]]


def _variants(registry: Registry) -> Iterable[str]:
    names: set[str] = set()
    for target in registry.names(ExportTargetSpec):
        # A target that is not installed offers nothing.
        with contextlib.suppress(IcclipError):
            names.update(registry.export_target(target).precisions)
    return names


KINDS: Mapping[str, Names] = {
    "dataset": lambda registry: registry.names(DatasetSpec),
    "model": Registry.preset_names,
    "backend": lambda registry: registry.names(BackendSpec),
    "metric": lambda registry: registry.names(MetricSpec),
    "target": lambda registry: registry.names(ExportTargetSpec),
    "split": lambda _: ("train", "validation", "test"),
    "precision": lambda registry: {*AUTOCASTS, *_variants(registry)},
    "variant": _variants,
    "plugin": lambda registry: {name for row in registry.listing() for name in (row.name, row.origin)},
    "file": lambda _: (),
}
"""Kind of `Option.complete` -> a function that returns the names."""
ALSO_PATHS = frozenset({"dataset", "model", "file"})


def completer(kind: str) -> Callable[[str], list[str]]:
    """Make the function that Typer calls with the beginning of a word."""

    def complete(incomplete: str) -> list[str]:
        return completions(kind, incomplete)

    return complete


def completions(kind: str, incomplete: str) -> list[str]:
    """The names that begin with a word, and the paths, too, if a path may be given."""
    try:
        names = sorted(set(KINDS[kind](Registry.from_environment())))
    except Exception:  # noqa: BLE001 # whatever a plugin does, the shell goes on
        names = []
    return [
        name for name in (*names, *(_paths(incomplete) if kind in ALSO_PATHS else ())) if name.startswith(incomplete)
    ]


def _paths(incomplete: str) -> list[str]:
    """Files and directories, the latter with a slash; hidden ones only if the word begins with a dot."""
    folder, slash, beginning = incomplete.rpartition("/")
    try:
        found = sorted(Path(folder or ("/" if slash else ".")).iterdir())
    except OSError:
        return []
    shown = [path for path in found if beginning.startswith(".") or not path.name.startswith(".")]
    return [f"{folder}{slash}{path.name}{'/' * path.is_dir()}" for path in shown]
