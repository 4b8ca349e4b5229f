"""Checks that a metric returns the same names with finite numbers, whatever the ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from icclip.plugins.specs import MetricSpec
from icclip.retrieval.metrics import values_by_query
from icclip.testing.record import Recorder, no_problems


def metric_checks(recorder: Recorder, spec: MetricSpec) -> None:
    """Check a metric and record the results."""
    values = [
        (recorder.get(f"computes on {what}", _compute, spec, ranks)) for what, ranks in _hand_made_ranks().items()
    ]
    keys = {tuple(value) for value in values if value is not None}
    recorder.run(
        "the same keys whatever the ranks", lambda: no_problems([f"got {sorted(keys)}"] if len(keys) > 1 else [])
    )


def _hand_made_ranks() -> dict[str, Any]:
    """Rankings of 2 images and 4 captions: all right, all tied, and mixed."""
    import numpy as np

    from icclip.retrieval.captions import CaptionMap
    from icclip.retrieval.ranking import rank
    from icclip.retrieval.relevance import Relevance

    captions = CaptionMap.from_lists([["a red ball", "a ball"], ["a blue car", "a car"]])
    relevance = Relevance.of(captions, "text")
    images = np.eye(2, dtype=np.float32)
    right, tied = images[[0, 0, 1, 1]], np.ones((4, 2), np.float32)
    mixed = np.array([[1, 0], [0.2, 1], [1, 0.1], [0, 1]], np.float32)
    return {
        "a perfect ranking": rank(images, right, relevance),
        "a collapsed model": rank(np.ones((2, 2), np.float32), tied, relevance),
        "a mixed ranking": rank(images, mixed, relevance),
    }


def _compute(spec: MetricSpec, ranks: Any) -> Mapping[str, float]:
    values = spec.compute(ranks)
    if not isinstance(values, Mapping) or not values:
        raise TypeError(f"returned {values!r}: return a mapping of names to numbers")
    for key, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(key, str) or not number:
            raise ValueError(f"{key!r} is {value!r}: expected a name and a finite float")
    for key, own in values_by_query(ranks, [spec]).items():
        if key not in values or not math.isclose(values[key], float(own.mean()), abs_tol=1e-9):
            raise ValueError(f"{key!r}: the mean of by_query is {float(own.mean())!r}: expected what compute returns")
    return values
