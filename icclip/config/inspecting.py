"""The configuration of `icclip data inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.data import DatasetConfig
from icclip.config.declare import MODEL_AND_DATA, OUTPUT, nested, option


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectConfig(Config):
    """Which dataset is inspected, and how."""

    data: DatasetConfig = nested(
        leave_out=(
            "name",
            "streaming",
            "on_bad_image",
            "val_fraction",
            "seed",
            "relevance",
            "qrels",
            "trust_remote_code",
        )
    )
    model: str | None = option(
        "Model, run or bundle whose text limit the captions are compared with.", None, panel=MODEL_AND_DATA,
        flags=("--model", "-m"), metavar="MODEL",
    )  # fmt: skip
    picture: Path | None = option(
        "File for a contact sheet of the images and their captions: .png or .jpg.", None, panel=OUTPUT, metavar="FILE"
    )

    def problems(self) -> list[str]:
        """Report a picture in another format."""
        if self.picture is None or self.picture.suffix.lower() in {".png", ".jpg", ".jpeg"}:
            return []
        return [f"picture is {self.picture}: give a name that ends in .png or .jpg"]
