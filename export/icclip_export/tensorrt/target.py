"""The TensorRT target: the same bundle, for engines that onnxruntime's TensorRT provider builds from it.

Attention is written as plain products; `export_towers` gives the reason. The engines are beside the bundle; see
`icclip.runtime.engines`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from icclip.bundles.manifest import Manifest, Tower, read_manifest
from icclip.exporting.request import ExportRequest, ExportResult
from icclip.runtime.engines import engine_directory, engine_options
from icclip.runtime.providers import choose_provider


def export(request: ExportRequest) -> ExportResult:
    """Export like the target `onnx`, but measure on TensorRT, which must be available.

    Raises:
        UsageError: TensorRT or a GPU is missing, or as for the target `onnx`.
        GateError: as for the target `onnx`.
    """
    from icclip_export import bundle

    choose_provider("tensorrt")
    encoder = dataclasses.replace(request.config.encoder, provider="tensorrt")
    config = dataclasses.replace(request.config, encoder=encoder)
    result = bundle.export(dataclasses.replace(request, config=config), eager_attention=True)
    if result.parity.passed:
        manifest = read_manifest(result.bundle)
        for precision in config.precisions:
            for tower in bundle.TOWERS:
                build_engine(result.bundle, manifest, precision, tower)
    return result


def build_engine(bundle: Path, manifest: Manifest, precision: str, tower: Tower) -> Path:
    """Build one tower's engine and the model that embeds it, which is returned. The first time takes minutes.

    Raises:
        CheckpointError, UsageError: onnxruntime or TensorRT gives up on the graph.
    """
    from icclip.runtime.sessions import open_session

    options = engine_options(engine_directory(bundle), manifest, precision, tower, context=True)
    context = Path(options["trt_ep_context_file_path"])
    context.parent.mkdir(parents=True, exist_ok=True)
    graph = bundle / getattr(manifest.towers(precision), tower)
    io = manifest.vision_io if tower == "vision" else manifest.text_io
    open_session(graph, io, "tensorrt", options=options, threads=1)
    return context
