"""Where a bundle is written: what may be replaced, whether there is space, and where a failed bundle is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

from icclip.bundles.manifest import is_bundle
from icclip.errors import UsageError
from icclip_export.precisions import precision

_MARGIN = 1.5
"""Factor for embedding tables in float32, intermediate files and the files beside the graphs."""


def check_destination(directory: Path, *, overwrite: bool) -> None:
    """Refuse to overwrite anything but a bundle.

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
    """Roughly the disk space that a bundle needs while it is made; float32 graphs are always made first."""
    return int(_MARGIN * parameters * sum(precision(name).bytes_per_weight for name in {*precisions, "fp32"}))


def check_space(directory: Path, needed: int, free: int | None = None) -> None:
    """Raise UsageError if the disk of `directory`, which need not exist, has less than `needed` bytes free."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free if free is None else free
    if free < needed:
        raise UsageError(
            f"{directory} needs about {needed / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB free: "
            "make room, or choose another --output-dir"
        )


def failed_name(directory: Path) -> Path:
    """The path of a bundle that did not pass the gate: `<name>.failed`, beside the intended path."""
    return directory.with_name(f"{directory.name}.failed")
