"""A Python in which only the base dependencies can be imported, as after `pip install icclip`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HIDDEN = (
    "accelerate", "boto3", "botocore", "datasets", "faiss", "fastapi", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "optimum", "pandas", "peft", "prometheus_client", "pyarrow", "ray",
    "safetensors", "scipy", "sentencepiece", "sklearn", "starlette", "tensorboard", "torch", "torchvision", "transformers", "uvicorn",
)  # fmt: skip

# What is hidden looks as if it were not installed, to `import` and to `importlib.util.find_spec` alike.
SITE = """\
from importlib.machinery import PathFinder

_found = PathFinder.find_spec


def _find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden!r} else _found(name, path, target)


PathFinder.find_spec = classmethod(_find_spec)
"""


def run_light(
    place: Path, *arguments: object, env: Mapping[str, str] | None = None, hidden: tuple[str, ...] = HIDDEN
) -> subprocess.CompletedProcess[str]:
    """`icclip` with these arguments in the directory `place`, in such a Python."""
    site = place / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE.format(hidden=hidden), encoding="utf-8")
    paths = [str(site), *(path for path in sys.path if path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "ICCLIP_CACHE": str(place), **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "icclip", *map(str, arguments)],
        cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
