"""The export targets that come with icclip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.plugins.specs import ExportTargetSpec
from icclip_export.precisions import NAMES

if TYPE_CHECKING:
    from icclip.exporting.request import ExportRequest, ExportResult
    from icclip.runtime import Encoder

REQUIRES = ("torch", "transformers", "datasets", "onnx", "onnxruntime", "optimum")
TENSORRT_PRECISIONS = ("fp32", "fp16")
"""TensorRT does not read onnxruntime's dynamic quantization."""


def export_onnx(request: ExportRequest) -> ExportResult:
    """See `icclip_export.bundle.export`."""
    from icclip_export.bundle import export

    return export(request)


def open_onnx(path: Path) -> Encoder:
    """See `icclip_export.bundle.open_bundle`."""
    from icclip_export.bundle import open_bundle

    return open_bundle(path)


def export_tensorrt(request: ExportRequest) -> ExportResult:
    """See `icclip_export.tensorrt.target.export`."""
    from icclip_export.tensorrt.target import export

    return export(request)


def open_tensorrt(path: Path) -> Encoder:
    """See `icclip_export.tensorrt.target.open_bundle`."""
    from icclip_export.tensorrt.target import open_bundle

    return open_bundle(path)


@hookimpl
def icclip_export_targets() -> list[ExportTargetSpec]:
    """ONNX, and TensorRT through onnxruntime."""
    return [
        ExportTargetSpec(
            name="onnx",
            summary="two ONNX encoders for onnxruntime and transformers.js",
            precisions=NAMES,
            export=export_onnx,
            open=open_onnx,
            requires=REQUIRES,
        ),
        ExportTargetSpec(
            name="tensorrt",
            summary="the same for engines of onnxruntime's TensorRT provider",
            precisions=TENSORRT_PRECISIONS,
            export=export_tensorrt,
            open=open_tensorrt,
            requires=REQUIRES,
        ),
    ]
