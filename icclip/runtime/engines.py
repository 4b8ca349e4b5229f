"""TensorRT engines of a bundle: their directory, and the options with which they are built or found again.

Engines are built for one kind of GPU and one version of TensorRT, so they are not part of the bundle.
onnxruntime does not compare weights when it looks for an engine. Every graph therefore has a directory of its
own, named by its content, and a bundle that replaces another never finds the other's engines.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from icclip.bundles.manifest import Manifest, Tower
from icclip.runtime.providers import ShapeProfile, tensorrt_options

MAX_BATCH = 128
"""The largest batch that engines are built for; larger batches are split."""
CONTEXT = "_ctx.onnx"
"""End of the name of a model that embeds its engine: it opens without building anything."""

_OPTIMUM_BATCH = 32


def engine_directory(bundle: Path) -> Path:
    """The directory of a bundle's engines, which is beside it."""
    return bundle.with_name(f"{bundle.name}-tensorrt")


def graph_engines(engines: Path, manifest: Manifest, graph: str) -> Path:
    """The directory of one graph's engines below `engines`, named by the hashes of the graph's files."""
    hashes = "".join(manifest.files[name].sha256 for name in manifest.files_of(graph))
    return engines / hashlib.sha256(hashes.encode()).hexdigest()[:16]


def engine_options(
    engines: Path, manifest: Manifest, precision: str, tower: Tower, *, fp16: bool = False, context: bool = False
) -> dict[str, str]:
    """The provider's options that build, or find again, one tower's engine.

    Args:
        engines: the `engine_directory` at the bundle's final path.
        manifest: the manifest of the bundle.
        precision: the precision of the graph.
        tower: the tower of the graph.
        fp16: let TensorRT choose fp16 kernels for a float32 graph; fp16 graphs do not need it,
            and TensorRT 11 no longer has it.
        context: also write a model that embeds the engine.
    """
    graph: str = getattr(manifest.towers(precision), tower)
    own = graph_engines(engines, manifest, graph)
    written = own / f"{Path(graph).stem}{CONTEXT}" if context else None
    return tensorrt_options([shape_profile(manifest, tower)], own, fp16=fp16, context=written)


def shape_profile(manifest: Manifest, tower: Tower) -> ShapeProfile:
    """The shapes that a TensorRT engine is built for: any batch, any length that the text policy allows."""
    if tower == "vision":
        size = (3, *manifest.image.size)
        shapes = ((1, *size), (_OPTIMUM_BATCH, *size), (MAX_BATCH, *size))
        return ShapeProfile(input=manifest.vision_io.input, minimum=shapes[0], optimum=shapes[1], maximum=shapes[2])
    longest = manifest.text.max_length
    shortest = 1 if manifest.text.padding == "longest" else longest
    return ShapeProfile(
        input=manifest.text_io.input,
        minimum=(1, shortest),
        optimum=(_OPTIMUM_BATCH, (shortest + longest + 1) // 2),
        maximum=(MAX_BATCH, longest),
    )
