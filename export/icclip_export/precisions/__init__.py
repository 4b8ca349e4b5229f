"""The precisions that encoders can be exported in; each has a file and an entry in `NAMES` or `COMPUTED`.

The module `icclip_export.precisions.NAME` holds everything about a precision as its value `PRECISION`.
It is imported when the precision is used, so that listing the names costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from icclip.errors import UnknownNameError

if TYPE_CHECKING:
    from icclip.bundles.manifest import Tower
    from icclip_export.precisions.value import Precision

NAMES = ("fp32", "fp16", "int8")
"""Those that have graphs of their own, which onnxruntime runs."""
COMPUTED = ("bf16",)
"""Those that a library computes from the graphs of another precision."""


def precision(name: str) -> Precision:
    """Find the precision called `name`. Raises UnknownNameError."""
    if name not in (*NAMES, *COMPUTED):
        raise UnknownNameError("precision", name, (*NAMES, *COMPUTED))
    found: Precision = importlib.import_module(f"{__name__}.{name}").PRECISION
    return found


def graph_name(tower: Tower, name: str) -> str:
    """The path of a tower's graph inside a bundle. Raises UnknownNameError for an unknown precision."""
    return precision(name).graph(tower)
