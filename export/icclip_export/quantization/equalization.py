"""Equalize the channels that products read before these are quantized (SmoothQuant, Xiao et al., 2023).

All channels of what a product reads share one step, so that a few large ones, which transformers grow after their
LayerNorms, leave little of it to the others. Dividing each channel by a number of its own, and multiplying the rows of the weights
by it, computes the same. The division costs nothing where a LayerNorm feeds products alone, whose scale and bias take it;
elsewhere it is one more multiplication.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TowerIO
from icclip_export.onnx.activations import captured
from icclip_export.quantization.products import columns, is_transposed, product_error, quantizable
from icclip_export.quantization.rounding import weights_of

MEASURED_INPUTS = 8
ROWS = 512
"""Rows of activations that a choice is tried on; the range is that of all."""
STRENGTHS = (0.5, 0.65, 0.8)
"""How much of the activations' spread goes to the weights; the best one is taken."""
LEAST = 0.1
"""Share of the median channel's largest value that each channel is taken to reach: one that few inputs use may be idle in those that
are measured, and would be blown up beyond all others by the first input that uses it."""
WORTH = 0.9
"""Share of the error that may remain, so that it is worth a multiplication."""


@dataclass(frozen=True)
class Equalization:
    """What the channels of some tensors are divided by, float32 [channels], by the tensors' names."""

    divisors: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, source: Path, io: TowerIO, inputs: np.ndarray) -> Equalization:
        """Choose the divisors on real inputs [b, ...]; tensors whose products gain nothing have none."""
        import onnx

        graph = onnx.load(str(source), load_external_data=True).graph
        weights = weights_of(graph)
        readers = _readers(graph, weights)
        values = captured(source, io, inputs[:MEASURED_INPUTS], readers)
        chosen = {
            name: _divisor(values[name], [columns(node, weights) for node in own]) for name, own in readers.items()
        }
        return cls({name: divisor for name, divisor in chosen.items() if divisor is not None})

    def apply(self, graph: Any) -> None:
        """Equalize the channels of a graph, which computes the same afterwards."""
        from onnx import helper

        weights = weights_of(graph)
        add = partial(_add, graph)
        for name, own in _readers(graph, weights).items():
            if name not in self.divisors:
                continue
            divisor = self.divisors[name]
            for node in own:
                weight = columns(node, weights) * divisor[:, None]
                node.input[1] = add(f"{node.name}_equalized", weight.T if is_transposed(node) else weight)
            norm = _norm_of(graph, name, len(own))
            if norm is not None and all(known in weights for known in norm.input[1:]):
                for place in range(1, len(norm.input)):
                    norm.input[place] = add(f"{norm.name}_equalized_{place}", weights[norm.input[place]] / divisor)
                continue
            factor, equal = add(f"{name}_factor", 1 / divisor), f"{name}_equalized"
            first = min(list(graph.node).index(node) for node in own)
            graph.node.insert(first, helper.make_node("Mul", [name, factor], [equal], name=equal))
            for node in own:
                node.input[0] = equal


def _add(graph: Any, name: str, value: np.ndarray) -> str:
    """Give the graph another weight; returns its name."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
    return name


def _norm_of(graph: Any, name: str, readers: int) -> Any | None:
    """The LayerNorm that computes a tensor, if its only readers are these many products."""
    reads = sum(list(node.input).count(name) for node in graph.node) + sum(value.name == name for value in graph.output)
    found = [node for node in graph.node if node.op_type == "LayerNormalization" and node.output[0] == name]
    return found[0] if found and reads == readers else None


def _readers(graph: Any, weights: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """The quantizable products by the tensor that they read."""
    found = defaultdict(list)
    for node in quantizable(graph, weights):
        found[node.input[0]].append(node)
    return dict(found)


def _divisor(values: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray | None:
    """What to divide the channels of `values` [..., channels] by, which products with `weights` [channels, out] read."""
    rows = values.reshape(-1, values.shape[-1])
    low, high = rows.min(axis=0), rows.max(axis=0)
    tried = rows[:: max(1, len(rows) // ROWS)]
    peak = np.maximum(-low, high)
    peak = np.maximum(peak, max(LEAST * float(np.median(peak)), 1e-5))
    reach = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), 1e-5)

    def remains(divisor: np.ndarray) -> float:
        span = float(min(0.0, (low / divisor).min())), float(max(0.0, (high / divisor).max()))
        return math.hypot(*(product_error(tried / divisor, weight * divisor[:, None], span) for weight in weights))

    candidates = [_centred(peak**strength / reach ** (1 - strength)) for strength in STRENGTHS]
    best = min(candidates, key=remains)
    return best if remains(best) < WORTH * remains(np.ones_like(peak)) else None


def _centred(divisor: np.ndarray) -> np.ndarray:
    """Scaled so that the divisors' logarithms have a mean of 0."""
    return np.asarray(divisor / np.exp(np.log(divisor).mean()), np.float32)
