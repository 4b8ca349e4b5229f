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
"""Where a bundle keeps its graphs."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How a precision strains one node. The larger the strain, the earlier the node is left in float32."""

    node: str
    strain: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the graphs of a precision are made from those in float32."""

    sensitivities: Callable[[Path, TowerIO, np.ndarray], list[Sensitivity]]
    """(float32 graph, its names, real inputs [b, ...]) -> the strain of every node that could be left in float32."""
    build: Callable[[Path, Path, Sequence[str]], None]
    """(float32 graph, where the result goes, nodes to leave in float32); inputs and outputs stay float32."""
    unbearable: float = float("inf")
    """Strain beyond which a node stays in float32 whatever the score says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One precision that encoders are exported in."""

    name: str
    suffix: str
    """What its files' names end in, as transformers.js looks for them: `vision_model_fp16.onnx`."""
    bytes_per_weight: float
    """The approximate disk space that a weight takes, in bytes."""
    limits: Thresholds
    """How far its encoders may be from the checkpoint; where the numbers come from is told beside them."""
    recipe: Recipe | None = None
    """None: its graphs are those that the exporter writes."""
    doubtful_below: float | None = None
    """A centred cosine under it passes with a warning."""

    def graph(self, tower: Tower) -> str:
        """The path of a tower's graph inside a bundle."""
        return f"{DIRECTORY}/{tower}_model{self.suffix}.onnx"
