"""Trace some steps: which operations ran when, on the processor and on the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback
from typing_extensions import override

from icclip.console import Reporter

TRACE = "trace.json"
"""The file in the run directory, which https://ui.perfetto.dev opens."""
WARMUP = 1
"""Number of steps before the traced ones, because the first step initialises libraries and the profiler itself."""


class Profile(TrainerCallback):
    """Traces steps with torch's profiler, on the first process.

    Args:
        folder: the directory in which `trace.json` is written after the steps.
        steps: number of steps to trace after the first. A run that ends earlier leaves a trace of those it made.
        reporter: shows where the trace is.
    """

    def __init__(self, folder: Path, steps: int, reporter: Reporter) -> None:
        self.path, self.steps, self.reporter = folder / TRACE, steps, reporter
        self._profile: Any = None
        self._made = 0

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            known = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            plan = schedule(wait=0, warmup=WARMUP, active=self.steps, repeat=1)
            self._profile = profile(activities=known, schedule=plan, on_trace_ready=self._write)
            self._profile.start()

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._profile is not None:
            self._made += 1
            self._profile.step()

    @override
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _write(self, finished: Any) -> None:
        finished.export_chrome_trace(str(self.path))
        traced = min(self.steps, self._made - WARMUP)
        self.reporter.note(
            f"wrote {self.path}, a trace of {traced} {'step' if traced == 1 else 'steps'}; https://ui.perfetto.dev opens it"
        )
