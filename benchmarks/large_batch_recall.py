"""Is one exact batch of 256 better than four accumulated ones of 64? On Flickr8k, three seeds each.

    python -m benchmarks.large_batch_recall [--dataset flickr8k@PATH] [--epochs 10] [--seeds 1 2 3]

All recipes fine-tune the same briefly trained clip-tiny and see the same images as often, within 1 %. Of the first
two only the negatives differ: 63 of each pair against 255, at the same rate, in as many steps (240 and 230). The
third has the exact batch's gradient follow a rate twice as high, the fourth takes a step for each 64 images. An
hour on two CPU cores; `--recipes` takes some, and keeps what the file says of the others.
Writes large_batch_recall.json: rsum on the test split with its 95 % interval (bootstrap over images).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.timing import environment, rounded, show, write

RECIPES = {
    "64 x 4 accumulated": ("--lr", 1e-3, "--train-bs", 64, "--grad-accum", 4),
    "256 exact": ("--lr", 1e-3, "--train-bs", 256, "--micro-batch", 64),
    "256 exact, rate x 2": ("--lr", 2e-3, "--train-bs", 256, "--micro-batch", 64),
    "64, a step for each": ("--lr", 1e-3, "--train-bs", 64),
}
SHARED = ("--eval-every", 5, "--report-to", "none")
RESULT = Path(__file__).with_suffix(".json")


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="flickr8k", help="as `icclip train` takes it")
    parser.add_argument("--base-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        train(base, "clip-tiny", options.dataset, "--epochs", options.base_epochs, "--report-to", "none")
        runs = [
            {"recipe": recipe, "seed": seed, **outcome(base, options, Path(name) / f"{place}-{seed}", recipe, seed)}
            for seed in options.seeds
            for place, recipe in enumerate(options.recipes)
        ]
        start = summary(base)
    runs = sorted([*others(options.recipes), *runs], key=lambda run: list(RECIPES).index(run["recipe"]))
    show([{"recipe": "before", "seed": "", **start}, *runs])
    means = {recipe: mean(runs, recipe) for recipe in dict.fromkeys(run["recipe"] for run in runs)}
    show([{"recipe": recipe, **values} for recipe, values in means.items()])
    about = environment("icclip", "torch", "transformers")
    about |= {"base_epochs": options.base_epochs, "epochs": options.epochs, "options": list(map(str, SHARED))}
    write(__file__, {"about": about, "before": start, "runs": runs, "means": means})


def others(recipes: Sequence[str]) -> list[dict[str, Any]]:
    """The runs of other recipes that were written before."""
    known = json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else []
    return [run for run in known if run["recipe"] not in recipes]


def outcome(base: Path, options: argparse.Namespace, run: Path, recipe: str, seed: int) -> dict[str, Any]:
    """Fine-tune `base` in one way."""
    arguments = (*RECIPES[recipe], *SHARED, "--epochs", options.epochs, "--seed", seed)
    train(run, base, options.dataset, *arguments)
    return summary(run)


def train(run: Path, model: object, dataset: str, *arguments: object) -> None:
    command = ["train", "--model", model, "--dataset", dataset, "--output-dir", run, *arguments]
    # 3: no better than before, which is a result too.
    done = subprocess.run([sys.executable, "-m", "icclip", *map(str, command)], check=False)
    if done.returncode not in {0, 3}:
        raise SystemExit(done.returncode)


def summary(run: Path) -> dict[str, Any]:
    """What a run's best checkpoint retrieves on the test split."""
    metrics = json.loads((run / "test_metric.json").read_text(encoding="utf-8"))
    result = json.loads((run / "icclip.json").read_text(encoding="utf-8"))["result"]
    low, high = map(rounded, metrics["confidence_95"]["rsum"])
    return {
        "rsum": rounded(metrics["rsum"]), "95 % from": low, "to": high, "t2i R@10": metrics["t2i_R@10"],
        "i2t R@10": metrics["i2t_R@10"], "steps": result["steps"], "seconds": result["seconds"],
    }  # fmt: skip


def mean(runs: list[dict[str, Any]], recipe: str) -> dict[str, float]:
    """Over the seeds."""
    found = [run["rsum"] for run in runs if run["recipe"] == recipe]
    deviation = statistics.stdev(found) if len(found) > 1 else 0.0
    return {"mean rsum": rounded(statistics.mean(found)), "standard deviation": rounded(deviation)}


if __name__ == "__main__":
    main()
