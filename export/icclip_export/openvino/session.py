"""One graph of a bundle in OpenVINO: input array -> output array."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TowerIO
from icclip.errors import CheckpointError
from icclip.runtime.sessions import Session
from icclip_export.openvino.cpu import core, import_openvino, reason

HINTS = {"bf16": "bf16"}
"""Precision -> what OpenVINO is told to compute in; anything else is float32, also between the products of int8."""


@dataclass(frozen=True)
class OpenVinoSession(Session):
    """An open graph; `session` is the compiled model. Safe to run from several threads at once."""

    wanted: str = "f32"
    """The type that the graph was compiled for."""
    requests: threading.local = field(default_factory=threading.local, compare=False)
    """A request holds the inputs and outputs of one run, so that each thread has its own."""

    def run(self, inputs: np.ndarray, *, last: bool = True) -> np.ndarray:  # noqa: ARG002  no memory to give back
        """Run the graph; returns its output, float32 [b, dim]. Raises CheckpointError if it does not accept the inputs."""
        if not hasattr(self.requests, "own"):
            self.requests.own = self.session.create_infer_request()
        try:
            results = self.requests.own.infer({self.io.input: inputs}, share_inputs=True)
        except Exception as error:  # OpenVINO's errors share no base but Exception
            raise CheckpointError(
                f"the graph cannot run on {self.io.input} of shape {inputs.shape}: {reason(error)}"
            ) from error
        outputs: np.ndarray = np.array(results[self.io.output], np.float32)
        return outputs

    def elsewhere(self) -> str | None:
        """The type that the graph really computes in, if it is not the one that it was compiled for."""
        ran = str(self.session.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        return None if ran == self.wanted else f"{ran} instead of {self.wanted}"

    def shapes(self) -> tuple[list[Any], list[Any]]:
        """The sizes of the input and the output; None where they are dynamic."""
        return _sizes(self.session.input(self.io.input)), _sizes(self.session.output(self.io.output))


def _sizes(port: Any) -> list[int | None]:
    return [size.get_length() if size.is_static else None for size in port.partial_shape]


def open_session(path: Path, io: TowerIO, precision: str, *, threads: int) -> OpenVinoSession:
    """Load and compile a graph for this CPU.

    Raises:
        CheckpointError: the file is not a valid graph, or has other inputs and outputs.
        MissingExtraError: OpenVINO is not installed.
    """
    openvino = import_openvino()
    wanted = HINTS.get(precision, "f32")
    # Without a hint, OpenVINO computes float32 graphs in bf16, or on ARM in fp16, where the CPU has it.
    settings = {"INFERENCE_PRECISION_HINT": wanted, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    try:
        # Named, because OpenVINO asks the readers of all formats in turn, and some print what they think of a file.
        reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        compiled = core().compile_model(reader.convert(reader.load(str(path))), "CPU", settings)
    except Exception as error:  # OpenVINO's errors share no base but Exception
        raise CheckpointError(f"OpenVINO cannot open {path}: {reason(error)}") from error
    _check_names(compiled, path, io)
    return OpenVinoSession(compiled, io, "cpu", wanted)


def _check_names(compiled: Any, path: Path, io: TowerIO) -> None:
    """Each input and output of a compiled graph has several names, one of which is that of the ONNX graph."""
    takes, gives = ([port.names for port in ports] for ports in (compiled.inputs, compiled.outputs))
    if len(takes) != 1 or io.input not in takes[0] or not any(io.output in names for names in gives):
        has = [", ".join(min(names, key=len, default="?") for names in ports) for ports in (takes, gives)]
        raise CheckpointError(
            f"{path} takes {has[0]} and gives {has[1]}, but expected {io.input} and {io.output}: "
            "export the checkpoint again"
        )
