"""What OpenVINO can compute on this CPU."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from icclip.errors import MissingExtraError, UsageError
from icclip.runtime.cpu import cpu_flags

INSTALL = "pip install 'icclip[openvino]'"
FLAGS = ("avx512_bf16", "amx_bf16", "avx_ne_convert")
"""The instructions of x86 CPUs that multiply in bf16, or convert to it, as the system names them."""
_CPU = "CPU"


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU as OpenVINO and the system describe it."""

    name: str
    capabilities: frozenset[str]
    """What OpenVINO's kernels compute in here: `FP32`, `BF16`, `INT8`, ..."""
    flags: frozenset[str]
    """The instructions that it has; empty if the system does not tell."""

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bf16 by its own instructions; OpenVINO emulates them on any CPU with AVX-512."""
        own = not self.flags or bool(self.flags & set(FLAGS))
        return "BF16" in self.capabilities and own


def import_openvino() -> Any:
    """The module. Raises MissingExtraError if it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("running a bundle in OpenVINO", ["openvino"], INSTALL) from error
    return openvino


@functools.cache
def core() -> Any:
    """OpenVINO's core, of which a process needs one. Raises MissingExtraError."""
    return import_openvino().Core()


def computes() -> Cpu:
    """This CPU. Raises MissingExtraError, or UsageError if OpenVINO cannot use it."""
    try:
        name, capabilities = (
            core().get_property(_CPU, key) for key in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        )
    except RuntimeError as error:
        raise UsageError(f"OpenVINO cannot use this CPU: {reason(error)}: export with --target onnx instead") from error
    return Cpu(str(name), frozenset(capabilities), cpu_flags())


def check_provider(name: str | None) -> None:
    """Raise UsageError for a provider other than the CPU; others are onnxruntime's."""
    if name not in (None, "cpu"):
        raise UsageError(f"provider {name} is onnxruntime's, and OpenVINO runs on the CPU: leave out --provider")


def lacks(precision: str, cpu: Cpu | None = None) -> str | None:
    """Why a CPU cannot compute a precision, or None if it can.

    Args:
        precision: a precision of the target.
        cpu: the CPU; None means this one.
    """
    cpu = cpu or computes()
    if precision != "bf16" or cpu.has_bf16:
        return None
    return (
        f"precision bf16 needs a CPU that computes in it ({', '.join(FLAGS)}), and {cpu.name} does not: "
        "give --precision fp32, or export int8 with --target onnx"
    )


def reason(error: Exception) -> str:
    """The line of an OpenVINO error that says what is wrong; those before it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from ", "Check "))]
    return (said or lines or [type(error).__name__])[-1]
