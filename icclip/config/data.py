"""The configuration of a dataset: which captioned images are read, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icclip.config.base import Config
from icclip.config.declare import MEASURE, MODEL_AND_DATA, REQUIRED, option
from icclip.config.model import TRUST

OnBadImage = Literal["fail", "skip"]
RelevanceProtocol = Literal["text", "pair"]
"""Which texts are right for which images; see `icclip.retrieval.relevance`."""

AS_TRAINED = {"val_fraction": "as in the run, or 0.1", "seed": "as in the run, or 42"}
"""The texts for commands that read the data of a run as the run did."""
MAX_VAL_FRACTION = 0.5
"""The upper limit of the fraction: a validation and a test split of this size would leave nothing to train on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig(Config):
    """Which captioned images are read, and how."""

    name: str = option(
        "Dataset to use: its name, name@path for a local copy, or a path to a table, a JSON or parquet file, "
        "a folder of images or a folder of .tar shards.",
        REQUIRED, panel=MODEL_AND_DATA, flags=("--dataset", "-d"), metavar="DATASET", complete="dataset",
    )  # fmt: skip
    path: str | None = None
    """The path after the @, or the path given instead of a name."""
    revision: str | None = option(
        "Branch, tag or commit of a dataset from the hub.",
        None,
        flags=("--dataset-revision",),
        metavar="REVISION",
        unset="main",
    )
    image_column: str | None = option(
        "Column or key that holds the image.", None, metavar="NAME", unset="found by its usual names"
    )
    caption_column: str | None = option(
        "Column or key that holds the caption or captions.", None, metavar="NAME", unset="found by its usual names"
    )
    val_fraction: float = option(
        "Share of the images that icclip sets aside as a split when the dataset has no validation or test split.",
        0.1, metavar="FRACTION", above=0, below=MAX_VAL_FRACTION,
    )  # fmt: skip
    seed: int = option(
        "Seed of the splits that icclip makes, and of the images of a generated dataset.", 42, flags=("--split-seed",),
        at_least=0,
    )  # fmt: skip
    whole: bool = False
    """Whether a source without splits is used as a whole instead of being split, for example because it is only measured."""
    relevance: RelevanceProtocol | None = option(
        "What counts as a right answer: with text, a caption is right for every image that has it; with pair, only "
        "for the image that it came with.",
        None, panel=MEASURE, unset="as the dataset was published: pair for flickr8k and flickr30k, otherwise text",
    )  # fmt: skip
    qrels: Path | None = option(
        "File of judgements (TREC's layout, or .json) that decide what counts as a right answer, instead of what captions "
        "and images have in common.",
        None, panel=MEASURE, metavar="FILE", complete="file",
    )  # fmt: skip
    streaming: bool = option("Read the data as it comes instead of downloading all of it; needs --max-steps.", False)
    on_bad_image: OnBadImage = option(
        "What to do with an image that cannot be read: stop, or skip and count it.", "fail"
    )
    image_root: str | None = option(
        "Folder that the names of images start from.",
        None,
        metavar="DIR",
        unset="the folder of the file that names them",
    )
    download: bool = option("Fetch images that are named by URL, into the cache.", False)
    template: str | None = option(
        "Caption of the images in a folder per class, with {} for the name of the class.", None, metavar="TEXT",
        unset="the name alone",
    )  # fmt: skip
    allow_outside_root: bool = option("Let a dataset name images outside its own directory.", False)
    trust_remote_code: bool = option(TRUST, False, panel=MODEL_AND_DATA)

    def problems(self) -> list[str]:
        """Report a template without {} for the name."""
        if self.template is None or "{}" in self.template:
            return []
        return [f"template is {self.template!r}: write {{}} where the name of the class goes"]

    @property
    def label(self) -> str:
        """The dataset, written as on the command line: `flickr8k@path`, `shapes`."""
        return f"{self.name}@{self.path}" if self.path else self.name
