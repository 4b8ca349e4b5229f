"""How much of a pretrained model changes, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from icclip.config.base import Config
from icclip.config.declare import GENTLE, option

Tower = Literal["vision", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GentleConfig(Config):
    """How much of a pretrained model changes, and how fast; by default, everything changes at one rate."""

    freeze: Literal["vision", "text", "both"] | None = option(
        "Tower whose weights stay as they are (LiT); with both, only their projections and the temperature train.",
        None, panel=GENTLE, unset="neither",
    )  # fmt: skip
    freeze_blocks: int = option(
        "Number of first blocks of each tower, with the embeddings before them, whose weights stay as they are.",
        0, panel=GENTLE, metavar="N", at_least=0,
    )  # fmt: skip
    freeze_bn_stats: bool = option(
        "Let BatchNorm layers in a tower that trains keep their statistics instead of taking those of each batch.",
        False, panel=GENTLE,
    )  # fmt: skip
    layer_decay: float = option(
        "Learning rate of each layer as a share of the rate of the layer above it, such as 0.75 (BEiT).",
        1.0, panel=GENTLE, metavar="FACTOR", above=0, at_most=1,
    )  # fmt: skip
    vision_lr: float | None = option(
        "Peak learning rate of the vision tower.", None, panel=GENTLE, metavar="RATE", at_least=0, unset="that of --lr"
    )
    text_lr: float | None = option(
        "Peak learning rate of the text tower.", None, panel=GENTLE, metavar="RATE", at_least=0, unset="that of --lr"
    )
    ema: float | None = option(
        "Measure and save an exponential moving average of the weights with this decay per step, such as 0.999.",
        None, panel=GENTLE, metavar="DECAY", above=0, below=1, unset="the weights themselves",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig(Config):
    """Low-rank adapters instead of the whole model (arXiv:2106.09685)."""

    rank: int | None = option(
        "Train low-rank adapters (LoRA) of this rank instead of the weights, and merge them when saving; "
        "they need a larger --lr.",
        None, panel=GENTLE, flags=("--lora-rank",), metavar="RANK", at_least=1, unset="no adapters",
    )  # fmt: skip
    alpha: float | None = option(
        "Scale of what the adapters add, which is multiplied by alpha / rank.",
        None, panel=GENTLE, flags=("--lora-alpha",), metavar="ALPHA", above=0, unset="twice the rank",
    )  # fmt: skip
    dropout: float = option(
        "Share of the adapters' inputs that dropout sets to zero.",
        0.0, panel=GENTLE, flags=("--lora-dropout",), metavar="FRACTION", at_least=0, below=1,
    )  # fmt: skip
    targets: tuple[str, ...] = option(
        "Linear layers of the blocks that get adapters, by the last part of their names: q_proj,v_proj.",
        (), panel=GENTLE, flags=("--lora-targets",), metavar="NAMES", separated=True, unset="all of them",
    )  # fmt: skip

    def problems(self) -> list[str]:
        """Report options of adapters without --lora-rank."""
        if self.rank is None and self != LoraConfig():
            return ["{rank} is missing: give --lora-rank with the other options of adapters"]
        return []
