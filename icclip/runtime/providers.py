"""Choose the hardware that onnxruntime uses: the first of TensorRT, CUDA and the CPU that is present *and works*.

onnxruntime lists providers that it cannot load, and silently falls back to the CPU. Therefore each
candidate runs a tiny graph, and counts only if the session says that it is the one that ran.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from icclip.errors import MissingExtraError, UnknownNameError, UsageError

Provider = Literal["tensorrt", "cuda", "cpu"]

PROVIDERS: Mapping[Provider, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Ours -> onnxruntime's name, in the order they are tried."""

INSTALL: Mapping[Provider, str] = {
    "tensorrt": "pip uninstall onnxruntime; pip install 'icclip[tensorrt]'",
    "cuda": "pip uninstall onnxruntime; pip install 'icclip[onnx-gpu]'",
    "cpu": "pip install 'icclip[onnx]'",
}
MINIMUM_VERSION = (1, 20)

_PROBE = (
    b'\x08\x08\x12\x00:9\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04'
    b"\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""An ONNX graph: y = x + x, float32 [1]."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a provider is not used."""

    reason: str
    installed: bool
    """Whether this onnxruntime was built with the provider, so that it was expected to work."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The provider that runs, and the reason why each one before it does not."""

    provider: Provider
    rejected: Mapping[Provider, Failure]
    clash: str | None = None
    """A line that says what is wrong with the installation."""

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each provider that is not installed."""
        return self._lines(installed=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each provider that is installed but does not work, and for a broken installation."""
        return self._lines(installed=True) + ((self.clash,) if self.clash else ())

    def _lines(self, *, installed: bool) -> tuple[str, ...]:
        return tuple(
            f"{name} is not used: {failure.reason}"
            for name, failure in self.rejected.items()
            if failure.installed is installed
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeProfile:
    """The shapes of an input that a TensorRT engine is built for."""

    input: str
    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


def import_onnxruntime() -> Any:
    """The module, imported so that processes which fork afterwards can still exit.

    onnxruntime 1.32 starts a telemetry thread when it is imported, and children forked beside that thread
    abort or hang at exit. `ORT_DISABLE_TELEMETRY=1` avoids it, and is set unless the user has set it to
    anything; it has no effect where something else imported onnxruntime first.

    Raises:
        MissingExtraError: it is not installed.
        UsageError: it is too old.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("running a bundle", ["onnxruntime"], INSTALL["cpu"]) from error
    check_version(onnxruntime.__version__)
    return onnxruntime


def check_version(version: str) -> None:
    """Raise UsageError if onnxruntime is too old for the graphs."""
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_VERSION:
        needed = ".".join(map(str, MINIMUM_VERSION))
        raise UsageError(f"onnxruntime {version} is too old: pip install --upgrade 'onnxruntime>={needed}'")


def clashing_runtimes(version: Callable[[str], str] = importlib.metadata.version) -> str | None:
    """A warning if both onnxruntime and onnxruntime-gpu are installed: they overwrite each other's files."""
    try:
        found = [f"{name} {version(name)}" for name in ("onnxruntime", "onnxruntime-gpu")]
    except importlib.metadata.PackageNotFoundError:
        return None
    return (
        f"{' and '.join(found)} are both installed and overwrite each other's files: "
        "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
    )


def choose(wanted: Provider | None, failure: Callable[[Provider], Failure | None]) -> Choice:
    """The first provider that works, or the wanted one.

    Args:
        wanted: the only provider to accept; None accepts the first of PROVIDERS that works.
        failure: returns why a provider does not work, or None if it works.

    Raises:
        UsageError: the wanted provider (or any) is not available.
    """
    rejected: dict[Provider, Failure] = {}
    for name in PROVIDERS if wanted is None else (wanted,):
        why = failure(name)
        if why is None:
            return Choice(name, rejected, clashing_runtimes())
        rejected[name] = why
    reasons = "; ".join(f"{name}: {why.reason}" for name, why in rejected.items())
    raise UsageError(f"provider {wanted or 'any'} is not available ({reasons}): {INSTALL[wanted or 'cpu']}")


def choose_provider(wanted: Provider | None = None) -> Choice:
    """`choose` on this machine.

    Raises:
        UnknownNameError: `wanted` is not one of PROVIDERS.
        UsageError: the provider is not available.
        MissingExtraError: onnxruntime is not installed.
    """
    if wanted is not None and wanted not in PROVIDERS:
        raise UnknownNameError("provider", wanted, PROVIDERS)
    onnxruntime = import_onnxruntime()
    return choose(wanted, lambda name: _failure(onnxruntime, name))


def _failure(onnxruntime: Any, name: Provider) -> Failure | None:
    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        return Failure(f"this onnxruntime ({onnxruntime.__version__}) was built without it", installed=False)
    try:
        reason = _probe(onnxruntime, PROVIDERS[name])
    except Exception as error:  # noqa: BLE001  onnxruntime's errors share no base but Exception
        reason = first_line(error)
    return Failure(reason, installed=True) if reason else None


def _probe(onnxruntime: Any, name: str) -> str | None:
    """Run 1 + 1 on a provider and return what went wrong, or None."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # What goes wrong is told by us, in one line.
    session = onnxruntime.InferenceSession(_PROBE, options, providers=[name], enable_fallback=0)
    if session.get_providers()[0] != name:
        return f"its libraries or a GPU are missing; onnxruntime fell back to {session.get_providers()[0]}"
    two = session.run(None, {"x": np.ones(1, np.float32)})[0][0]
    return None if two == 1 + 1 else f"1 + 1 gave {two}"


def first_line(error: Exception) -> str:
    """The message of an onnxruntime error, without its stack of C++ frames."""
    return str(error).strip().split("\n", 1)[0]


# Options ------------------------------------------------------------------------------------------


def cuda_options(*, device: int = 0, tf32: bool = True) -> dict[str, str]:
    """Options of the CUDA provider; without TF32, float32 is computed exactly, as the parity gate needs it."""
    return {"device_id": str(device), "use_tf32": str(int(tf32))}


def tensorrt_options(
    profiles: Sequence[ShapeProfile],
    cache: Path,
    *,
    device: int = 0,
    fp16: bool = False,
    context: Path | None = None,
) -> dict[str, str]:
    """Options of the TensorRT provider: explicit shapes, cached engines and timings, and fp16 on request.

    Args:
        profiles: the shapes of each input.
        cache: the directory of the engines and the timing cache.
        device: index of the GPU.
        fp16: let TensorRT choose fp16 kernels; fp16 graphs do not need it, and TensorRT 11 no longer has it.
        context: also write a model that embeds the engine here.
    """
    options = {
        "device_id": str(device),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": str(int(fp16)),
        # LayerNorm's sums of squares exceed the range of fp16.
        "trt_layer_norm_fp32_fallback": str(int(fp16)),
        "trt_profile_min_shapes": _shapes((p.input, p.minimum) for p in profiles),
        "trt_profile_opt_shapes": _shapes((p.input, p.optimum) for p in profiles),
        "trt_profile_max_shapes": _shapes((p.input, p.maximum) for p in profiles),
    }
    if context is not None:
        options |= {"trt_dump_ep_context_model": "1", "trt_ep_context_file_path": str(context)}
    return options


def _shapes(shapes: Any) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes)
