"""The configuration of `icclip embed`: the inputs, the encoder and the output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.data import DatasetConfig, OnBadImage
from icclip.config.declare import BATCH, MODEL_AND_DATA, RUN, argument, nested, option
from icclip.config.encoder import EncoderConfig
from icclip.config.evaluating import EVAL_BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig(Config):
    """The inputs (either image files, a file of texts or a dataset), the encoder and the output."""

    encoder: EncoderConfig = nested()
    images: tuple[Path, ...] = argument("Image files, directories with all images below them, and patterns.", ())
    texts: Path | None = option(
        "UTF-8 file of texts to embed, one per line.", None, panel=MODEL_AND_DATA, metavar="FILE"
    )
    data: DatasetConfig | None = nested(None, leave_out=("streaming", "relevance", "qrels"))
    split: str = option(
        "Split of --dataset whose images are embedded.", "test", panel=MODEL_AND_DATA, metavar="SPLIT", complete="split"
    )
    output: Path = option(
        "File to write: .npy, or .parquet with the inputs beside their embeddings.", Path("embeddings.npy"),
        panel=MODEL_AND_DATA, flags=("--output", "-o"), metavar="FILE",
    )  # fmt: skip
    batch_size: int = option(
        EVAL_BATCH.replace("images", "inputs"), 32, panel=BATCH, flags=("--batch-size", "--eval-bs"), metavar="N",
        at_least=1,
    )  # fmt: skip

    on_bad_image: OnBadImage = option(
        "What to do with an image that cannot be read: stop, or leave it out and list it.", "fail"
    )
    resume: bool = option("Continue where the same command was interrupted.", False, panel=RUN, resume="free")

    def problems(self) -> list[str]:
        """Report if there is nothing to embed, or several kinds of inputs."""
        given = [bool(self.images), self.texts is not None, self.data is not None]
        return [] if sum(given) == 1 else ["give one of: image files, --texts FILE, --dataset D"]
