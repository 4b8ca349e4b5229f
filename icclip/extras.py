"""Find the extra that installs a missing module."""

from __future__ import annotations

from collections.abc import Mapping

from icclip.errors import MissingExtraError

TRAIN = "pip install 'icclip[train]'"
EXPORT = "pip install 'icclip[export]'"
EXPORT_OPTIMUM = "pip install 'icclip[export-optimum]'"
ONNX = "pip install 'icclip[onnx]'"
SAGEMAKER = "pip install 'icclip[sagemaker]'"
SERVE = "pip install 'icclip[serve]'"
SEARCH = "pip install 'icclip[search]'"
INSTALL: Mapping[str, str] = {
    **dict.fromkeys(
        ("accelerate", "datasets", "filelock", "pyarrow", "safetensors", "sentencepiece", "tensorboard", "torch", "transformers"),
        TRAIN,
    ),
    "peft": "pip install 'icclip[lora]'",
    **dict.fromkeys(("onnx", "onnx_ir", "onnxscript"), EXPORT),
    "optimum": EXPORT_OPTIMUM,
    "onnxruntime": ONNX,
    **dict.fromkeys(("boto3", "botocore", "yaml"), SAGEMAKER),
    "faiss": SEARCH,
    "ray": "pip install 'icclip[ray]'",
    "lancedb": "pip install 'icclip[lancedb]'",
    **dict.fromkeys(("fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"), SERVE),
}  # fmt: skip
"""Top-level module -> the command that installs it."""


def missing_extra(error: ModuleNotFoundError, what: str) -> MissingExtraError | None:
    """Make the error that names what to install; None if the module belongs to no extra, which is a bug.

    Args:
        error: the error that an import raised.
        what: what needs the module, for the message, such as `icclip train`.
    """
    module = (error.name or "").partition(".")[0]
    return MissingExtraError(what, [module], INSTALL[module]) if module in INSTALL else None
