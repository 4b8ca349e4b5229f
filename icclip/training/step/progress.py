"""What a run prints and records while it trains. Nothing here changes the training."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from typing_extensions import override

from icclip.console import Advance, Reporter
from icclip.files import atomic_write_text, readable_os_errors
from icclip.runs.checkpoints import STATE
from icclip.runs.history import GAIN, evaluations_in, read_history
from icclip.training.step.cost import PREFIX, is_cost

SPEED = f"{PREFIX}images_per_second"


class Progress(TrainerCallback):
    """Advances the progress bar by optimizer steps, and prints a line for each logged loss and each evaluation."""

    def __init__(self, reporter: Reporter, advance: Advance) -> None:
        self.reporter, self.advance = reporter, advance
        self.last: dict[str, float] = {}

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the bar where a resumed run stopped."""
        self.advance(state.global_step)

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance by one step."""
        self.advance(1)

    @override
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print the loss when its costs are known too, unless the line of an evaluation is about to tell it."""
        self.last.update({name: logs[name] for name in ("loss", "learning_rate", SPEED) if name in logs})
        if is_cost(logs) and "loss" in self.last and not control.should_evaluate:
            self.reporter.note("  ".join(_so_far(state.global_step, state.max_steps, state.epoch or 0, self.last)))

    @override
    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Print a line with the metrics."""
        self.reporter.note(evaluation_line(state.global_step, state.max_steps, state.epoch or 0, self.last, metrics))


def evaluation_line(
    step: int, steps: int, epoch: float, training: Mapping[str, float], metrics: Mapping[str, float]
) -> str:
    """One line for people: `step 94/470  epoch 1  loss 2.31  lr 1.0e-05  rsum 123.4  i2t R@1/5/10 0.12 0.31 0.44  t2i ...`."""
    parts = _so_far(step, steps, epoch, training)
    parts.append(f"rsum {metrics['eval_rsum']:.1f}{_since_step_0(metrics)}")
    for direction in ("i2t", "t2i"):
        recalls = " ".join(f"{metrics[f'eval_{direction}_R@{k}']:.3f}" for k in (1, 5, 10))
        parts.append(f"{direction} R@1/5/10 {recalls}")
    return "  ".join(parts)


def _so_far(step: int, steps: int, epoch: float, training: Mapping[str, float]) -> list[str]:
    parts = [f"step {step}/{steps}", f"epoch {epoch:.3g}"]
    if "loss" in training:
        parts += [f"loss {training['loss']:.4g}", f"lr {training['learning_rate']:.1e}"]
    if SPEED in training:
        parts.append(f"{training[SPEED]:,.0f} images/s")
    return parts


def _since_step_0(metrics: Mapping[str, float]) -> str:
    """` (+3.4, 95 % +1.2 to +5.5)`; nothing at step 0 itself."""
    gain, low, high = (metrics.get(f"eval_{name}") for name in GAIN)
    return "" if gain is None else f" ({gain:+.1f}, 95 % {low:+.1f} to {high:+.1f})"


def restore_history(path: Path, checkpoint: Path) -> None:
    """Write the log again from what a checkpoint has kept of it, if measurements up to that step are missing.

    Args:
        path: a `metrics.jsonl`, whole, damaged or missing.
        checkpoint: the whole checkpoint that the run goes on from.
    """
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if evaluations_in(state["log_history"]).keys() - evaluations_in(read_history(path)).keys():
        kept = [
            {"step": line["step"], **_finite({name: value for name, value in line.items() if name != "step"})}
            for line in state["log_history"]
            if _belongs(line)
        ]
        atomic_write_text(path, "".join(map(_json_line, kept)))


class History(TrainerCallback):
    """Appends what Trainer logs to `metrics.jsonl`, one JSON object per line, on the first process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """When resuming, drop the lines that were logged after the checkpoint."""
        if state.is_world_process_zero:
            kept = [line for line in read_history(self.path) if line["step"] <= state.global_step]
            atomic_write_text(self.path, "".join(map(_json_line, kept)))

    @override
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append a line; it reaches the disk before the checkpoint that it belongs to.

        A value that is not finite (such as a gradient under fp16) becomes null, because JSON has no
        infinity. Trainer's last line is left out: its speed and mean loss describe this process since it
        was started, not the run.
        """
        if state.is_world_process_zero and _belongs(logs):
            with readable_os_errors(self.path.name, self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(_json_line({"step": state.global_step, **_finite(logs)}))
                file.flush()
                os.fsync(file.fileno())


def _belongs(logs: Mapping[str, Any]) -> bool:
    return "train_runtime" not in logs and not is_cost(logs)


def _finite(logs: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in logs.items()}


def _json_line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"
