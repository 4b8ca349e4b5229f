"""Where a bundle goes: what may be replaced, whether it fits, and what becomes of one that failed."""

from __future__ import annotations

import shutil
from pathlib import Path

from icclip.bundles.manifest import is_bundle
from icclip.errors import UsageError
from icclip_export.precisions import precision

_MARGIN = 1.5
"""Embedding tables in float32, intermediate files and what lies beside the graphs."""


def check_destination(directory: Path, *, overwrite: bool) -> None:
    """Refuse to write over what is there; only a bundle can be replaced at all.

    Raises:
        UsageError: something is already there and cannot be replaced.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not is_bundle(directory):
        raise UsageError(f"{directory} already exists and is not a bundle: choose another --output-dir")
    if not overwrite:
        raise UsageError(f"{directory} holds a bundle: choose another --output-dir, or give --overwrite")


def needed_bytes(parameters: int, precisions: tuple[str, ...]) -> int:
    """About what a bundle takes on the disk while it is made; float32 graphs are always made first."""
    return int(_MARGIN * parameters * sum(precision(name).bytes_per_weight for name in {*precisions, "fp32"}))


def check_space(directory: Path, needed: int, free: int | None = None) -> None:
    """Raises UsageError where the disk of `directory` (which need not exist) has less than `needed` bytes free."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free if free is None else free
    if free < needed:
        raise UsageError(
            f"{directory} needs about {needed / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB free: "
            "make room, or choose another --output-dir"
        )


def failed_name(directory: Path) -> Path:
    """What a bundle is called that did not pass the gate: `<name>.failed`, beside where it would have been."""
    return directory.with_name(f"{directory.name}.failed")
