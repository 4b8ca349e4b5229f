"""Do encoders that were trained on real photographs survive export? Both families, every precision, on Flickr8k.

    python benchmarks/flickr8k_parity.py [DATASET] [EPOCHS]     e.g. flickr8k@copies/flickr8k 5

Trains the two presets, exports them in every precision through the gate on the 1,000 test images, prints
the gate's tables, and writes flickr8k_parity.json beside itself. Ten minutes a family on two CPU cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODELS = ("clip-tiny", "siglip-tiny")
PRECISIONS = ("fp32", "fp16", "int8")
RECALLS = tuple(f"{way}_R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))


def main(dataset: str = "flickr8k", epochs: str = "5") -> None:
    """Train, export, print, write."""
    with tempfile.TemporaryDirectory() as name:
        found = {model: _export(model, dataset, epochs, Path(name)) for model in MODELS}
    summary = {"epochs": int(epochs), "models": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(one["passed"] for one in found.values()))


def _export(model: str, dataset: str, epochs: str, place: Path) -> dict[str, Any]:
    run, bundle = place / f"{model}-run", place / model
    _icclip("train", "--model", model, "--dataset", dataset, "--epochs", epochs, "--output-dir", run)
    precisions = [word for name in PRECISIONS for word in ("--precision", name)]
    # A bundle that fails is a result too.
    _icclip("export", run, "--output-dir", bundle, *precisions, check=False)
    kept = bundle if bundle.exists() else bundle.with_name(f"{bundle.name}.failed")
    return _summary(kept, json.loads((kept / "parity.json").read_text(encoding="utf-8")))


def _icclip(*arguments: object, check: bool = True) -> None:
    subprocess.run([sys.executable, "-m", "icclip", *map(str, arguments)], check=check)


def _summary(bundle: Path, parity: Mapping[str, Any]) -> dict[str, Any]:
    results = parity["results"]
    return {
        "images": parity["n_images"],
        "captions": parity["n_texts"],
        "passed": all(result["passed"] for result in results),
        "checkpoint": {key: parity["reference"][key] for key in RECALLS},
        "precisions": {result["precision"]: _precision(bundle, parity, result) for result in results},
    }


def _precision(bundle: Path, parity: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    graphs = json.loads((bundle / "icclip.json").read_text(encoding="utf-8"))["precisions"][result["precision"]]
    return {
        "provider": result["provider"],
        "passed": result["passed"],
        "failures": result["failures"],
        "bytes": sum((bundle / graph).stat().st_size for graph in graphs.values()),
        "attempts": result["attempts"],
        "search": result["search"],
        "recall_change": {key: result["metrics"][key] - parity["reference"][key] for key in RECALLS},
        "towers": {tower: _scalars(values) for tower, values in result["measured"]["towers"].items()},
        "rankings": result["measured"]["rankings"],
    }


def _scalars(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in values.items() if isinstance(value, float)}


if __name__ == "__main__":
    main(*sys.argv[1:])
