"""The configuration of `icclip blend`: two checkpoints of one architecture, and the share of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.data import AS_TRAINED, DatasetConfig
from icclip.config.declare import BATCH, MEASURE, MODEL_AND_DATA, REQUIRED, nested, option
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

    forget_at_most: float | None = option(
        "Keep only a mixture whose zero-shot top-1 is at most this many points lower than that of the model it is mixed with; "
        "exit code 3 if there is none.",
        None, panel=MEASURE, metavar="POINTS", at_least=0, unset="forgetting is not measured",
    )  # fmt: skip
    zero_shot: DatasetConfig | None = option(
        "Directory with a folder of images per class, or another classification dataset, that --forget-at-most is measured on.",
        None, panel=MEASURE, flags=("--zero-shot-dataset",), metavar="DATASET", complete="dataset",
    )  # fmt: skip
    templates: Path | None = option(
        "File of prompts for --zero-shot-dataset: one per line, with {} for the name of the class.", None, panel=MEASURE,
        metavar="FILE", complete="file", unset="seven of icclip's own",
    )  # fmt: skip

    def problems(self) -> list[str]:
        """Report a choice without data to measure on, or without candidates."""
        found = []
        if (self.forget_at_most is None) != (self.zero_shot is None):
            given, missing = (
                ("forget_at_most", "zero_shot") if self.zero_shot is None else ("zero_shot", "forget_at_most")
            )
            found.append(f"{{{missing}}} is missing: {{{given}}} needs it")
        if self.templates is not None and self.zero_shot is None:
            found.append("{templates} is for {zero_shot}: give both, or leave it out")
        if not self.alphas:
            found.append("{alphas} is empty: give at least one")
        if len(self.alphas) > 1 and self.data is None:
            found.append("{data} is missing: alpha is chosen on a validation split, so give --dataset")
        return found

    @property
    def checkpoint(self) -> str:
        """The fine-tuned model."""
        return self.encoder.checkpoint
