"""Does an index target find what was written to it, and refuse another encoder?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.errors import UsageError
from icclip.plugins.specs import IndexTargetSpec, IndexWrite
from icclip.testing.record import Recorder, no_problems

if TYPE_CHECKING:
    import numpy as np

_ITEMS, _DIM = 50, 8
_FINGERPRINT = "a" * 64
_CLOSE = 1e-3


def index_target_checks(recorder: Recorder, spec: IndexTargetSpec, address: str | None) -> None:
    """Write 50 items in two batches, and search for them; `address` is a place that may be written over."""
    with tempfile.TemporaryDirectory() as folder:
        place = address or str(Path(folder) / "index")
        if recorder.run("writes every item once", _check_written, spec, place):
            recorder.run("finds what was written", _check_found, spec, place)
            recorder.run("refuses another encoder", _check_refused, spec, place)
            recorder.run("writes anew", _check_written, spec, place)


def _vectors() -> np.ndarray:
    import numpy as np

    made = np.random.default_rng(0).normal(size=(_ITEMS, _DIM)).astype(np.float32)
    unit: np.ndarray = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def _batches() -> Iterator[tuple[Sequence[Mapping[str, Any]], np.ndarray]]:
    vectors = _vectors()
    items = [
        {"path": f"image {i}", "width": i, "height": 9, "captions": ["a dog"], "thumbnail": None} for i in range(_ITEMS)
    ]
    for part in (slice(0, 30), slice(30, _ITEMS)):
        yield items[part], vectors[part]


def _check_written(spec: IndexTargetSpec, place: str) -> None:
    count = spec.write(IndexWrite(address=place, dim=_DIM, fingerprint=_FINGERPRINT, batches=_batches()))
    no_problems([] if count == _ITEMS else [f"write returned {count!r} for {_ITEMS} items"])


def _check_found(spec: IndexTargetSpec, place: str) -> None:
    vectors, problems = _vectors(), []
    for row in (0, 29, _ITEMS - 1):
        found = list(spec.search(place, vectors[row], 3, _FINGERPRINT))
        cosines = [cosine for _, cosine in found]
        if not found or found[0][0] != f"image {row}" or abs(cosines[0] - 1) > _CLOSE:
            problems.append(f"image {row} finds {found[:1]} first, not itself with a cosine of 1")
        elif cosines != sorted(cosines, reverse=True) or len(found) != 3:  # noqa: PLR2004 # as many as were asked for
            problems.append(f"asked for 3, best first, it gives {found}")
    no_problems(problems)


def _check_refused(spec: IndexTargetSpec, place: str) -> None:
    try:
        spec.search(place, _vectors()[0], 1, "b" * 64)
    except UsageError:
        return
    no_problems(["search with another encoder's fingerprint does not raise UsageError"])
