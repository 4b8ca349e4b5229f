"""The configuration of `icclip blend`: two checkpoints of one architecture, and the share of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.data import AS_TRAINED, DatasetConfig
from icclip.config.declare import BATCH, MODEL_AND_DATA, REQUIRED, nested, option
from icclip.config.encoder import MODEL_ONLY, EncoderConfig
from icclip.config.evaluating import BATCH_FLAGS, EVAL_BATCH
from icclip.config.model import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendConfig(Config):
    """The configuration of `icclip blend`: two checkpoints of one architecture, and the share of each."""

    encoder: EncoderConfig = nested(leave_out=("provider", "threads"), help=MODEL_ONLY)
    """The fine-tuned checkpoint, and how the mixtures are run when they are measured."""
    other: ModelConfig = option(
        "Model to mix with CHECKPOINT.", REQUIRED, panel=MODEL_AND_DATA, flags=("--with",), metavar="MODEL", complete="file",
        unset="what the run began with",
    )  # fmt: skip
    output_dir: Path = option(
        "Directory that the mixture is written to.", REQUIRED, panel=MODEL_AND_DATA, flags=("--output-dir", "-o"),
        metavar="DIR",
    )  # fmt: skip
    alphas: tuple[float, ...] = option(
        "Share of CHECKPOINT in the mixture, from 0 to 1. Of several, with commas between them, the best on the "
        "validation split is kept.",
        tuple(tenth / 10 for tenth in range(11)), panel=MODEL_AND_DATA, flags=("--alpha", "--alphas"),
        metavar="SHARES", separated=True, at_least=0, at_most=1, unset="0,0.1,...,1",
    )  # fmt: skip
    data: DatasetConfig | None = nested(None, leave_out=("streaming",), unset=AS_TRAINED)
    """The data that the mixtures are measured on; a single mixture needs none."""
    eval_bs: int = option(
        EVAL_BATCH, 128, panel=BATCH, flags=BATCH_FLAGS, metavar="N", at_least=1, unset="as in the run, or 128"
    )

    def problems(self) -> list[str]:
        """Report a choice without data to measure on, or without candidates."""
        found = []
        if not self.alphas:
            found.append("{alphas} is empty: give at least one")
        if len(self.alphas) > 1 and self.data is None:
            found.append("{data} is missing: alpha is chosen on a validation split, so give --dataset")
        return found

    @property
    def checkpoint(self) -> str:
        """The fine-tuned model."""
        return self.encoder.checkpoint
