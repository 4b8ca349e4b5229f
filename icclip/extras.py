"""Which extra brings a module that is not installed."""

from __future__ import annotations

from collections.abc import Mapping

from icclip.errors import MissingExtraError

TRAIN = "pip install 'icclip[train]'"
EXPORT = "pip install 'icclip[export]'"
ONNX = "pip install 'icclip[onnx]'"
INSTALL: Mapping[str, str] = {
    **dict.fromkeys(
        ("accelerate", "datasets", "filelock", "pyarrow", "safetensors", "sentencepiece", "tensorboard", "torch", "transformers"),
        TRAIN,
    ),
    "peft": "pip install 'icclip[lora]'",
    "onnx": EXPORT,
    "optimum": EXPORT,
    "onnxruntime": ONNX,
}  # fmt: skip
"""Top-level module -> the command that installs it."""


def missing_extra(error: ModuleNotFoundError, what: str) -> MissingExtraError | None:
    """The error that says what to install; None where the module belongs to no extra, which is a fault of ours.

    Args:
        error: what an import raised.
        what: what needs the module, for the message: `icclip train`.
    """
    module = (error.name or "").partition(".")[0]
    return MissingExtraError(what, [module], INSTALL[module]) if module in INSTALL else None
