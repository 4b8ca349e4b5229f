"""How far each precision may be from the checkpoint: one table, and why.

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

DEFAULTS: Mapping[str, Thresholds] = {
    # The same computation in another order: what differs is rounding, 1e-7 measured. Only a gate this
    # tight sees a wrong GELU (3.5e-5), and a wrong fusion shows in the components before it does in
    # the cosine. Recall may move by one query where two answers are tied.
    "fp32": Thresholds(
        min_cosine=1 - 1e-6,
        centred_min_cosine=0.9999,
        embedding_abs=1e-5,
        similarity_abs=1e-5,
        drop_r1=0.001,
        drop_r5=0.001,
        drop_r10=0.001,
        top10_overlap=0.999,
    ),
    # 11 bits of mantissa through a dozen layers: 1 - 1e-6 measured where nothing overflows. A
    # LayerNorm or softmax that leaves fp16's range is orders of magnitude worse.
    "fp16": Thresholds(
        min_cosine=0.9999,
        mean_cosine=0.99999,
        centred_min_cosine=0.999,
        embedding_abs=1e-3,
        similarity_abs=3e-3,
        drop_r1=0.003,
        drop_r5=0.002,
        drop_r10=0.002,
        top10_overlap=0.97,
    ),
    # What an 8-bit weight costs is a choice of the user's, so retrieval itself is the measure: one
    # point of R@1 is what a fine-tuning seed moves. Saturating kernels fall to .95 and below. Single
    # components wander, so that they are not held to anything. What tells 8 bits from 4 is the mean of
    # the centred cosines: noise on all inputs alike moves it, and neither one bad input nor a common
    # part does. On ten small trained models of both families int8 measured 1 - 6e-4 at worst, weights of
    # 4 bits 1 - 4.7e-3 at best.
    "int8": Thresholds(
        min_cosine=0.995,
        mean_cosine=0.998,
        centred_min_cosine=0.95,
        centred_mean_cosine=0.998,
        similarity_abs=5e-2,
        drop_r1=0.01,
        drop_r5=0.005,
        drop_r10=0.005,
        top10_overlap=0.90,
    ),
}

CENTRED_WARNING: Mapping[str, float] = {"int8": 0.98}
"""Passes, but is said: under it single nodes are worth leaving unquantized."""


def thresholds_for(precision: str, overrides: Mapping[str, float | None] | None = None) -> Thresholds:
    """The table's row, with some of its numbers replaced; None stops holding a precision to one.

    Raises:
        UnknownNameError: a precision or a threshold that does not exist.
        UsageError: a value that is out of range, or a threshold that cannot be left out.
    """
    if precision not in DEFAULTS:
        raise UnknownNameError("precision", precision, DEFAULTS)
    replaced: dict[str, Any] = dict(overrides or {})
    fields = {field.name: field for field in dataclasses.fields(Thresholds)}
    for name, value in replaced.items():
        if name not in fields:
            raise UnknownNameError("threshold", name, fields)
        if value is None and fields[name].default is dataclasses.MISSING:
            raise UsageError(f"threshold {name} cannot be left out: give a number")
        if value is not None and not (math.isfinite(value) and 0 <= value <= 1):
            raise UsageError(f"threshold {name} is {value}: give a number from 0 to 1")
    return dataclasses.replace(DEFAULTS[precision], **replaced)
