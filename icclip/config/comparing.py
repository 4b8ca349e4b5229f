"""Which models are compared, on what, and how the outcome is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icclip.config.base import Config
from icclip.config.data import AS_TRAINED, DatasetConfig
from icclip.config.declare import MEASURE, MODEL_AND_DATA, OUTPUT, argument, nested, option

TWO = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig(Config):
    """Which models are compared, on what, and how the outcome is shown."""

    models: tuple[str, ...] = argument(
        "Two or more runs, bundles, checkpoints or files of saved ranks (test_ranks.parquet); the first is what the "
        "others are compared with.",
        complete="file",
    )
    data: DatasetConfig | None = nested(None, leave_out=("streaming",), unset=AS_TRAINED)
    """What models without saved ranks are measured on, and where pictures come from; None: their own data."""
    split: str = option(
        "Split to compare on: train, validation or test.",
        "test",
        panel=MODEL_AND_DATA,
        metavar="SPLIT",
        complete="split",
    )
    bootstrap: int = option(
        "Number of resamples behind the 95 % intervals.", 1000, panel=MEASURE, metavar="N", at_least=1
    )
    flips: int = option(
        "Number of random exchanges behind a p-value.", 10_000, panel=MEASURE, metavar="N", at_least=100
    )
    seed: int = option("Seed of the resamples and the exchanges.", 42, panel=MEASURE, at_least=0)
    fail_below: float | None = option(
        "Fail with exit code 3 if the rsum of a model is lower than that of the first by more than this allows: 0 "
        "allows no loss, -2 one of two points.",
        None, panel=MEASURE, metavar="POINTS", unset="never fail",
    )  # fmt: skip
    layout: Literal["table", "markdown", "latex"] = option(
        "How the comparison is printed.", "table", panel=OUTPUT, flags=("--layout",), switches=("markdown", "latex")
    )
    picture: Path | None = option(
        "File for a picture of the captions whose images moved most, won and lost: .png or .jpg.", None, panel=OUTPUT,
        metavar="FILE",
    )  # fmt: skip

    def problems(self) -> list[str]:
        """Too few models, or a picture of another kind."""
        found = []
        if len(self.models) < TWO:
            found.append(f"models are {len(self.models)}: give at least two to compare")
        if self.picture is not None and self.picture.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
            found.append(f"{{picture}} is {self.picture}: give a name that ends in .png or .jpg")
        return found
