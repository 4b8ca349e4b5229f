"""What the GPU benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.checkpoints import preset, write_base
from benchmarks.support.timing import environment, write
from icclip.config import ModelConfig
from icclip.models.encoder import choose_device
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry

PEAK_BF16 = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense products in bf16, operations a second, from the vendor's data sheets; by part of the device's name."""
PACKAGES = (
    *("icclip", "torch", "transformers", "accelerate", "datasets", "open-clip-torch"),
    *("onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "optimum-onnx"),
)


def parser(description: str | None) -> argparse.ArgumentParser:
    """`--device cpu --size tiny` shows anywhere that a script works, and writes no result."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cuda")
    made.add_argument("--size", choices=("base", "tiny"), default="base")
    made.add_argument("--minutes", type=float, default=8.0, help="no new measurement is begun after so many")
    return made


def loaded(family: str, size: str, folder: Path) -> LoadedModel:
    """ViT-B/16 with random weights, or the preset."""
    registry = Registry.from_environment()
    start = preset(registry, family)
    if size == "tiny":
        start.save(folder)
    else:
        write_base(folder, family, start.feeder.processor.tokenizer, patch_size=16)
    return open_model(registry, ModelConfig(name=str(folder)))


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if choose_device(device).type == "cuda" else "cpu"


def peak(device: str) -> float | None:
    """bf16 operations a second that the device can do; None: not known."""
    name = device_name(device)
    return next((value for part, value in PEAK_BF16.items() if part in name), None)


def synchronize(device: str) -> None:
    """Wait until the device has done what it was told."""
    if choose_device(device).type == "cuda":
        torch.cuda.synchronize()


def write_result(script: str, options: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Beside the script; a trial run leaves nothing."""
    if options.size == "tiny" or device_name(options.device) == "cpu":
        print("a trial run: nothing written")
        return
    about = {"device": device_name(options.device), "cuda": torch.version.cuda, **environment(*PACKAGES)}
    write(script, {"about": about, **result})
