"""The configuration of `icclip quickstart`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.declare import PRECISION, RUN, SCHEDULE, option
from icclip.config.encoder import DEVICE, GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartConfig(Config):
    """Where the quickstart writes, how long it trains, and on which device."""

    output_dir: Path = option(
        "Directory that everything is written to.", Path("quickstart"), panel=RUN, flags=("--output-dir", "-o"),
        metavar="DIR",
    )  # fmt: skip
    epochs: int | None = option(
        "Number of passes over the images.", None, panel=SCHEDULE, metavar="N", at_least=1, unset="what suits the model"
    )
    device: str | None = option(DEVICE, None, panel=PRECISION, metavar="DEVICE", unset=GPU)
    overwrite: bool = option("Replace an earlier quickstart in the directory.", False, panel=RUN)
