"""int8: matrix products in integers, quantized dynamically, with weights of 7 bits; tables and convolutions with small weights.

Attention is one operator.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TowerIO
from icclip.bundles.parity_record import Thresholds
from icclip_export.onnx.activations import captured
from icclip_export.onnx.export import quiet_export
from icclip_export.onnx.graphs import external_data, initializers, save_graph
from icclip_export.precisions.value import Precision, Recipe, Sensitivity
from icclip_export.quantization.convolutions import Convolutions
from icclip_export.quantization.equalization import Equalization
from icclip_export.quantization.products import columns, narrow_products, product_error, quantizable, store_halves
from icclip_export.quantization.rounding import changed, rounding_error
from icclip_export.quantization.tables import quantize_tables, tables

MEASURED_INPUTS = 8
"""Number of inputs that sensitivity is measured on; the products of a base-size tower read 50 MB for each."""
QUANTIZED = ("MatMul",)
"""The operators that are computed in integers."""


def sensitivities(source: Path, io: TowerIO, inputs: np.ndarray) -> list[Sensitivity]:
    """The relative error of each quantizable node's output when it alone is quantized."""
    import onnx

    graph = onnx.load(str(source), load_external_data=True).graph
    weights = dict(initializers(graph, np.float32))
    products = quantizable(graph, weights)
    activations = captured(source, io, inputs[:MEASURED_INPUTS], {node.input[0] for node in products})
    return [
        *(Sensitivity(node.name, rounding_error(weights[node.input[0]])) for node in tables(graph, weights)),
        *(
            Sensitivity(node.name, product_error(activations[node.input[0]], columns(node, weights)))
            for node in products
        ),
    ]


def calibrated(source: Path, io: TowerIO, inputs: np.ndarray, folder: Path) -> Recipe:
    """The recipe for one graph, with what real inputs show: how to equalize its channels, and how rounding shifts its convolutions.

    Products and convolutions that are kept in float32 have their weights in fp16, unless everything is kept.
    """
    convolutions = Convolutions.of(source, io, inputs)
    equal = folder / source.name
    changed(source, equal, Equalization.of(source, io, inputs).apply)
    ranked = sensitivities(equal, io, inputs)
    ranked += [Sensitivity(name, error) for name, error in convolutions.errors().items()]
    candidates = {one.node for one in ranked}

    def better(source: Path, target: Path, kept: Sequence[str]) -> None:
        if candidates.issubset(kept):
            build(source, target, kept)
            return

        def change(graph: Any) -> None:
            store_halves(graph, kept)
            convolutions.quantize(graph, kept)
            quantize_tables(graph, kept)

        _quantize_products(equal, target, kept, change)

    return Recipe(lambda *_: ranked, better)


def build(source: Path, target: Path, kept: Sequence[str]) -> None:
    """Quantize tables and products, except for the nodes in `kept`."""
    _quantize_products(source, target, kept, lambda graph: quantize_tables(graph, kept))


def _quantize_products(source: Path, target: Path, kept: Sequence[str], change: Callable[[Any], None]) -> None:
    """Quantize dynamically after `change(graph)`, with 7-bit weights in int8 and a scale for every output channel.

    The reduced range makes it correct on CPUs without VNNI, where sums of two products of 8 bits saturate; with
    VNNI it costs nothing.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from icclip_export.rewriting.contrib import fuse_attention

    with tempfile.TemporaryDirectory(dir=target.parent) as folder, quiet_export():
        small, quantized = Path(folder) / "small.onnx", Path(folder) / target.name
        excluded = [*kept, *narrow_products(changed(source, small, change).graph)]
        quantize_dynamic(
            small,
            quantized,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # The quantizer turns a Gemm into a MatMul of this name.
            nodes_to_exclude=[*excluded, *(f"{name}_MatMul" for name in excluded)],
            use_external_data_format=bool(external_data(small)),
        )
        save_graph(onnx.load(str(quantized)), target)
    # Only onnxruntime (on CPUs, CUDA and in browsers) and OpenVINO read these graphs, and both have the operator.
    fuse_attention(target, target)


PRECISION = Precision(
    name="int8",
    suffix="_int8",
    bytes_per_weight=1,
    # What an 8-bit weight costs is a choice of the user's, so retrieval itself is the measure: one
    # point of R@1 is what a fine-tuning seed moves. Saturating kernels fall to .95 and below. Single
    # components wander, so that they are not held to anything. What tells 8 bits from 4 is the mean of
    # the centred cosines: noise on all inputs alike moves it, and neither one bad input nor a common
    # part does. On ten small trained models of both families int8 measured 1 - 6e-4 at worst, weights of
    # 4 bits 1 - 4.7e-3 at best.
    limits=Thresholds(
        min_cosine=0.995,
        mean_cosine=0.998,
        centred_min_cosine=0.95,
        centred_mean_cosine=0.998,
        similarity_abs=5e-2,
        drop_r1=0.01,
        drop_r5=0.005,
        drop_r10=0.005,
        top10_overlap=0.90,
    ),
    recipe=Recipe(sensitivities, build, calibrated=calibrated),
    # Below this, it is worth leaving single nodes unquantized.
    doubtful_below=0.98,
)
