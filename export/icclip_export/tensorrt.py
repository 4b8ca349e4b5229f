"""The TensorRT target: the same bundle, for engines that onnxruntime's TensorRT provider builds from it.

Attention is written as plain products, for a reason given at `export_towers`. Engines are built for
one kind of GPU and one version of TensorRT, so that they are no part of the bundle: they lie beside it
in `<bundle>-tensorrt`, with the timings that make the next build quick.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from icclip.console import Reporter
from icclip.exporting import ExportRequest, ExportResult
from icclip.runtime.encoder import Encoder, shape_profile
from icclip.runtime.manifest import Manifest, Tower, read_manifest
from icclip.runtime.providers import choose_provider, tensorrt_options

CONTEXT = "_ctx.onnx"
"""End of the name of a model that embeds its engine: it opens without building anything."""


def export(request: ExportRequest) -> ExportResult:
    """As the target `onnx`, measured on TensorRT, which has to be there and work.

    Raises:
        UsageError: TensorRT or a GPU is missing; and as the target `onnx`.
        GateError: an engine does not give what the checkpoint gives.
    """
    from icclip_export import bundle

    choose_provider("tensorrt")
    config = dataclasses.replace(request.config, provider="tensorrt")
    result = bundle.export(dataclasses.replace(request, config=config), eager_attention=True)
    manifest = read_manifest(result.bundle)
    for precision in config.precisions:
        for tower in bundle.TOWERS:
            build_engine(result.bundle, manifest, precision, tower)
    return result


def engine_directory(bundle: Path) -> Path:
    """Where the engines of a bundle lie."""
    return bundle.with_name(f"{bundle.name}-tensorrt")


def engine_options(
    bundle: Path, manifest: Manifest, precision: str, tower: Tower, *, fp16: bool = False
) -> dict[str, str]:
    """The provider's options that build, or find again, one tower's engine.

    Args:
        bundle: its directory.
        manifest: its manifest.
        precision: of the graph.
        tower: which one.
        fp16: let TensorRT choose fp16 kernels for a float32 graph; graphs that are fp16 already need it
            not, and TensorRT 11 has it no more.
    """
    engines = engine_directory(bundle)
    graph = Path(getattr(manifest.towers(precision), tower))
    context = engines / f"{graph.stem}{CONTEXT}"
    return tensorrt_options([shape_profile(manifest, tower)], engines, fp16=fp16, context=context)


def build_engine(bundle: Path, manifest: Manifest, precision: str, tower: Tower) -> Path:
    """Build one tower's engine and the model that embeds it, which is returned. Minutes, the first time.

    Raises:
        CheckpointError, UsageError: onnxruntime or TensorRT gives up on the graph.
    """
    from icclip.runtime.sessions import open_session

    engine_directory(bundle).mkdir(exist_ok=True)
    options = engine_options(bundle, manifest, precision, tower)
    graph = bundle / getattr(manifest.towers(precision), tower)
    io = manifest.vision_io if tower == "vision" else manifest.text_io
    open_session(graph, io, "tensorrt", options=options, threads=1)
    return Path(options["trt_ep_context_file_path"])


def open_bundle(path: Path) -> Encoder:
    """`ExportTargetSpec.open`: on TensorRT or not at all."""
    return Encoder.open(path, provider="tensorrt", reporter=Reporter.for_this_process())
