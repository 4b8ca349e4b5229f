"""The configuration of `icclip assemble`: two pretrained towers that become one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.declare import MODEL_AND_DATA, REQUIRED, SCHEDULE, option
from icclip.config.model import TRUST


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleConfig(Config):
    """The configuration of `icclip assemble`: two pretrained towers that become one model."""

    vision: str = option(
        "Vision tower: a Hugging Face hub id or a local directory of a transformers model with a pooled output.",
        REQUIRED, panel=MODEL_AND_DATA, metavar="MODEL", complete="file",
    )  # fmt: skip
    text: str = option(
        "Text tower: a Hugging Face hub id or a local directory of a transformers model with a pooled output.",
        REQUIRED, panel=MODEL_AND_DATA, metavar="MODEL", complete="file",
    )  # fmt: skip
    output_dir: Path = option(
        "Directory that the new checkpoint is written to.", REQUIRED, panel=MODEL_AND_DATA,
        flags=("--output-dir", "-o"), metavar="DIR",
    )  # fmt: skip
    projection_dim: int = option(
        "Length of the embeddings that both towers are projected to.",
        512,
        panel=MODEL_AND_DATA,
        metavar="N",
        at_least=1,
    )
    seed: int = option("Seed of the new projections.", 42, panel=SCHEDULE, at_least=0)
    vision_revision: str | None = option(
        "Branch, tag or commit of a vision tower from the hub.", None, panel=MODEL_AND_DATA, metavar="REVISION",
        unset="main",
    )  # fmt: skip
    text_revision: str | None = option(
        "Branch, tag or commit of a text tower from the hub.", None, panel=MODEL_AND_DATA, metavar="REVISION",
        unset="main",
    )  # fmt: skip
    trust_remote_code: bool = option(TRUST, False, panel=MODEL_AND_DATA)
