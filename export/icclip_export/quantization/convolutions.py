"""Convolutions with weights of 8 bits and a scale for each output channel, whose biases take back what rounding shifts.

The weights are a quarter as large, and the products are computed in float32: integers would need ranges for what the
convolutions read, and with the best that we found single embeddings of an EfficientNet are four times as far from the checkpoint
as the gate allows (benchmarks/static_convolutions.py).

Rounding moves the mean of each output channel, and by the same for all images, so that errors add up from layer to layer. How
far is known from the means of what the convolution reads, and its bias takes it back (Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", 2019, section 4.2).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TowerIO
from icclip_export.onnx.activations import channel_means
from icclip_export.onnx.graphs import whole_attribute
from icclip_export.quantization.rounding import (
    add_half,
    add_restored,
    quantized,
    restored,
    rounding_error,
    weights_of,
)

MEASURED_INPUTS = 32
FEATURE_MAPS = 4
"""The dimensions of a weight that reads feature maps [b, channels, h, w]; those over the tokens of a text are left alone."""


@dataclass(frozen=True)
class Convolutions:
    """The convolutions of one float32 graph that are worth it, by their names, and the means of what they read."""

    weights: Mapping[str, np.ndarray]
    """float32 [out, in / groups, h, w]."""
    means: Mapping[str, np.ndarray]
    """float32 [in]."""

    @classmethod
    def of(cls, source: Path, io: TowerIO, inputs: np.ndarray) -> Convolutions:
        """Measure on real inputs [b, ...]. A convolution that reads the pixels, such as that of patches, is left out: it is small."""
        import onnx

        graph = onnx.load(str(source), load_external_data=True).graph
        weights = weights_of(graph)
        pixels = {value.name for value in graph.input}
        found = [
            node for node in graph.node
            if node.op_type == "Conv" and node.input[0] not in pixels
            and weights.get(node.input[1], np.empty(0)).ndim == FEATURE_MAPS
        ]  # fmt: skip
        read = {node.input[0] for node in found}
        means = channel_means(source, io, inputs[:MEASURED_INPUTS], read) if found else {}
        return cls(
            {node.name: weights[node.input[1]] for node in found}, {node.name: means[node.input[0]] for node in found}
        )

    def errors(self) -> dict[str, float]:
        """The relative error of each convolution's weight when it is rounded."""
        return {name: rounding_error(weight) for name, weight in self.weights.items()}

    def quantize(self, graph: Any, kept: Collection[str]) -> None:
        """Have the weights of the convolutions of a graph in 8 bits, and those in `kept` in fp16."""
        from onnx import numpy_helper

        weights = weights_of(graph)
        for node in list(graph.node):
            if node.op_type != "Conv" or node.name not in self.weights:
                continue
            weight, own = self.weights[node.name], f"{node.name}_weight"
            if node.name in kept:
                node.input[1] = own
                add_half(graph, own, weight)
                continue
            bias = weights[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)  # noqa: PLR2004
            corrected = bias + shift(weight, self.means[node.name], whole_attribute(node, "group", 1))
            graph.initializer.append(numpy_helper.from_array(corrected.astype(np.float32), f"{own}_bias"))
            add_restored(graph, own, *quantized(weight))
            del node.input[1:]
            node.input.extend([own, f"{own}_bias"])


def shift(weight: np.ndarray, means: np.ndarray, groups: int) -> np.ndarray:
    """By how much rounding a convolution's weight lowers the mean of each output channel, float32 [out].

    Args:
        weight: [out, in / groups, h, w].
        means: of the channels that it reads, [in].
        groups: the number of groups of channels; an output channel sees those of its own.
    """
    lost = (weight - restored(weight)).sum(axis=(2, 3)).reshape(groups, -1, weight.shape[1])
    return np.asarray(np.einsum("goi,gi->go", lost, means.reshape(groups, -1)).reshape(-1), np.float32)
