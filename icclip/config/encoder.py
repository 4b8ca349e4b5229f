"""The configuration of an encoder: the same options for every command that opens one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from icclip.config.base import Config
from icclip.config.declare import MODEL_AND_DATA, PRECISION, argument, option
from icclip.config.model import TRUST
from icclip.config.problems import Problem
from icclip.errors import ConfigError

Precision = Literal["fp32", "fp16", "bf16"]
Provider = Literal["tensorrt", "cuda", "cpu"]

AUTOCASTS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")

MODEL_ONLY = {"checkpoint": "Run directory, directory of a transformers model, or hub id."}
"""For commands that cannot take a bundle."""
DEVICE = "PyTorch device: cpu, cuda, cuda:1 or mps."
WORKERS = "Number of processes that load images."
CORES = "from the number of cores"
GPU = "the GPU if there is one"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig(Config):
    """Which checkpoint or bundle is opened, and how it runs."""

    checkpoint: str = argument(
        "Run directory, directory of a transformers model, hub id, or exported bundle.", complete="file"
    )
    revision: str | None = option(
        "Branch, tag or commit of a model from the hub.", None, panel=MODEL_AND_DATA, metavar="REVISION", unset="main"
    )
    precision: str | None = option(
        "Precision to compute in: the autocast of a checkpoint in PyTorch (fp32, fp16 or bf16), or the variant "
        "of a bundle (fp32, fp16, bf16 or int8).",
        None, panel=PRECISION, metavar="PRECISION", unset="fp32, or that of the run", switches=("fp32", "fp16", "bf16"), complete="precision",
    )  # fmt: skip
    device: str | None = option(DEVICE, None, panel=PRECISION, metavar="DEVICE", unset=GPU)
    provider: Provider | None = option(
        "Execution provider that runs a bundle: tensorrt, cuda or cpu.", None, panel=PRECISION, metavar="PROVIDER",
        unset="the first of these that works",
    )  # fmt: skip
    threads: int | None = option(
        "CPU threads that run a bundle.", None, panel=PRECISION, metavar="N", at_least=1, unset="the physical cores"
    )
    workers: int | None = option(WORKERS, None, panel=PRECISION, metavar="N", at_least=0, unset=CORES)
    trust_remote_code: bool = option(TRUST, False, panel=MODEL_AND_DATA)

    @property
    def autocast(self) -> Precision:
        """The precision of a checkpoint in PyTorch.

        Raises:
            ConfigError: only bundles have this precision.
        """
        for precision in AUTOCASTS:
            if precision == (self.precision or "fp32"):
                return precision
        known = ", ".join(AUTOCASTS)
        text = f"{{precision}} is {self.precision!r}: a checkpoint runs in one of {known}, and only a bundle in another"
        raise ConfigError([Problem.of(text, type(self), "")])
