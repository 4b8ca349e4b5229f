"""What is looked for, and in which index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.declare import MODEL_AND_DATA, OUTPUT, argument, nested, option
from icclip.config.encoder import EncoderConfig

MOST_RESULTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig(Config):
    """One search."""

    index: Path = argument("Directory that `icclip index` wrote.", complete="file")
    query: tuple[str, ...] = argument("Text to search for, or an image file.", ())
    text: tuple[str, ...] = option(
        "Text to search for; may be repeated and combined with --image and --minus.", (), panel=MODEL_AND_DATA,
        metavar="TEXT",
    )  # fmt: skip
    image: tuple[Path, ...] = option(
        "Image file to search for; may be repeated.", (), panel=MODEL_AND_DATA, metavar="FILE", complete="file"
    )
    minus: tuple[str, ...] = option(
        "Text or image file that the results should not resemble; may be repeated.", (), panel=MODEL_AND_DATA,
        metavar="QUERY",
    )  # fmt: skip
    k: int = option("Number of results.", 10, flags=("-k", "--top-k"), metavar="N", at_least=1, at_most=MOST_RESULTS)
    where: str | None = option(
        "Condition that the columns of an item must meet, such as 'width > 800 and contains(captions, \"dog\")'.", None,
        flags=("--filter",), metavar="CONDITION",
    )  # fmt: skip
    page: Path | None = option("Write a page of the results with their thumbnails.", None, panel=OUTPUT, metavar="FILE")
    open: bool = option("Write that page and open it in the browser.", False, panel=OUTPUT)
    model: str | None = option(
        "Directory or hub id of the encoder, if it has moved since the index was built.", None, panel=MODEL_AND_DATA, metavar="MODEL",
        complete="file",
    )  # fmt: skip
    encoder: EncoderConfig | None = nested(None, leave_out=("checkpoint",))

    def problems(self) -> list[str]:
        """Nothing to search for."""
        return [] if self.query or self.text or self.image else ["give a text, an image file, {text} or {image}"]
