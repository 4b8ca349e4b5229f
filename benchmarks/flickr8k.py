"""The whole job on real photographs: both presets trained on Flickr8k, evaluated, exported through the gate.

    python -m benchmarks.flickr8k [--dataset flickr8k@PATH] [--epochs 20] [--runs DIR]

Trains from scratch, evaluates the run's directory alone, exports it in every precision, each proven on the
1,000 test images, prints the commands' own tables, and writes flickr8k.json beside itself. About ten minutes a
family on two CPU cores; runs that are in DIR already, by the name of their preset, are not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.support.timing import environment, write

MODELS = ("clip-tiny", "siglip-tiny")
PRECISIONS = ("fp32", "fp16", "int8")
RECALLS = tuple(f"{way}_R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))


def main() -> None:
    """Train, evaluate, export, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="flickr8k", help="as `icclip train` takes it")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--runs", type=Path, help="where the runs are, or are made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        runs = options.runs or place / "runs"
        for model in MODELS:
            if not (runs / model).exists():
                _icclip("train", "--model", model, "--dataset", options.dataset, "--epochs", options.epochs,
                        "--output-dir", runs / model)  # fmt: skip
        found = {model: _proven(runs / model, options.dataset, place / model) for model in MODELS}
    about = environment("icclip", "torch", "transformers", "optimum-onnx", "onnxruntime")
    write(__file__, {"about": about, "models": found})
    sys.exit(not all(one["passed"] and one["evaluated_again_the_same"] for one in found.values()))


def _proven(run: Path, dataset: str, bundle: Path) -> dict[str, Any]:
    again = bundle.with_name(f"{bundle.name}-again")
    _icclip("eval", run, "--dataset", dataset, "--output-dir", again)
    precisions = [word for name in PRECISIONS for word in ("--precision", name)]
    # A bundle that fails is a result too.
    _icclip("export", run, "--output-dir", bundle, *precisions, check=False)
    kept = bundle if bundle.exists() else bundle.with_name(f"{bundle.name}.failed")
    return {**_training(run, again), **_summary(kept, _read(kept / "parity.json"))}


def _training(run: Path, again: Path) -> dict[str, Any]:
    """How the run went, and whether a second evaluation of its directory says the same."""
    record = _read(run / "icclip.json")
    metrics, repeated = (_read(place / "test_metric.json") for place in (run, again))
    numbers = {key: value for key, value in metrics.items() if isinstance(value, float)}
    return {
        "epochs": record["config"]["epochs"],
        "seconds": record["result"]["seconds"],
        "evaluated_again_the_same": numbers == {key: repeated[key] for key in numbers},
        "rsum": metrics["rsum"],
        "rsum_95": metrics["confidence_95"]["rsum"],
    }


def _icclip(*arguments: object, check: bool = True) -> None:
    subprocess.run([sys.executable, "-m", "icclip", *map(str, arguments)], check=check)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


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
    graphs = _read(bundle / "icclip.json")["precisions"][result["precision"]]
    return {
        "provider": result["provider"],
        "passed": result["passed"],
        "failures": result["failures"],
        "bytes": sum((bundle / graph).stat().st_size for graph in (graphs["vision"], graphs["text"])),
        "attempts": result["attempts"],
        "search": result["search"],
        "recall_change": {key: result["metrics"][key] - parity["reference"][key] for key in RECALLS},
        "towers": {tower: _scalars(values) for tower, values in result["measured"]["towers"].items()},
        "rankings": result["measured"]["rankings"],
    }


def _scalars(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in values.items() if isinstance(value, float)}


if __name__ == "__main__":
    main()
