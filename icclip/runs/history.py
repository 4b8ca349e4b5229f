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


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; empty if there is no such file. A truncated last line is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


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
