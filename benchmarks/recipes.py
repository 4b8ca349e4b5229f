"""What helps when two pretrained towers are fine-tuned? The same start, the same number of images seen, three seeds.

    python -m benchmarks.recipes --start START --dataset flickr8k@PATH [--seen 30000] [--seeds 1 2 3] [--rows NAME...] [--keep DIR]

START is a checkpoint whose projections have been trained (`icclip train --freeze both`): from there each row trains
`--seen` images, and its best checkpoint is measured on the test split, with 95 % intervals (bootstrap over images).
Rows whose vision tower is frozen read its features from the cache; those that train it cost about ten times as much, and
are left out unless `--vision` is given. What recipes.json has is not run again, so that the script can be stopped and
started; `--keep` keeps the run directories. Each run is also compared with the seed project's of the same seed, image by
image (`icclip compare`). Writes recipes.json after each run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.timing import environment, rounded, show, write

RESULT = Path(__file__).with_suffix(".json")
FROZEN = ("--freeze", "vision", "--cache-features", "on")
LARGE = (*FROZEN, "--train-bs", 512, "--micro-batch", 64, "--lr", 2e-4)
START = "the start: projections alone"
SEEDS_OWN = "seed project's (64 x 4, lr 1e-5, decays everything), vision frozen"
SEED_PROJECT = ("--train-bs", 64, "--grad-accum", 4, "--lr", 1e-5)
DECAYS_EVERYTHING = "decays everything"

ROWS: Mapping[str, Sequence[object]] = {
    SEEDS_OWN: (*FROZEN, *SEED_PROJECT, DECAYS_EVERYTHING),
    "64 x 4 accumulated, lr 2e-4": (*FROZEN, "--train-bs", 64, "--grad-accum", 4, "--lr", 2e-4),
    "256 exact": (*FROZEN, "--train-bs", 256, "--micro-batch", 64, "--lr", 2e-4),
    "512 exact": LARGE,
    "1,024 exact": (*FROZEN, "--train-bs", 1024, "--micro-batch", 64, "--lr", 2e-4),
    "512, LoRA 8": (*LARGE, "--lr", 1e-3, "--lora-rank", 8),
    "512, LoRA 32": (*LARGE, "--lr", 1e-3, "--lora-rank", 32),
    "512, last 2 blocks of the text tower": (*LARGE, "--freeze-blocks", 4),
    "512, layer decay 0.8": (*LARGE, "--layer-decay", 0.8),
    "512, layer decay 0.65": (*LARGE, "--layer-decay", 0.65),
    "512, EMA 0.9": (*LARGE, "--ema", 0.9),
    "512, all captions": (*LARGE, "--captions", "all"),
    "seed project's, both towers train": (*SEED_PROJECT, DECAYS_EVERYTHING),
    "256, vision at a tenth of the rate": ("--train-bs", 256, "--lr", 2e-4, "--vision-lr", 2e-5),
}
"""The options of each row, the later ones winning over the earlier ones."""
BLEND = "512 exact, blended with the start"
GAIN = ("gain", "gain from", "gain to")
TRAINS_VISION = ("seed project's, both towers train", "256, vision at a tenth of the rate")

EVERYTHING = """
import sys
from icclip.cli import main
from icclip.training.step.trainer import ContrastiveTrainer
if sys.argv.pop(1) == "everything":
    ContrastiveTrainer.get_decay_parameter_names = lambda self, model: [name for name, _ in model.named_parameters()]
main(sys.argv[1:])
"""


def main() -> None:
    """Train what is missing, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", required=True)
    parser.add_argument("--dataset", default="flickr8k", help="as `icclip train` takes it")
    parser.add_argument("--seen", type=int, default=30_000, help="images that each run sees")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--keep", type=Path, help="directory for the runs, which are otherwise deleted")
    parser.add_argument("--vision", action="store_true", help="with the rows that train the vision tower")
    options = parser.parse_args()
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"runs": []}
    rows = [row for row in options.rows if options.vision or row not in TRAINS_VISION]
    with tempfile.TemporaryDirectory() as name:
        for seed in options.seeds:
            for row in rows:
                if any((run["recipe"], run["seed"]) == (row, seed) for run in known["runs"]):
                    continue
                known["runs"] += outcomes(options, options.keep or Path(name), row, seed)
                save(known, options)
    show(known["means"])


def save(known: dict[str, Any], options: argparse.Namespace) -> None:
    """Write what there is, with the rows that were not run."""
    done = {run["recipe"] for run in known["runs"]}
    known["about"] = {**environment("icclip", "torch", "transformers"), "images seen": options.seen}
    known["start"] = {"recipe": START, **summary(Path(options.start))}
    known["means"] = [mean(known["runs"], row) for row in (*ROWS, BLEND) if row in done]
    known["not run"] = [row for row in (*ROWS, BLEND) if row not in done]
    write(__file__, known)


def outcomes(options: argparse.Namespace, root: Path, row: str, seed: int) -> list[dict[str, Any]]:
    """A row's run, and what blending it with its start gives."""
    folder, base = (root / f"{seed}-{list(ROWS).index(name)}" for name in (row, SEEDS_OWN))
    found = [{"recipe": row, "seed": seed, **trained(options, folder, row, seed), **gained(base, folder)}]
    if row == "512 exact":
        blended = folder.with_name(f"{folder.name}-blend")
        run("blend", folder, "--output-dir", blended, "--eval-bs", 8)
        run("eval", blended, "--dataset", options.dataset, "--output-dir", blended, "--eval-bs", 8)
        found.append({"recipe": BLEND, "seed": seed, **summary(blended), **gained(base, blended)})
    return found


def gained(base: Path, folder: Path) -> dict[str, float]:
    """By how much rsum differs from that of the seed project's recipe, with the paired 95 % interval."""
    if folder == base or not base.exists():
        return {}
    command = [sys.executable, "-m", "icclip", "compare", base, folder, "--json"]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    rsum = json.loads(done.stdout)["comparisons"][0]["metrics"]["rsum"]
    return {"gain": rounded(rsum["difference"]), "gain from": rounded(rsum["low"]), "gain to": rounded(rsum["high"])}


def trained(options: argparse.Namespace, folder: Path, row: str, seed: int) -> dict[str, Any]:
    """Train in one way."""
    asked = last_ones(ROWS[row])
    step = int(asked.get("--train-bs", 64)) * int(asked.get("--grad-accum", 1))
    steps = max(1, round(options.seen / step))
    arguments = [word for pair in asked.items() for word in pair]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run(
        "train", "--model", options.start, "--dataset", options.dataset, "--output-dir", folder, "--max-steps", steps,
        "--seed", seed, "--report-to", "none", "--workers", 0, "--eval-bs", 8, "--eval-every", 2, *arguments,
        everything=DECAYS_EVERYTHING in ROWS[row],
    )  # fmt: skip
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return {**summary(folder), "steps": steps, "cpu seconds": round(cpu)}


def last_ones(words: Sequence[object]) -> dict[str, Any]:
    """Options by their flag, the last of each."""
    plain = [word for word in words if word != DECAYS_EVERYTHING]
    return dict(zip(map(str, plain[::2]), plain[1::2], strict=True))


def run(*arguments: object, everything: bool = False) -> None:
    """One of icclip's commands."""
    words = ["everything" if everything else "-", *map(str, arguments)]
    # 3: no better than before, which is a result too.
    done = subprocess.run([sys.executable, "-c", EVERYTHING, *words], check=False, env=os.environ)
    if done.returncode not in {0, 3}:
        raise SystemExit(done.returncode)


def summary(folder: Path) -> dict[str, Any]:
    """What the best checkpoint retrieves on the test split."""
    metrics = json.loads((folder / "test_metric.json").read_text(encoding="utf-8"))
    low, high = map(rounded, metrics["confidence_95"]["rsum"])
    names = ("i2t_R@1", "t2i_R@1", "t2i_R@10")
    return {"rsum": rounded(metrics["rsum"]), "95 % from": low, "to": high, **{name: metrics[name] for name in names}}


def mean(runs: Sequence[Mapping[str, Any]], row: str) -> dict[str, Any]:
    """Over the seeds; the interval is the mean of the seeds' intervals."""
    own = [one for one in runs if one["recipe"] == row]
    names = ("rsum", "95 % from", "to", "t2i_R@10", *GAIN * all("gain" in one for one in own))
    average = {name: rounded(statistics.mean(one[name] for one in own)) for name in names}
    spread = statistics.stdev(one["rsum"] for one in own) if len(own) > 1 else 0.0
    return {"recipe": row, "seeds": len(own), **average, "deviation": rounded(spread)}


if __name__ == "__main__":
    main()
