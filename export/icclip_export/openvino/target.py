"""Export to OpenVINO, and what opens the result. Opening needs neither torch nor transformers."""

from __future__ import annotations

from icclip.exporting.request import ExportRequest, ExportResult
from icclip.plugins.specs import OpenRequest
from icclip_export.openvino.cpu import check_provider, computes, import_openvino, lacks
from icclip_export.openvino.encoder import OpenVinoEncoder


def export(request: ExportRequest) -> ExportResult:
    """Export like the target `onnx`, but run and measure in OpenVINO.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        UsageError: this CPU cannot compute a precision, or as for the target `onnx`.
        GateError: as for the target `onnx`.
    """
    from icclip_export import bundle

    return bundle.export(request, encoder=OpenVinoEncoder)


def open_bundle(request: OpenRequest) -> OpenVinoEncoder:
    """Open a bundle in OpenVINO.

    Raises:
        CheckpointError: the bundle is damaged.
        UsageError: this CPU cannot compute the precision, or the provider is not the CPU.
        MissingExtraError: OpenVINO is not installed.
    """
    check_provider(request.provider)
    return OpenVinoEncoder.open(
        request.path,
        request.precision,
        threads=request.threads,
        verify_hashes=not request.hashed,
        reporter=request.reporter,
    )


def about_here() -> str:
    """What runs here: `OpenVINO 2026.4.1 on AMD EPYC: fp32, bf16`. Raises MissingExtraError, UsageError."""
    openvino = import_openvino()
    able = [name for name in ("fp32", "bf16") if lacks(name) is None]
    version = openvino.__version__.partition("-")[0]
    return f"OpenVINO {version} on {computes().name}: {', '.join(able)}"
