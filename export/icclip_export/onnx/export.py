"""Export two towers in torch to two checked ONNX graphs in float32."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.manifest import Tower, TowerIO
from icclip.errors import CheckpointError, GateError
from icclip.models.attention import set_attention
from icclip.models.loaded import LoadedModel
from icclip.runtime.providers import import_onnxruntime
from icclip_export.onnx.exporters import choose_exporter

if TYPE_CHECKING:
    from icclip_export.onnx.exporters.value import Exporter
    from icclip_export.onnx.towers import TowerExport

OPSET = 18
"""LayerNormalization is one operator from 17 on, which TensorRT needs to keep its accuracy; 18 is both exporters' own."""

TOLERANCE = 1e-5
"""Largest |difference| from torch, as a fraction of the embedding's length. Correct graphs are at 1e-6 and below."""

BATCHES = (1, 3, 8)
_EXPECTED_WARNINGS = (
    # The exporter that optimum uses is the older of torch's two.
    "You are using the legacy TorchScript-based ONNX export",
    "The feature will be removed",
    # Pooling at the end-of-text token indexes with tensors, which is correct for the ids of real texts.
    "Exporting aten::index operator",
    "Constant folding",
    # torch copies what it exports with a class of its own that it calls outdated.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


def export_towers(
    loaded: LoadedModel,
    directory: Path,
    *,
    exporter: Exporter | None = None,
    opset: int = OPSET,
    eager_attention: bool = False,
) -> dict[Tower, Path]:
    """Write `vision_model.onnx` and `text_model.onnx`, and compare them with torch.

    Their outputs are projected, un-normalised and float32. The batch is dynamic, and so is the length of texts if
    the checkpoint allows it. Weights over 2 GB go to `*.onnx_data` beside the graph.

    Args:
        loaded: a model on the CPU in float32.
        directory: the directory for the graphs.
        exporter: what writes the graphs; None means the first that works with what is installed.
        opset: the opset of the graphs.
        eager_attention: write attention as plain products, because TensorRT has fused the scaled-dot-product
            pattern incorrectly (TensorRT issues 4333 and 4828).

    Raises:
        CheckpointError: the weights are not finite, or this kind of model cannot be exported.
        GateError: a graph does not give what torch gives.
        UsageError: onnxruntime is too old, or there is no exporter.
        OSError: the files cannot be written, for example because the disk is full.
    """
    from icclip_export.onnx.towers import tower_exports

    exporter = exporter or choose_exporter()
    import_onnxruntime()
    check_finite(loaded)
    with _attention(loaded.model, "eager" if eager_attention else None):
        towers = tower_exports(loaded)
        paths = {tower: directory / f"{tower}_model.onnx" for tower in towers}
        with quiet_export(), global_pooling(towers["vision"].module, towers["vision"].example):
            for tower, path in paths.items():
                exporter.write(towers[tower], path, opset)
    for tower, path in paths.items():
        check_graph(path)
        check_numbers(tower, towers[tower], path, loaded)
    return paths


def check_finite(loaded: LoadedModel) -> None:
    """Raise CheckpointError if a weight is NaN or infinite."""
    import torch

    for name, values in loaded.model.state_dict().items():
        if not torch.isfinite(values).all():
            raise CheckpointError(f"{loaded.source}: the weight {name} is not finite: train again, or use a checkpoint")


@contextlib.contextmanager
def global_pooling(tower: Any, example: Any) -> Iterator[None]:
    """Within the block, average pooling with a window larger than its input is replaced by the mean over that input.

    This is what torch computes. onnxruntime divides by the size of the window, which in EfficientNet is far larger
    than the image.

    Args:
        tower: the tower to export.
        example: an input of the tower.
    """
    import torch

    found: list[Any] = []

    def look(pool: Any, inputs: tuple[Any, ...]) -> None:
        if pool.ceil_mode and all(
            window >= side for window, side in zip(_pair(pool.kernel_size), inputs[0].shape[-2:], strict=True)
        ):
            found.append(pool)

    pools = [module for module in tower.modules() if isinstance(module, torch.nn.AvgPool2d)]
    handles = [pool.register_forward_pre_hook(look) for pool in pools]
    with torch.inference_mode():
        tower(example)
    for handle in handles:
        handle.remove()
    for pool in found:
        pool.forward = lambda values: values.mean(dim=(-2, -1), keepdim=True)
    try:
        yield
    finally:
        for pool in found:
            del pool.forward


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@contextlib.contextmanager
def _attention(model: Any, wanted: str | None) -> Iterator[None]:
    """Set the implementation of attention within the block, for the towers too, which `from_pretrained` would not change."""
    before = model.config._attn_implementation  # noqa: SLF001  there is no public way to read it
    set_attention(model, wanted or before)
    try:
        yield
    finally:
        set_attention(model, before)


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Hide the expected warnings of the exporters and the quantizer; others are shown."""
    from torch.jit import TracerWarning  # type: ignore[attr-defined]  # torch does not list it

    # The quantizer warns through the root logger that graphs could be pre-processed, which does not pay here. torch's
    # exporter warns of every library that it could translate and does not find.
    levels = {name: logging.getLogger(name).level for name in (None, "torch.onnx")}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # The tracer remarks on every shape that the models check; the axes that matter are tested here.
            warnings.filterwarnings("ignore", category=TracerWarning)
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=f"(?s).*{message}")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


# Checking -----------------------------------------------------------------------------------------


def check_graph(path: Path) -> None:
    """Raise GateError if a file is not a valid ONNX graph."""
    import onnx

    try:
        # Checked by path, because a graph with external data may be larger than a protobuf message.
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"{path.name}: the ONNX checker rejects it: {error}") from error


def check_numbers(tower: Tower, exported: TowerExport, path: Path, loaded: LoadedModel) -> float:
    """Compare a graph with its tower in torch, on several batch sizes and text lengths.

    Returns:
        The largest |difference|, as a fraction of the embedding's length.

    Raises:
        GateError: the difference is more than TOLERANCE, or NaN.
    """
    import torch

    worst = 0.0
    run = runner(path, exported.io)
    for inputs in _examples(tower, loaded):
        with torch.inference_mode():
            expected = exported.module(inputs).numpy()
        worst = float(np.maximum(worst, _difference(run(inputs.numpy()), expected)))
        # Not written as "greater than", so that NaN fails, too.
        if not worst <= TOLERANCE:
            raise GateError(
                f"{path.name}: the {tower} tower is {worst:.2g} away from torch on inputs {tuple(inputs.shape)}, "
                f"more than {TOLERANCE:.0g} of the embedding's length: the export is wrong, nothing was kept"
            )
    return worst


def _examples(tower: Tower, loaded: LoadedModel) -> list[Any]:
    from icclip_export.onnx.towers import example_pixels, example_tokens

    if tower == "vision":
        return [example_pixels(loaded, batch) for batch in BATCHES]
    longest = loaded.feeder.text_policy.max_length
    lengths = [longest] if loaded.feeder.text_policy.padding == "max_length" else [3, longest // 2, longest]
    return [example_tokens(loaded, batch, length) for batch in BATCHES for length in lengths]


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    return float(np.max(np.abs(actual - expected) / lengths))


def runner(path: Path, io: TowerIO) -> Any:
    """Open a graph on the CPU as a function from inputs [b, ...] to outputs, float32 [b, dim]."""
    from icclip.runtime.sessions import open_session
    from icclip.runtime.threads import default_threads

    return open_session(path, io, "cpu", threads=default_threads()).run
