"""The export targets that come with icclip."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.errors import UnknownNameError
from icclip.plugins.specs import ExportTargetSpec, OpenRequest
from icclip_export.precisions import NAMES

if TYPE_CHECKING:
    from icclip.exporting.request import ExportRequest, ExportResult
    from icclip.runtime import Encoder
    from icclip.runtime.providers import Provider

REQUIRES = ("torch", "transformers", "datasets", "onnx", "onnxruntime", "onnxscript")
TENSORRT_PRECISIONS = ("fp32", "fp16")
"""TensorRT does not read onnxruntime's dynamic quantization."""
OPENVINO_PRECISIONS = ("fp32", "bf16")
"""On CPUs, OpenVINO computes fp16 graphs in float32, and our int8 graphs rightly but slower than float32."""


def export_onnx(request: ExportRequest) -> ExportResult:
    """See `icclip_export.bundle.export`."""
    from icclip_export.bundle import export

    return export(request)


def recognises(path: Path) -> bool:
    """Whether a directory is a bundle for onnxruntime; two targets write such bundles."""
    from icclip.bundles.manifest import RUNTIME, library_of

    return library_of(path) == RUNTIME


def open_onnx(request: OpenRequest) -> Encoder:
    """Open a bundle with onnxruntime, in full float32 if its graphs are float32. Needs neither torch nor transformers.

    Raises:
        CheckpointError: the bundle is damaged.
        UsageError: the precision or provider is not available.
        MissingExtraError: onnxruntime is not installed.
    """
    from icclip.runtime import Encoder

    return Encoder.open(
        request.path,
        request.precision,
        _provider(request.provider),
        threads=request.threads,
        verify_hashes=not request.hashed,
        # Where the files were just checked, they are what is to run.
        keep_graphs=not request.hashed,
        # Numbers that are compared with the checkpoint's must be as exact as the checkpoint's.
        tf32=False,
        reporter=request.reporter,
    )


def _provider(name: str | None) -> Provider | None:
    """The provider of onnxruntime that the user named. Raises UnknownNameError."""
    from icclip.runtime.providers import PROVIDERS

    if name is None:
        return None
    for known in PROVIDERS:
        if known == name:
            return known
    raise UnknownNameError("provider", name, PROVIDERS)


def export_tensorrt(request: ExportRequest) -> ExportResult:
    """See `icclip_export.tensorrt.target.export`."""
    from icclip_export.tensorrt.target import export

    return export(request)


def open_tensorrt(request: OpenRequest) -> Encoder:
    """Open a bundle like `open_onnx`, but only on TensorRT, unless the request names another provider."""
    return open_onnx(dataclasses.replace(request, provider=request.provider or "tensorrt"))


def export_openvino(request: ExportRequest) -> ExportResult:
    """See `icclip_export.openvino.target.export`."""
    from icclip_export.openvino.target import export

    return export(request)


def recognises_openvino(path: Path) -> bool:
    """Whether a directory is a bundle for OpenVINO."""
    from icclip.bundles.manifest import library_of

    return library_of(path) == "openvino"


def open_openvino(request: OpenRequest) -> Encoder:
    """See `icclip_export.openvino.target.open_bundle`."""
    from icclip_export.openvino.target import open_bundle

    return open_bundle(request)


def about_openvino() -> str:
    """See `icclip_export.openvino.target.about_here`."""
    from icclip_export.openvino.target import about_here

    return about_here()


@hookimpl
def icclip_export_targets() -> list[ExportTargetSpec]:
    """Return the targets `onnx`, `tensorrt` and `openvino`."""
    return [
        ExportTargetSpec(
            name="onnx",
            summary="two ONNX encoders for onnxruntime and transformers.js",
            precisions=NAMES,
            export=export_onnx,
            recognises=recognises,
            open=open_onnx,
            requires=REQUIRES,
        ),
        ExportTargetSpec(
            name="tensorrt",
            summary="two ONNX encoders and the engines of onnxruntime's TensorRT provider",
            precisions=TENSORRT_PRECISIONS,
            export=export_tensorrt,
            # It writes the same files as the target onnx, which is asked first and opens them.
            recognises=recognises,
            open=open_tensorrt,
            requires=REQUIRES,
        ),
        ExportTargetSpec(
            name="openvino",
            summary="two ONNX encoders for OpenVINO, which computes bf16 on CPUs that have it",
            precisions=OPENVINO_PRECISIONS,
            export=export_openvino,
            recognises=recognises_openvino,
            open=open_openvino,
            about=about_openvino,
            requires=(*REQUIRES, "openvino"),
            install="pip install 'icclip[export,openvino]'",
        ),
    ]
