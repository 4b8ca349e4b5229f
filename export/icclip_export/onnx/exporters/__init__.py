"""The exporters that write a tower as a float32 graph; each has a file and an entry in `NAMES`.

The module `icclip_export.onnx.exporters.NAME` holds everything about an exporter as its value `EXPORTER`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from icclip.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from icclip_export.onnx.exporters.value import Exporter

AUTO = "auto"
NAMES = ("optimum", "torch")
"""In the order of preference: torch is used where optimum is not installed or is not made for the installed transformers."""


def choose_exporter(name: str = AUTO) -> Exporter:
    """Find the exporter called `name`; `auto` means the first that works with what is installed.

    Raises:
        UnknownNameError: there is no such exporter.
        UsageError: it cannot be used here; the message says why and what to install.
    """
    if name not in (AUTO, *NAMES):
        raise UnknownNameError("exporter", name, (AUTO, *NAMES))
    wanted = [_exporter(one) for one in NAMES if name in (AUTO, one)]
    obstacle: UsageError | None = None
    for one in wanted:
        obstacle = one.obstacle()
        if obstacle is None:
            return one
    assert obstacle is not None, "at least one exporter is wanted"
    # With `auto` that of torch, which every environment can have.
    raise obstacle


def _exporter(name: str) -> Exporter:
    found: Exporter = importlib.import_module(f"{__name__}.{name}").EXPORTER
    return found
