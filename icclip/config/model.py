"""The configuration of a model: which one is trained, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from icclip.config.base import Config
from icclip.config.declare import MODEL_AND_DATA, REQUIRED, SCHEDULE, option

TRUST = "Run Python code that the repository of the model or dataset contains."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Config):
    """Which model is trained, and how it is loaded."""

    name: str = option(
        "Model to start from: a Hugging Face hub id, a local directory, or a built-in preset such as clip-tiny.",
        REQUIRED, panel=MODEL_AND_DATA, flags=("--model", "--model-name", "-m"), metavar="MODEL", complete="model",
    )  # fmt: skip
    revision: str | None = option(
        "Branch, tag or commit of a model from the hub.", None, panel=MODEL_AND_DATA, metavar="REVISION", unset="main"
    )
    tokenizer: str | None = option(
        "Directory or hub id of a tokenizer to use with a preset.", None, panel=MODEL_AND_DATA,
        unset="one is trained on the captions",
    )  # fmt: skip
    image_resize: int | None = option(
        "Side in pixels of the images that the model sees; it is saved with the processor.", None,
        panel=MODEL_AND_DATA, metavar="PIXELS", at_least=16, unset="as in the checkpoint",
    )  # fmt: skip
    attention: Literal["sdpa", "eager"] = "sdpa"
    seed: int = option("Seed of a preset's initial weights.", 42, panel=SCHEDULE, at_least=0)
    trust_remote_code: bool = option(TRUST, False, panel=MODEL_AND_DATA)
