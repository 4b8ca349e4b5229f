"""What a run gained on the data that it was trained for, to be put beside what it forgot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icclip.naming import public_name
from icclip.runs.checkpoints import CHECKPOINT
from icclip.runs.directory import RunDirectory
from icclip.runs.history import GAIN

RSUM = "rsum"


def gain_in_domain(run: RunDirectory, checkpoint: str) -> dict[str, Any] | None:
    """The rsum on the validation split before and after training; None where a run did not measure both.

    Args:
        run: the run, or a blend of one.
        checkpoint: what is measured, which may be one of the run's checkpoints.

    Returns:
        `dataset`, `split`, `before` and `now` (rsum, 0 to 600) and, where they were compared image by image, the
        values of `icclip.runs.history.GAIN`.
    """
    found = _of_blend(run.record["blend"]) if run.status == "blend" else _of_run(run, checkpoint)
    data = run.config.get("data") or {}
    name = data.get("name") if data.get("path") is None else f"{data.get('name')}@{data['path']}"
    return None if found is None else {"dataset": public_name(str(name)), "split": "validation", **found}


def _of_run(run: RunDirectory, checkpoint: str) -> dict[str, float] | None:
    _, found, number = checkpoint.rstrip("/").rpartition(f"{CHECKPOINT}-")
    step = int(number) if found and number.isdigit() else run.result.get("best_step")
    measured = run.evaluations()
    if step is None or 0 not in measured or step not in measured:
        return None
    gain = {name: value for name, value in run.gains().get(step, {}).items() if name in GAIN}
    return {"before": measured[0][RSUM], "now": measured[step][RSUM], **gain}


def _of_blend(blend: Mapping[str, Any]) -> dict[str, float] | None:
    """The mixture without anything of the run is what the run began with."""
    measured = {row["alpha"]: row[RSUM] for row in blend.get("validation", ()) if RSUM in row}
    if 0 not in measured or blend.get("alpha") not in measured:
        return None
    return {"before": measured[0], "now": measured[blend["alpha"]]}
