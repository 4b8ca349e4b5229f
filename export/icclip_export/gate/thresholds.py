"""How far an export may differ from the checkpoint: the limits of its precision, some of which the user may replace.

Where the numbers come from: with 1,000 photographs, 5 captions each and a text-to-image R@1 of 80 %,
embeddings at a cosine of 1 - 1e-4 from the right ones cost up to 0.24 points of R@1, 1 - 1e-3 up to
0.38, 1 - 5e-3 up to 1.6 and 1 - 1e-2 up to 3.1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from icclip.bundles.parity_record import Thresholds
from icclip.errors import UnknownNameError, UsageError
from icclip_export.precisions import precision as find_precision


def thresholds_for(precision: str, overrides: Mapping[str, float | None] | None = None) -> Thresholds:
    """Replace some of a precision's own limits; None lifts a limit.

    Raises:
        UnknownNameError: the precision or a threshold does not exist.
        UsageError: a value is out of range, or a threshold cannot be left out.
    """
    own = find_precision(precision).limits
    replaced: dict[str, Any] = dict(overrides or {})
    fields = {field.name: field for field in dataclasses.fields(Thresholds)}
    for name, value in replaced.items():
        if name not in fields:
            raise UnknownNameError("threshold", name, fields)
        if value is None and fields[name].default is dataclasses.MISSING:
            raise UsageError(f"threshold {name} cannot be left out: give a number")
        if value is not None and not (math.isfinite(value) and 0 <= value <= 1):
            raise UsageError(f"threshold {name} is {value}: give a number from 0 to 1")
    return dataclasses.replace(own, **replaced)
