"""One evaluation of a checkpoint or bundle on a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.data import AS_TRAINED, DatasetConfig
from icclip.config.declare import BATCH, MEASURE, MODEL_AND_DATA, nested, option
from icclip.config.encoder import EncoderConfig

EVAL_BATCH = "Number of images that are encoded at once."
BATCH_FLAGS = ("--eval-bs", "--batch-size")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(Config):
    """One evaluation of a checkpoint or bundle on a split."""

    encoder: EncoderConfig = nested()
    data: DatasetConfig = nested(leave_out=("streaming",), unset=AS_TRAINED)
    split: str = option(
        "Split to measure: train, validation or test.", "test", panel=MODEL_AND_DATA, metavar="SPLIT", complete="split",
        unset="test, or that of a bundle's parity gate",
    )  # fmt: skip
    output_dir: Path | None = option(
        "Directory for the file of metrics.", None, panel=MODEL_AND_DATA, flags=("--output-dir", "-o"), metavar="DIR",
        unset="the run, or eval/MODEL-DATASET",
    )  # fmt: skip
    eval_bs: int = option(
        EVAL_BATCH, 128, panel=BATCH, flags=BATCH_FLAGS, metavar="N", at_least=1, unset="as in the run, or 128"
    )
    bootstrap: int = option(
        "Number of resamples behind the 95 % intervals; 0 leaves the intervals out.", 1000, panel=MEASURE,
        metavar="N", at_least=0,
    )  # fmt: skip
    at: tuple[int, ...] = option(
        "Further numbers K of R@K, with commas between them.", (), panel=MEASURE, metavar="K,K", separated=True, at_least=1,
        unset="1, 5 and 10 alone",
    )  # fmt: skip
    folds: int | None = option(
        "Also report the mean over N disjoint folds of the images, each with its own captions alone: 5 for COCO's 1K protocol.",
        None, panel=MEASURE, metavar="N", at_least=2,
    )  # fmt: skip
    one_caption: bool = option(
        "Measure with the first caption of each image alone. The numbers are not those of the usual protocol.", False,
        panel=MEASURE,
    )  # fmt: skip
    within: bool = option(
        "Also measure retrieval of images by images that share a caption, and of captions by captions of the same image.", False,
        panel=MEASURE,
    )  # fmt: skip
    seed: int = option("Seed of the resamples.", 42, panel=MEASURE, at_least=0)
    metrics: tuple[str, ...] = option(
        "Metric of a plugin to compute in addition to the default ones; may be repeated.", (), panel=MEASURE,
        flags=("--metric",), metavar="NAME", separated=True, complete="metric",
    )  # fmt: skip
    zero_shot: bool = option(
        "Measure zero-shot classification instead of retrieval: --dataset is a directory with a folder of images per class.",
        False, panel=MEASURE,
    )  # fmt: skip
    templates: Path | None = option(
        "File of prompts for --zero-shot: one per line, with {} for the name of the class.", None, panel=MEASURE, metavar="FILE",
        complete="file", unset="seven of icclip's own",
    )  # fmt: skip
    against: str | None = option(
        "Model to compare with in --zero-shot, image by image; base is the model that the run began with.", None, panel=MEASURE,
        metavar="MODEL", complete="file",
    )  # fmt: skip

    def problems(self) -> list[str]:
        """Options of retrieval with zero-shot classification, or the other way round."""
        strange = ("at", "metrics", "folds", "one_caption", "within") if self.zero_shot else ("templates", "against")
        about = (
            "about retrieval: leave it out, or leave out"
            if self.zero_shot
            else "about classification: leave it out, or add"
        )
        found = [f"{{{name}}} is {about} {{zero_shot}}" for name in strange if getattr(self, name)]
        if self.data.qrels:
            about = "is about all captions and images of the split: leave it out, or leave out the judgements (--qrels)"
            found += [f"{{{name}}} {about}" for name in ("folds", "one_caption") if getattr(self, name)]
        if self.against and not self.bootstrap:
            found.append("{bootstrap} is 0: {against} needs the intervals of the differences, so give at least 1")
        return found

    @property
    def checkpoint(self) -> str:
        """The checkpoint that is measured."""
        return self.encoder.checkpoint
