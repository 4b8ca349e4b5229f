"""What a precision is: one value, declared in one file of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icclip.bundles.manifest import Tower, TowerIO
from icclip.bundles.parity_record import Thresholds

if TYPE_CHECKING:
    import numpy as np

DIRECTORY = "onnx"
"""The folder of a bundle's graphs."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How sensitive one node is to a precision. The larger the strain, the earlier the node is left in float32."""

    node: str
    strain: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the graphs of a precision are made from those in float32."""

    sensitivities: Callable[[Path, TowerIO, np.ndarray], list[Sensitivity]]
    """A function (float32 graph, its names, real inputs [b, ...]) that returns the strain of every node that could stay in float32."""
    build: Callable[[Path, Path, Sequence[str]], None]
    """A function (float32 graph, path of the result, nodes to leave in float32); inputs and outputs stay float32."""
    unbearable: float = float("inf")
    """Strain beyond which a node stays in float32 whatever the score says."""
    calibrated: Callable[[Path, TowerIO, np.ndarray, Path], Recipe] | None = None
    """A function (float32 graph, its names, real inputs, folder) that returns a better recipe for this graph alone, which may keep
    files in the folder as long as it is used."""

    def for_graph(self, source: Path, io: TowerIO, inputs: np.ndarray, folder: Path) -> Recipe:
        """The recipe for one graph: a better one where real inputs, [b, ...], can make it better; see `calibrated`."""
        return self if self.calibrated is None else self.calibrated(source, io, inputs, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One precision that encoders are exported in."""

    name: str
    suffix: str
    """The suffix of its files' names, which transformers.js looks for: `vision_model_fp16.onnx`."""
    bytes_per_weight: float
    """The approximate disk space that a weight takes, in bytes."""
    limits: Thresholds
    """How far its encoders may be from the checkpoint; a comment in its file explains the numbers."""
    recipe: Recipe | None = None
    """How its graphs are made; None means that the exporter's graphs are used as they are."""
    doubtful_below: float | None = None
    """A centred cosine below this passes with a warning."""

    def graph(self, tower: Tower) -> str:
        """The path of a tower's graph inside a bundle."""
        return f"{DIRECTORY}/{tower}_model{self.suffix}.onnx"
