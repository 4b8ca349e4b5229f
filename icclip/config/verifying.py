"""The configuration of `icclip verify`: which bundle is checked, and on which data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.data import DatasetConfig
from icclip.config.declare import MODEL_AND_DATA, PRECISION, argument, nested, option
from icclip.config.encoder import EncoderConfig

AS_PROVEN = {"val_fraction": "as in the parity gate", "seed": "as in the parity gate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig(Config):
    """The configuration of `icclip verify`: which bundle is checked, and on which data."""

    bundle: Path = argument(
        "Directory that `icclip export` wrote, or a bundle on the hub (OWNER/NAME).", complete="file"
    )
    encoder: EncoderConfig = nested(
        leave_out=("checkpoint", "revision", "precision", "device", "workers", "trust_remote_code")
    )
    data: DatasetConfig | None = nested(None, leave_out=("streaming", "relevance"), unset=AS_PROVEN)
    """The data on which retrieval is measured again; None skips this."""
    split: str | None = option(
        "Split of --dataset to measure.",
        None,
        panel=MODEL_AND_DATA,
        metavar="SPLIT",
        complete="split",
        unset="that of the parity gate",
    )
    precisions: tuple[str, ...] = option(
        "Precision to check; may be repeated.", (), panel=PRECISION, flags=("--precision",), metavar="PRECISION", separated=True,
        switches=("fp32", "fp16"), complete="variant", unset="all that the bundle holds",
    )  # fmt: skip
