"""Find the position of each parameter in a dual encoder: its tower and its layer.

The backend's `TowerLayout`s describe where the towers and their blocks are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icclip.config import Tower
from icclip.plugins.specs import BackendSpec, TowerLayout

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class TowerPosition:
    """A parameter's position in its tower of n blocks."""

    tower: Tower | None
    """None: the parameter belongs to both towers, as the temperature does."""
    layer: int
    """0 for the embeddings, 1 to n for the blocks, n + 1 for the head."""
    above: int
    """Number of layers between it and the output: n + 1 - layer."""

    @property
    def in_block(self) -> bool:
        """Whether it is part of a repeated block, rather than of the embeddings or the head."""
        return self.layer > 0 and self.above > 0


def tower_positions(model: nn.Module, backend: BackendSpec) -> dict[str, TowerPosition]:
    """The position of every parameter, by its name."""
    layouts: Mapping[Tower, TowerLayout] = {"vision": backend.vision, "text": backend.text}
    names = [name for name, _ in model.named_parameters()]
    found = {name: TowerPosition(None, 0, 0) for name in names}
    for tower, layout in layouts.items():
        blocks = layout.blocks(model)
        layers = _layers([name for name in names if name.startswith(layout.parameters)], blocks)
        found |= {name: TowerPosition(tower, layer, len(blocks) + 1 - layer) for name, layer in layers.items()}
    return found


def block_modules(model: nn.Module, backend: BackendSpec) -> list[nn.Module]:
    """The repeated blocks of both towers."""
    return [model.get_submodule(name) for layout in (backend.vision, backend.text) for name in layout.blocks(model)]


def _layers(names: Sequence[str], blocks: Sequence[str]) -> dict[str, int]:
    """The layer of each of a tower's parameters; `names` in the order of their definition."""
    found, reached = {}, False
    for name in names:
        block = next((number for number, own in enumerate(blocks, 1) if name.startswith(f"{own}.")), None)
        reached = reached or block is not None
        found[name] = block if block is not None else (len(blocks) + 1 if reached else 0)
    return found
