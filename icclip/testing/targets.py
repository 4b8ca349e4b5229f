"""Checks that an export target recognises its own work, and that the encoders it opens work."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.plugins.specs import Encoder, ExportTargetSpec, OpenRequest
from icclip.testing.record import Recorder, no_problems

if TYPE_CHECKING:
    import numpy as np

_TOLERANCE = 1e-3
"""Tolerance for a row's length, and for the difference between two encodings of the same input."""
_TEXTS = ("a red ball on the table", "two dogs run across the grass")


def target_checks(recorder: Recorder, spec: ExportTargetSpec, exported: Path | None) -> None:
    """Check an export target and record the results; `exported` is something that it wrote."""
    recorder.run("precisions", lambda: no_problems(_precision_problems(spec.precisions)))
    recorder.run("recognises only what it wrote", _check_strangers, spec)
    if spec.about is not None:
        recorder.run("says what it runs on", _check_about, spec.about)
    if exported is None:
        recorder.skip("opens what it wrote", "give an exported model with --path")
        return
    recorder.run("recognises what it wrote", _check_own, spec, exported)
    encoder = recorder.get("opens what it wrote", _opened, spec, exported)
    if encoder is not None:
        recorder.run("encodes", _check_encoder, encoder)


def _precision_problems(precisions: tuple[str, ...]) -> list[str]:
    twice = sorted({name for name in precisions if precisions.count(name) > 1})
    found = [f"{name!r} is listed twice" for name in twice]
    return found if precisions else ["the tuple is empty: name at least one"]


def _check_strangers(spec: ExportTargetSpec) -> None:
    """Paths that the target must not recognise: an empty directory, a file, a checkpoint, a run and a missing path."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "empty").mkdir()
        (root / "file").write_text("text", encoding="utf-8")
        for kind in ("checkpoint", "run"):
            (root / kind).mkdir()
            (root / kind / "config.json").write_text(json.dumps({"model_type": "clip"}), encoding="utf-8")
            (root / kind / "model.safetensors").write_bytes(b"")
        (root / "run" / "icclip.json").write_text(json.dumps({"config": {}}), encoding="utf-8")
        strangers = ("empty", "file", "checkpoint", "run", "not-there")
        no_problems(
            [f"it recognises {kind}, which it did not write" for kind in strangers if spec.recognises(root / kind)]
        )


def _check_about(about: Callable[[], str]) -> None:
    """A line, or one of the errors that say in a line why nothing runs here."""
    try:
        said = about()
    except UsageError:
        return
    no_problems([] if said and len(said.splitlines()) == 1 else [f"about returned {said!r}: give one line"])


def _check_own(spec: ExportTargetSpec, exported: Path) -> None:
    no_problems([] if spec.recognises(exported) else [f"it does not recognise {exported}"])


def _opened(spec: ExportTargetSpec, exported: Path) -> Encoder:
    encoder = spec.open(OpenRequest(path=exported, reporter=Reporter(silent=True)))
    if not isinstance(encoder, Encoder):
        raise TypeError(f"open returned {type(encoder).__name__}: return something with the methods of Encoder")
    return encoder


def _check_encoder(encoder: Encoder) -> None:
    from PIL import Image

    images = [Image.linear_gradient("L").resize((64, 48)).convert("RGB"), Image.new("RGB", (40, 56), "red")]
    ours = {"image": encoder.encode_images(images), "text": encoder.encode_texts(_TEXTS)}
    again = {"image": encoder.encode_images(images, batch_size=1), "text": encoder.encode_texts(_TEXTS, batch_size=1)}
    problems = [problem for kind, rows in ours.items() for problem in _row_problems(kind, rows)]
    if ours["image"].shape[1:] != ours["text"].shape[1:]:
        problems.append(f"images have the shape {ours['image'].shape}, texts {ours['text'].shape}")
    problems += [f"{kind} embeddings change with the batch size" for kind in ours if not _near(ours[kind], again[kind])]
    no_problems(problems)


def _row_problems(kind: str, rows: np.ndarray) -> list[str]:
    import numpy as np

    if rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != len(_TEXTS):  # noqa: PLR2004 - rows and columns
        return [f"{kind} embeddings are {rows.dtype} {rows.shape}: give float32 [n, dim]"]
    lengths = np.linalg.norm(rows, axis=1)
    return (
        []
        if np.allclose(lengths, 1, atol=_TOLERANCE)
        else [f"{kind} embeddings have lengths {lengths}: scale every row to length 1"]
    )


def _near(first: np.ndarray, second: np.ndarray) -> bool:
    import numpy as np

    # int8 has different scales in different batches.
    return first.shape == second.shape and bool(np.allclose(first, second, atol=50 * _TOLERANCE))
