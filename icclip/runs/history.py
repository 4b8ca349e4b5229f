"""The log of a run: `metrics.jsonl`, with one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HISTORY = "metrics.jsonl"
SIGNS_OF_COLLAPSE = ("image_variance", "image_uniformity", "text_variance", "text_uniformity", "logit_scale")
"""Values that each evaluation logs in addition to the metrics, to recognise collapsed embeddings."""
GAIN = ("rsum_gain", "rsum_gain_low", "rsum_gain_high")
"""What each evaluation logs beside the metrics: rsum minus that of step 0, and the 95 % interval of the difference."""


LONGEST = 1 << 20
"""Bytes of a line; a longer one is none of ours."""


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl` up to the first one that is damaged; empty if there is no such file."""
    lines: list[dict[str, Any]] = []
    if not path.is_file():
        return lines
    with path.open("rb") as file:
        while (line := _line(file.readline(LONGEST))) is not None:
            lines.append(line)
    return lines


def _line(text: bytes) -> dict[str, Any] | None:
    """A whole line of the log; None for anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def evaluations(path: Path) -> dict[int, dict[str, float]]:
    """Step -> metrics in a `metrics.jsonl`, without what is logged beside them for the guard."""
    return {
        step: {name: value for name, value in metrics.items() if name not in (*SIGNS_OF_COLLAPSE, *GAIN)}
        for step, metrics in evaluations_in(read_history(path)).items()
    }


def gains(path: Path) -> dict[int, dict[str, float]]:
    """Step -> the values of GAIN in a `metrics.jsonl`; a step that was not compared with step 0 is left out."""
    return {
        step: {name: metrics[name] for name in GAIN}
        for step, metrics in evaluations_in(read_history(path)).items()
        if GAIN[0] in metrics
    }


def evaluations_in(history: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Logged lines -> the validation metrics of each step that has some, without the prefix `eval_`."""
    return {
        line["step"]: {name.removeprefix("eval_"): line[name] for name in line if name.startswith("eval_")}
        for line in history
        if "eval_rsum" in line
    }
