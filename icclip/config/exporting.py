"""One export of a checkpoint, and the split that it is proven on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icclip.config.base import Config
from icclip.config.data import AS_TRAINED, DatasetConfig
from icclip.config.declare import MEASURE, MODEL_AND_DATA, PRECISION, REQUIRED, RUN, nested, option
from icclip.config.encoder import MODEL_ONLY, EncoderConfig, Provider

ExporterName = Literal["auto", "optimum", "torch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig(Config):
    """One export of a checkpoint, and the split that it is proven on."""

    encoder: EncoderConfig = nested(leave_out=("precision", "threads"), help=MODEL_ONLY)
    data: DatasetConfig = nested(leave_out=("streaming",), unset=AS_TRAINED)
    output_dir: Path = option(
        "Directory that the bundle is written to once it passes the parity gate.", REQUIRED, panel=MODEL_AND_DATA,
        flags=("--output-dir", "-o"), metavar="DIR",
    )  # fmt: skip
    target: str = option("Export target: onnx, tensorrt or openvino.", "onnx", panel=MODEL_AND_DATA, complete="target")
    exporter: ExporterName = option(
        "What writes the graphs: optimum, torch (its dynamo exporter), or auto, which is optimum where it is installed "
        "and made for the installed transformers, and torch elsewhere.",
        "auto", panel=MODEL_AND_DATA, metavar="EXPORTER",
    )  # fmt: skip
    precisions: tuple[str, ...] = option(
        "Precision to export: fp32, fp16, int8, or bf16 for the target openvino; may be repeated.", ("fp32",), panel=PRECISION,
        flags=("--precision",), metavar="PRECISION", separated=True, switches=("fp32", "fp16", "bf16"), complete="variant",
    )  # fmt: skip
    split: str = option(
        "Split that the bundle is proven on.", "test", panel=MODEL_AND_DATA, metavar="SPLIT", complete="split"
    )
    sample: int = option(
        "Number of images that are compared if the split has more.", 1000, panel=MEASURE, metavar="N", at_least=1
    )
    seed: int = option("Seed of the sample.", 42, panel=MEASURE, at_least=0)
    thresholds: Mapping[str, float] = option(
        "Replace a threshold of the parity gate for every precision, such as drop_r1=0.02; may be repeated.", dict,
        panel=MEASURE, flags=("--threshold",), metavar="NAME=NUMBER",
    )  # fmt: skip
    overwrite: bool = option("Replace the bundle that is in the directory.", False, panel=RUN)

    def problems(self) -> list[str]:
        """Report precisions that are missing or named twice."""
        found = [] if self.precisions else ["{precisions} is empty: give at least one"]
        twice = sorted({name for name in self.precisions if self.precisions.count(name) > 1})
        return found + [f"{{precisions}} names {name!r} twice: leave one out" for name in twice]

    @property
    def checkpoint(self) -> str:
        """The checkpoint that is exported."""
        return self.encoder.checkpoint

    @property
    def revision(self) -> str | None:
        """The revision of a checkpoint from the hub."""
        return self.encoder.revision

    @property
    def device(self) -> str | None:
        """The device on which PyTorch runs the checkpoint."""
        return self.encoder.device

    @property
    def workers(self) -> int | None:
        """The number of processes that load images for the checkpoint."""
        return self.encoder.workers

    @property
    def provider(self) -> Provider | None:
        """The execution provider that the bundle must run on; None means the first that works."""
        return self.encoder.provider

    @property
    def trust_remote_code(self) -> bool:
        """Whether code of the checkpoint's repository may run."""
        return self.encoder.trust_remote_code
