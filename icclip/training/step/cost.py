"""Measure what a run costs: its speed, the parts of its steps, its memory and its arithmetic.

Times differ from process to process, while `metrics.jsonl` is the same bit for bit whether or not the run was
interrupted. Therefore costs have a file of their own, `costs.jsonl`.

At any moment, a step's time is charged to one part. On a GPU, the moments are events of its stream, which are only
read when a line is due, so that the time of a part is that in which the GPU worked or waited for it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import TrainerCallback
from typing_extensions import override

from icclip.files import readable_os_errors

COSTS = "costs.jsonl"
PREFIX = "cost/"
"""The prefix of the names under which trackers such as TensorBoard receive costs."""

DATA, TOWERS, LOSS, OPTIMIZER, EXCHANGE = "data", "towers", "loss", "optimizer", "exchange"
PARTS = (DATA, TOWERS, LOSS, OPTIMIZER, EXCHANGE)
"""The parts: waiting for data; both towers, forward and backward, and everything else; the loss with its gradients; the
optimizer; the exchange of embeddings. What DistributedDataParallel sends while the towers run counts as theirs."""

MARKS_AT_MOST = 2000
"""Number of GPU events that are kept before they are read."""

PEAKS: Mapping[str, tuple[float, float]] = {
    "A100": (312, 156), "A10G": (70, 35), "H100 PCIe": (756, 378), "H100": (989, 494), "H200": (989, 494),
    "B200": (2250, 1125), "L40S": (362, 183), "L4": (121, 60), "RTX 4090": (165, 83), "RTX 3090": (71, 36),
}  # fmt: skip
"""For a part of the GPU's name, the teraflops per second of dense products in bfloat16 and TF32 (NVIDIA's data sheets)."""


class Costs(TrainerCallback):
    """Measures the steps of a run.

    Args:
        folder: the directory in which the first process writes `costs.jsonl`.
        device: the device of the model.
        pairs: number of images in an optimizer step of all processes together.
    """

    def __init__(self, folder: Path, device: torch.device, pairs: int) -> None:
        self.path, self.device, self.pairs = folder / COSTS, device, pairs
        self.clock = _Clock(device)
        self.total = _Account()
        self._last = _Account()
        self._flops: float | None = None
        self._first_step = 0

    # Charging

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time of the block to a part; afterwards, the surrounding part continues."""
        before = self.clock.switch(name)
        try:
            yield
        finally:
            self.clock.switch(before)

    def begin(self) -> None:
        """Begin a step, which first waits for its data."""
        self.clock.switch(DATA)

    def has_data(self) -> None:
        """Continue the step with the towers."""
        self.clock.switch(TOWERS)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Measure the time of an evaluation."""
        started = time.perf_counter()
        yield
        for account in (self.total, self._last):
            account.evaluations.append(time.perf_counter() - started)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the operations of the first forward and backward pass."""
        if self._flops is not None:
            yield
            return
        with _Operations() as operations:
            yield
        self._flops = operations.count

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._first_step = state.global_step

    @override
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.switch(OPTIMIZER)

    @override
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.switch(TOWERS)

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.switch(None)
        for account in (self.total, self._last):
            account.steps += 1

    # Telling

    def line(self, step: int, *, writes: bool) -> dict[str, float]:
        """Write what the steps since the last line have cost, and return it under the names for trackers."""
        self._settle()
        values = self._last.told(self.pairs) | self._memory()
        self._last = _Account()
        if writes:
            with readable_os_errors(self.path.name, self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        return {f"{PREFIX}{name}": value for name, value in values.items()}

    def summary(self, *, processes: int, accumulated: int, half: bool) -> dict[str, Any]:
        """The cost of this process's part of the run, for `icclip.json`; empty if it made no step.

        Args:
            processes: number of processes of the run.
            accumulated: number of batches in an optimizer step.
            half: whether the model computed in half precision.
        """
        self._settle()
        if not self.total.steps:
            return {}
        told = self.total.told(self.pairs)
        found = {**about_device(self.device), "processes": processes, "steps_from": self._first_step, **told}
        found |= {name: round(value, 1) for name, value in self._memory().items()}
        if self._flops:
            of_step = self._flops * accumulated * processes
            found["total_flops"] = of_step * self.total.steps
            peak = peak_flops(found["device"], half=half)
            if peak is not None:
                seconds = self.total.seconds / self.total.steps
                found["mfu"] = round(of_step / processes / seconds / peak, 4)
        return found

    def _settle(self) -> None:
        spent = self.clock.spent()
        for account in (self.total, self._last):
            account.charge(spent)

    def _memory(self) -> dict[str, float]:
        """The peaks of this process since it began, in MiB."""
        unit = 1 if sys.platform == "darwin" else 1024
        found = {"peak_host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
        if self.device.type == "cuda":
            found["peak_device_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return found


class _Account:
    def __init__(self) -> None:
        self.steps = 0
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.evaluations: list[float] = []

    @property
    def seconds(self) -> float:
        """Of the steps."""
        return sum(self.parts.values())

    def charge(self, spent: Mapping[str, float]) -> None:
        for name, seconds in spent.items():
            self.parts[name] += seconds

    def told(self, pairs: int) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.steps and self.seconds > 0:
            found["images_per_second"] = round(self.steps * pairs / self.seconds, 2)
            found["seconds_per_step"] = round(self.seconds / self.steps, 6)
            found |= {f"share_{name}": round(value / self.seconds, 4) for name, value in self.parts.items()}
        if self.evaluations:
            found["evaluation_seconds"] = round(sum(self.evaluations) / len(self.evaluations), 3)
        return found


class _Clock:
    """The seconds that are charged to each part."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._part: str | None = None
        self._since: Any = None
        self._marks: list[tuple[str, Any, Any]] = []
        self._spent = dict.fromkeys(PARTS, 0.0)

    def switch(self, part: str | None) -> str | None:
        """Charge to another part from now on, or to none; returns the previous one."""
        now, before = self._now(), self._part
        if before is not None:
            if self._on_gpu:
                self._marks.append((before, self._since, now))
            else:
                self._spent[before] += now - self._since
        self._part, self._since = part, now
        if len(self._marks) > MARKS_AT_MOST:
            self._read()
        return before

    def spent(self) -> dict[str, float]:
        """The seconds of each part since the last call."""
        self._read()
        found, self._spent = self._spent, dict.fromkeys(PARTS, 0.0)
        return found

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _read(self) -> None:
        for part, start, end in self._marks:
            end.synchronize()
            self._spent[part] += start.elapsed_time(end) / 1000
        self._marks.clear()


class _Operations(TorchDispatchMode):
    """Counts floating-point operations by torch's own formulas, a multiply-add as two.

    torch's FlopCounterMode also follows the modules, with hooks that gradient checkpointing confuses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula: Callable[..., Any] | None = flop_registry.get(func._overloadpacket)  # noqa: SLF001  as torch's own does
        if formula is not None:
            self.count += float(formula(*args, **kwargs, out_val=result))
        return result


# The device ---------------------------------------------------------------------------------------


def about_device(device: torch.device) -> dict[str, Any]:
    """The device's name, its driver if it is a GPU, and the threads of this process."""
    found: dict[str, Any] = {"device": _processor(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        found |= {"device": torch.cuda.get_device_name(device), "driver": _driver(), "cuda": torch.version.cuda}
    elif device.type != "cpu":
        found["device"] = f"{found['device']}, {device.type}"
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


def _driver() -> str | None:
    """The version of NVIDIA's driver; None if the system does not tell."""
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text(encoding="utf-8").split() if path.exists() else []
    return next((word for word in words if word[:1].isdigit() and "." in word), None)


def peak_flops(device: str, *, half: bool) -> float | None:
    """The peak of dense operations per second of a GPU with this name; None if it is not known."""
    for name, (fast, slow) in PEAKS.items():
        if name in device:
            return 1e12 * (fast if half else slow)
    return None


def cost_line(cost: Mapping[str, Any]) -> str:
    """`1,234 images/s; of a step: towers 81 %, data 12 %, ...; peak memory 1,024 MiB`: what a summary says to people."""
    shares = {name: cost[f"share_{name}"] for name in PARTS}
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in ordered if share >= 0.005)  # noqa: PLR2004
    memory = cost.get("peak_device_mib", cost["peak_host_mib"])
    mfu = f"; MFU {100 * cost['mfu']:.1f} %" if "mfu" in cost else ""
    return f"{cost['images_per_second']:,.1f} images/s; of a step: {told}; peak memory {memory:,.0f} MiB{mfu}"


def is_cost(logs: Mapping[str, Any]) -> bool:
    """Whether these values are costs, which do not belong to the run's history."""
    return any(name.startswith(PREFIX) for name in logs)
