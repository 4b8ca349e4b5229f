"""What a report shows, and where it is written; which curves are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.data import AS_TRAINED, DatasetConfig
from icclip.config.declare import MEASURE, MODEL_AND_DATA, OUTPUT, REQUIRED, argument, nested, option

PICTURES = (".svg", ".png", ".pdf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig(Config):
    """What a report shows, and where it is written."""

    models: tuple[str, ...] = argument(
        "One or several runs, bundles or files of metrics (test_metric.json); with several, the first is what the "
        "others are compared with.",
        complete="file",
    )
    data: DatasetConfig | None = nested(None, leave_out=("streaming", "relevance", "qrels"), unset=AS_TRAINED)
    """Where the images of the best and worst answers come from; None: each model's own data."""
    split: str = option(
        "Split whose results are shown: train, validation or test.", "test", panel=MODEL_AND_DATA, metavar="SPLIT",
        complete="split",
    )  # fmt: skip
    output: Path = option("File of the page.", REQUIRED, panel=OUTPUT, flags=("--output", "-o"), metavar="FILE")
    queries: int = option(
        "Best and worst queries shown with images, in each direction; 0 shows none and reads no image.", 4, panel=MEASURE,
        metavar="N", at_least=0, at_most=100,
    )  # fmt: skip

    def problems(self) -> list[str]:
        """A file of another kind, or nothing to show."""
        found = [] if self.models else ["models are missing: give at least one run, bundle or file of metrics"]
        if self.output.suffix.lower() not in {".html", ".htm"}:
            found.append(f"{{output}} is {self.output}: give a name that ends in .html")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotConfig(Config):
    """Which runs' curves are drawn, and where."""

    runs: tuple[Path, ...] = argument("One or several run directories.", complete="file")
    output: Path = option(
        "File of the picture: .svg; .png and .pdf need the extra icclip[plot].", REQUIRED, panel=OUTPUT,
        flags=("--output", "-o"), metavar="FILE",
    )  # fmt: skip

    def problems(self) -> list[str]:
        """A file of another kind, or nothing to draw."""
        found = [] if self.runs else ["runs are missing: give at least one run directory"]
        if self.output.suffix.lower() not in PICTURES:
            found.append(f"{{output}} is {self.output}: give a name that ends in .svg, .png or .pdf")
        return found
