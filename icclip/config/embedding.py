"""The configuration of `icclip embed`: the inputs, the encoder and the output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icclip.config.base import Config
from icclip.config.data import DatasetConfig, OnBadImage
from icclip.config.declare import BATCH, MODEL_AND_DATA, RUN, SHARDS, argument, nested, option
from icclip.config.encoder import EncoderConfig
from icclip.config.evaluating import EVAL_BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig(Config):
    """The inputs (either image files, a file of texts or a dataset), the encoder and the output."""

    encoder: EncoderConfig = nested()
    images: tuple[Path, ...] = argument(
        "Image files, directories with all images below them, and patterns; with --shards also .tar and .parquet files, and "
        "URLs such as s3://bucket/folder.",
        (),
    )
    texts: Path | None = option(
        "UTF-8 file of texts to embed, one per line.", None, panel=MODEL_AND_DATA, metavar="FILE"
    )
    data: DatasetConfig | None = nested(None, leave_out=("streaming", "relevance", "qrels"))
    split: str = option(
        "Split of --dataset whose images are embedded.", "test", panel=MODEL_AND_DATA, metavar="SPLIT", complete="split"
    )
    output: Path = option(
        "File to write: .npy, or .parquet with the inputs beside their embeddings; with --shards a directory.",
        Path("embeddings.npy"), panel=MODEL_AND_DATA, flags=("--output", "-o"), metavar="PATH",
    )  # fmt: skip
    batch_size: int = option(
        EVAL_BATCH.replace("images", "inputs"), 32, panel=BATCH, flags=("--batch-size", "--eval-bs"), metavar="N",
        at_least=1,
    )  # fmt: skip

    on_bad_image: OnBadImage = option(
        "What to do with an image that cannot be read: stop, or leave it out and list it.", "fail"
    )
    fast_jpeg: bool = option(
        "Decode large JPEG files at a half, a quarter or an eighth of their size, at least four times the model's: faster, but "
        "at sharp edges pixels differ by some grey levels.", False, panel=BATCH,
    )  # fmt: skip
    captions: bool = option(
        "Embed the captions of the images as well: .txt files in archives, a column of tables; needs --shards.", False
    )
    resume: bool = option(
        "Continue where the same command was interrupted; with --shards it always does.",
        False,
        panel=RUN,
        resume="free",
    )
    shards: int | None = option(
        "Write a directory of N shards; the name of each input decides its shard.", None, panel=SHARDS, metavar="N",
        at_least=1, at_most=1_000_000, unset="one file",
    )  # fmt: skip
    shard: int | None = option(
        "Embed only this shard, counted from 0.",
        None,
        panel=SHARDS,
        metavar="I",
        at_least=0,
        unset="all shards in turn",
    )
    engine: Literal["local", "ray"] = option(
        "Where the shards are embedded: here, or on a cluster of Ray.", "local", panel=SHARDS
    )
    address: str | None = option(
        "Address of a running cluster of Ray, such as auto or ray://host:10001.", None, panel=SHARDS, metavar="ADDRESS",
        unset="a cluster of this machine, for this command",
    )  # fmt: skip
    actors: int | None = option(
        "Number of Ray's actors, each with an encoder of its own.", None, panel=SHARDS, metavar="N", at_least=1,
        unset="as many as the cluster has room for",
    )  # fmt: skip
    actor_cpus: float = option("CPUs of each actor.", 1.0, panel=SHARDS, metavar="N", at_least=0)
    actor_gpus: float = option("GPUs of each actor.", 0.0, panel=SHARDS, metavar="N", at_least=0)

    def problems(self) -> list[str]:
        """Nothing to embed, several kinds of inputs, and options that do not go together."""
        given = [bool(self.images), self.texts is not None, self.data is not None]
        found = [] if sum(given) == 1 else ["give one of: image files, --texts FILE, --dataset D"]
        if self.fast_jpeg and (not self.images or self.shards is not None):
            found.append("{fast_jpeg} is for image files, without {shards}")
        return found + (self._alone() if self.shards is None else self._in_shards(self.shards))

    def _alone(self) -> list[str]:
        asked = {"shard": self.shard is not None, "captions": self.captions, "engine": self.engine == "ray"}
        return [f"{{{name}}} needs {{shards}} N and -o DIRECTORY" for name, wrong in asked.items() if wrong]

    def _in_shards(self, shards: int) -> list[str]:
        found = [] if self.images else ["{shards} takes images, .tar and .parquet files, not {texts} or --dataset"]
        if self.output.suffix in (".npy", ".parquet"):
            found.append(f"{{shards}} writes a directory: give -o a name without {self.output.suffix}")
        if self.shard is not None and self.shard >= shards:
            found.append(f"{{shard}} is {self.shard}: with {shards} shards the last is {shards - 1}")
        if self.engine == "ray":
            return found + (["{engine} ray embeds all shards: leave out {shard}"] if self.shard is not None else [])
        return found + [
            f"{{{name}}} needs {{engine}} ray" for name in ("address", "actors") if getattr(self, name) is not None
        ]
