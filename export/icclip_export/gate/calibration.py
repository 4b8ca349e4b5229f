"""Judge a reduced precision while it is made, by a few real inputs and their embeddings in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.manifest import Tower, TowerIO
from icclip.bundles.parity_record import Thresholds
from icclip.models.loaded import LoadedModel
from icclip.retrieval.agreement import tower_agreement
from icclip.retrieval.captions import CaptionMap
from icclip_export.onnx.export import runner
from icclip_export.precisions.search import Measure, Score

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = 64
_BATCH = 32


@dataclass(frozen=True)
class Calibration:
    """Inputs of one tower, and its embeddings in torch."""

    io: TowerIO
    inputs: np.ndarray
    """The inputs of the graph, [b, ...]."""
    known: np.ndarray
    """float32 [b, dim], rows of length 1."""

    def score(self, limits: Thresholds) -> Score:
        """Score a graph by its distance from torch, which is 1 exactly at a threshold."""

        def measure(graph: Path) -> Measure:
            found = tower_agreement(self.known, self._embeddings(graph))
            held = {
                "cosine": (found.min_cosine, limits.min_cosine),
                "mean cosine": (found.mean_cosine, limits.mean_cosine),
                "centred cosine": (found.centred_min_cosine, limits.centred_min_cosine),
                "mean centred cosine": (found.centred_mean_cosine, limits.centred_mean_cosine),
            }
            distances = {
                name: (1 - value) / (1 - limit)
                for name, (value, limit) in held.items()
                if value is not None and limit is not None and limit < 1
            }
            name, worst = max(distances.items(), key=lambda item: _nan_last(item[1]))
            return Measure(error=worst, detail=f"{name} {held[name][0]:.6f}")

        return measure

    def _embeddings(self, graph: Path) -> np.ndarray:
        run = runner(graph, self.io)
        features = np.concatenate(
            [run(self.inputs[start : start + _BATCH]) for start in range(0, len(self.inputs), _BATCH)]
        )
        return _unit(features)


def calibrations(loaded: LoadedModel, images: Sequence[Image], captions: CaptionMap) -> dict[Tower, Calibration]:
    """Calibrate both towers on the first IMAGES images of a split, with one caption each."""
    from icclip_export.onnx.towers import tower_ios

    count, ios = min(IMAGES, captions.n_images), tower_ios(loaded)
    pixels = loaded.feeder.image_inputs([images[row] for row in range(count)])
    tokens = loaded.feeder.text_inputs([captions.texts[captions.offsets[row]] for row in range(count)])
    return {
        "vision": _calibration(ios["vision"], pixels, loaded.image_features),
        "text": _calibration(ios["text"], tokens, loaded.text_features),
    }


def _calibration(io: TowerIO, inputs: dict[str, Any], features: Callable[[dict[str, Any]], Any]) -> Calibration:
    import torch

    with torch.inference_mode():
        parts = {name: values.split(_BATCH) for name, values in inputs.items()}
        batches = (dict(zip(parts, own, strict=True)) for own in zip(*parts.values(), strict=True))
        known = [features(batch).float() for batch in batches]
    return Calibration(io, inputs[io.input].numpy(), _unit(torch.cat(known).numpy()))


def _unit(features: np.ndarray) -> np.ndarray:
    unit: np.ndarray = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit


def _nan_last(value: float) -> float:
    return float("inf") if np.isnan(value) else value
