"""What is indexed, how, and what the index has to reach."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icclip.config.base import Config
from icclip.config.data import DatasetConfig, OnBadImage
from icclip.config.declare import BATCH, MEASURE, MODEL_AND_DATA, OUTPUT, RUN, argument, nested, option
from icclip.config.encoder import EncoderConfig
from icclip.config.evaluating import EVAL_BATCH

StoredAs = Literal["float32", "float16"]
LEAST_RECALL = 0.95
"""The recall@10 against exact search that an index has to reach unless the user says otherwise."""
BATCH_TEXT = EVAL_BATCH.replace("Images", "Inputs")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def bytes_of(text: str) -> int | None:
    """`500MB` -> 500,000,000; None where it is not a size."""
    found = _SIZE.fullmatch(text.strip())
    return int(float(found[1]) * _UNITS[found[2].lower()]) if found and float(found[1]) > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsConfig(Config):
    """What goes into an index: images in files, a dataset's images, or embeddings that are there already."""

    images: tuple[Path, ...] = option(
        "Directory of images, image file or pattern to index; may be repeated.", (), panel=MODEL_AND_DATA,
        flags=("--images",), metavar="PATH",
    )  # fmt: skip
    data: DatasetConfig | None = nested(None, leave_out=("streaming", "on_bad_image", "qrels"))
    split: str = option(
        "Split of --dataset whose images are indexed.", "test", panel=MODEL_AND_DATA, metavar="SPLIT", complete="split"
    )
    embeddings: Path | None = option(
        "Parquet file of embeddings, a directory of such files, or a directory that `icclip embed --shards` wrote.", None,
        panel=MODEL_AND_DATA, metavar="PATH", complete="file",
    )  # fmt: skip
    no_thumbnails: bool = option("Leave the thumbnails of the images out of the index.", False, panel=OUTPUT)
    on_bad_image: OnBadImage = option(
        "What to do with an image that cannot be read: stop, or leave it out and count it.", "fail"
    )
    batch_size: int = option(BATCH_TEXT, 32, panel=BATCH, flags=("--batch-size", "--eval-bs"), metavar="N", at_least=1)

    def problems(self) -> list[str]:
        """Nothing to index, or several things."""
        given = [bool(self.images), self.embeddings is not None, self.data is not None]
        return [] if sum(given) == 1 else ["give one of: --images PATH, --dataset D, --embeddings PATH"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig(Config):
    """A new index."""

    encoder: EncoderConfig = nested()
    items: ItemsConfig = nested(ItemsConfig)
    output: Path = option(
        "Directory to write the index to.",
        Path("index"),
        panel=MODEL_AND_DATA,
        flags=("--output", "-o"),
        metavar="INDEX",
    )
    to: str | None = option(
        "Vector database to write to instead of a FAISS index, such as lancedb://DIRECTORY?table=photos.", None,
        panel=MODEL_AND_DATA, metavar="TARGET",
    )  # fmt: skip
    kind: str | None = option(
        "Kind of index: flat, hnsw, ivf-pq, or a factory string of FAISS.", None, metavar="KIND",
        unset="by the number of items, or by --max-bytes and --min-recall",
    )  # fmt: skip
    stored_as: StoredAs | None = option(
        "Type in which the vectors are stored.", None, flags=("--stored-as",),
        unset="float32, and 8-bit integers behind ivf-pq",
    )  # fmt: skip
    max_bytes: str | None = option(
        "Largest size of the index, such as 500MB; the kind with the best recall that fits is chosen.", None,
        metavar="SIZE",
    )  # fmt: skip
    on_disk: bool = option(
        "Build the lists of an IVF index on the disk and leave them there, so that memory does not grow with the items.",
        False,
    )
    min_recall: float | None = option(
        "Lowest recall@10 against exact search, for both text and image queries, that passes the gate; the smallest kind "
        "that reaches it is chosen.",
        None, panel=MEASURE, above=0, at_most=1, metavar="FRACTION", unset=f"{LEAST_RECALL}, and the kind is not chosen by it",
    )  # fmt: skip
    queries: Path | None = option(
        "UTF-8 file of texts, one per line, used to train and to measure the index.", None, panel=MEASURE,
        metavar="FILE", complete="file", unset="the captions of the dataset, or phrases that icclip brings along",
    )  # fmt: skip
    n_queries: int = option(
        "Number of queries of each kind (text and image) used to measure the index.", 1000, panel=MEASURE, at_least=1
    )
    gate: Literal["on", "off"] = option("Whether the index is measured before it is kept.", "on", panel=MEASURE)
    seed: int = option("Seed for the sample of queries and for the intervals.", 42, panel=MEASURE, at_least=0)
    overwrite: bool = option("Replace the index if there is one already.", False, panel=RUN)

    def problems(self) -> list[str]:
        """Sizes that cannot be read, and a kind that is both named and left to be chosen."""
        found = []
        if self.max_bytes is not None and bytes_of(self.max_bytes) is None:
            found.append(f"{{max_bytes}} is {self.max_bytes!r}: write it as 500MB or 2GB")
        if self.kind is not None and self.max_bytes is not None:
            found.append("{kind} and {max_bytes} exclude each other: the size chooses the kind")
        if self.on_disk and (self.max_bytes or self.stored_as or self.to):
            found.append(
                "{on_disk} takes no {max_bytes}, {stored_as} or {to}: name another type with {kind}, such as IVF4096,SQfp16"
            )
        if self.to is not None and (self.kind or self.max_bytes or self.min_recall):
            found.append("{to} takes no {kind}, {max_bytes} or {min_recall}: the database decides")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class AddConfig(Config):
    """More items for an index that is there."""

    index: Path = argument("Directory that `icclip index` wrote.", complete="file")
    model: str | None = option(
        "Directory or hub id of the encoder, if it has moved since the index was built.", None, panel=MODEL_AND_DATA, metavar="MODEL",
        complete="file",
    )  # fmt: skip
    encoder: EncoderConfig | None = nested(None, leave_out=("checkpoint",))
    items: ItemsConfig = nested(ItemsConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveConfig(Config):
    """Items that leave an index."""

    index: Path = argument("Directory that `icclip index` wrote.", complete="file")
    paths: tuple[str, ...] = argument("Paths of the items to remove, as the index names them.", ())
    where: str | None = option(
        "Condition on the items to remove, such as 'width < 200'.", None, flags=("--filter",), metavar="CONDITION"
    )
    missing: bool = option("Remove the items whose file is no longer there.", False)

    def problems(self) -> list[str]:
        """Nothing to remove."""
        given = [bool(self.paths), self.where is not None, self.missing]
        return [] if sum(given) == 1 else ["give one of: paths, {where} CONDITION, {missing}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoConfig(Config):
    """An index that is looked at."""

    index: Path = argument("Directory that `icclip index` wrote.", complete="file")
