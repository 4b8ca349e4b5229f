"""Where in a dual encoder each of its parameters is: in which tower, and how deep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icclip.config import Tower
from icclip.plugins.specs import BackendSpec

if TYPE_CHECKING:
    from torch import nn

BLOCK = re.compile(r"\.layers\.(\d+)\.")
STEM = re.compile(r"\.(embeddings|pre_layrnorm)\.")
"""transformers' names of the transformer blocks, and of what comes before them."""


@dataclass(frozen=True, slots=True)
class Place:
    """A parameter's place in its tower of n blocks."""

    tower: Tower | None
    """None: it belongs to both, as the temperature does."""
    layer: int
    """0 for the embeddings, 1 to n for the blocks, n + 1 for what follows them."""
    above: int
    """Layers between it and the output: n + 1 - layer."""


def places(model: nn.Module, backend: BackendSpec) -> dict[str, Place]:
    """Parameter's name -> its place."""
    prefixes: Mapping[Tower, tuple[str, ...]] = {"vision": backend.vision_parameters, "text": backend.text_parameters}
    names = [name for name, _ in model.named_parameters()]
    found = {name: Place(None, 0, 0) for name in names}
    for tower, beginnings in prefixes.items():
        own = [name for name in names if name.startswith(beginnings)]
        blocks = max((_block(name) or 0 for name in own), default=0)
        for name in own:
            layer = _layer(name, blocks)
            found[name] = Place(tower, layer, blocks + 1 - layer)
    return found


def block_modules(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of both towers."""
    matches = ((module, f"{name}.") for name, module in model.named_modules())
    return [module for module, name in matches if (found := BLOCK.search(name)) and found.end() == len(name)]


def _layer(name: str, blocks: int) -> int:
    block = _block(name)
    if block is not None:
        return block
    return 0 if STEM.search(name) else blocks + 1


def _block(name: str) -> int | None:
    """1 for the first block."""
    match = BLOCK.search(name)
    return int(match[1]) + 1 if match else None
