"""What helps when two pretrained towers are fine-tuned? The same start, the same number of images seen, three seeds.

    python -m benchmarks.recipes --start START --dataset flickr8k@PATH [--study text|vision] [--seeds 1 2 3] [--parallel 2]

START is a checkpoint whose projections have been trained (`icclip train --freeze both`): from there each row trains, and its
best checkpoint is measured on the test split, with 95 % intervals: over images (bootstrap; of each run), over seeds (Student's t;
of a row), and beside the run of the study's first row that has the same seed, image by image (`icclip compare`).

- `--study text`: the vision tower is frozen, and its features come from the cache. 30,000 images seen.
- `--study vision`: is it worth to train the vision tower as well? An image costs about twenty times as much, so that this study
  sees 6,000: one epoch in batches of 64, whose rate suits so few steps (at 1e-4 half an epoch ends below the start).

`--precision bf16` computes all rows in bf16, which takes half the time on a CPU with AMX. What recipes.json has is not run
again, so that the script can be stopped and started; `--keep` keeps the run directories, which comparisons need then, too.
Writes recipes.json after each run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.timing import environment, rounded, show, write

RESULT = Path(__file__).with_suffix(".json")
START = "the start: projections alone"
BLENDED = "512 exact"
BLEND = "512 exact, blended with the start"
"""Half of the run of `BLENDED` that has the same seed, half of the start."""
GAIN = ("gain", "gain from", "gain to")
DECAYS_EVERYTHING = "decays everything"
NO_BETTER = 3
"""The exit code of a run that ends no better than it began, which is a result too."""

STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""Number of seeds -> the 97.5 % quantile of Student's t with one degree of freedom less."""

FROZEN = ("--freeze", "vision", "--cache-features", "on")
LARGE = (*FROZEN, "--train-bs", 512, "--micro-batch", 64, "--lr", 2e-4)
KEPT, ON = "--freeze-bn-stats", ""
"""A switch, which takes no value."""
SMALL = ("--train-bs", 64, "--lr", 5e-5)
SEED_PROJECT = ("--train-bs", 64, "--grad-accum", 4, "--lr", 1e-5, DECAYS_EVERYTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Rows that are compared with the first of them."""

    seen: int
    """Images that each run sees."""
    rows: Mapping[str, Sequence[object]]
    """The options of each row, the later ones winning over the earlier ones."""

    @property
    def base(self) -> str:
        """The row that the others are compared with."""
        return next(iter(self.rows))


STUDIES = {
    "text": Study(
        seen=30_000,
        rows={
            "seed project's (64 x 4, lr 1e-5, decays everything), vision frozen": (*FROZEN, *SEED_PROJECT),
            BLENDED: LARGE,
            "512, all captions": (*LARGE, "--captions", "all"),
            "512, LoRA 8": (*LARGE, "--lr", 1e-3, "--lora-rank", 8),
            "512, last 2 blocks of the text tower": (*LARGE, "--freeze-blocks", 4),
            "1,024 exact": (*LARGE, "--train-bs", 1024),
            "512, layer decay 0.8": (*LARGE, "--layer-decay", 0.8),
            BLEND: (),
            "512, EMA 0.9": (*LARGE, "--ema", 0.9),
            "512, layer decay 0.65": (*LARGE, "--layer-decay", 0.65),
            "512, LoRA 32": (*LARGE, "--lr", 1e-3, "--lora-rank", 32),
            "256 exact": (*LARGE, "--train-bs", 256),
            "64 x 4 accumulated, lr 2e-4": (*FROZEN, "--train-bs", 64, "--grad-accum", 4, "--lr", 2e-4),
        },
    ),
    "vision": Study(
        seen=6_000,
        rows={
            "64, lr 5e-5, vision frozen": (*FROZEN, *SMALL),
            "64, lr 5e-5, vision at a tenth of the rate": (*SMALL, "--vision-lr", 5e-6),
            "64, lr 5e-5, vision at a tenth, BatchNorm's statistics kept": (*SMALL, "--vision-lr", 5e-6, KEPT, ON),
            "seed project's, both towers train": SEED_PROJECT,
        },
    ),
}

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
    parser.add_argument("--study", choices=STUDIES, default="text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rows", nargs="+", help="some of the study's rows; by default all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time, which divide the cores")
    parser.add_argument("--keep", type=Path, help="directory for the runs, which are otherwise deleted")
    options = parser.parse_args()
    study = STUDIES[options.study]
    if unknown := set(options.rows or ()) - set(study.rows):
        parser.error(f"the study {options.study!r} has no row {min(unknown)!r}: choose from {list(study.rows)}")
    rows = [row for row in study.rows if row in (options.rows or study.rows)]
    record = Record(options)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.parallel) as pool:
        root = options.keep or Path(name)
        # The first row comes before the others, which are compared with it; then row by row, so that a row soon has its seeds.
        for together in ([row for row in rows if row == study.base], [row for row in rows if row != study.base]):
            missing = [(row, seed) for row in together for seed in options.seeds if not record.has(row, seed)]
            waiting = [pool.submit(outcome, options, root, *one) for one in missing]
            try:
                for done in as_completed(waiting):
                    record.add(done.result())
            finally:
                # If one has failed, the others would run on without being written down.
                for one in waiting:
                    one.cancel()
    record.write()
    columns = dict.fromkeys(name for row in record.means for name in row)
    show([{name: row.get(name, "") for name in columns} for row in record.means])


class Record:
    """The study's part of recipes.json, written after each run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.study = STUDIES[options.study]
        whole = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        self.runs: list[dict[str, Any]] = whole.get(options.study, {}).get("runs", [])

    @property
    def means(self) -> list[dict[str, Any]]:
        """One row for each recipe that has run, in the study's order."""
        done = {run["recipe"] for run in self.runs}
        return [mean(self.runs, row) for row in self.study.rows if row in done]

    def has(self, row: str, seed: int) -> bool:
        return any((run["recipe"], run["seed"]) == (row, seed) for run in self.runs)

    def add(self, found: dict[str, Any]) -> None:
        self.runs.append(found)
        self.write()

    def write(self) -> None:
        """Write what there is, beside what the other study has by now."""
        whole = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        whole[self.options.study] = {
            "about": environment("icclip", "torch", "transformers") | {"precision": self.options.precision},
            "images seen": self.study.seen,
            "start": {"recipe": START, **summary(Path(self.options.start))},
            "means": self.means,
            "not run": [row for row in self.study.rows if row not in {run["recipe"] for run in self.runs}],
            "runs": self.runs,
        }
        write(__file__, whole)


def outcome(options: argparse.Namespace, root: Path, row: str, seed: int) -> dict[str, Any]:
    """What one row gives with one seed."""

    def folder(name: str) -> Path:
        return root / f"{options.study}-{list(study.rows).index(name)}-{seed}"

    study = STUDIES[options.study]
    made = blended(options, folder(BLENDED), folder(row)) if row == BLEND else trained(options, folder(row), row, seed)
    return {"recipe": row, "seed": seed, **made, **gained(folder(study.base), folder(row))}


def blended(options: argparse.Namespace, source: Path, folder: Path) -> dict[str, Any]:
    """Mix a run with its start, unless that is done already."""
    if (folder / "test_metric.json").exists():
        return summary(folder)
    cpu = run(options, "blend", source, "--output-dir", folder, "--alpha", 0.5)
    cpu += run(options, "eval", folder, "--dataset", options.dataset, "--output-dir", folder)
    return {**summary(folder), "cpu seconds": round(cpu)}


def gained(base: Path, folder: Path) -> dict[str, float]:
    """By how much rsum differs from that of the first row, with the paired 95 % interval."""
    if folder == base or not base.exists():
        return {}
    command = [sys.executable, "-m", "icclip", "compare", base, folder, "--json"]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    rsum = json.loads(done.stdout)["comparisons"][0]["metrics"]["rsum"]
    return {"gain": rounded(rsum["difference"]), "gain from": rounded(rsum["low"]), "gain to": rounded(rsum["high"])}


def trained(options: argparse.Namespace, folder: Path, row: str, seed: int) -> dict[str, Any]:
    """Train in one way, unless that is done already."""
    if (folder / "test_metric.json").exists():
        return summary(folder)
    study = STUDIES[options.study]
    asked = last_ones(study.rows[row])
    step = int(asked["--train-bs"]) * int(asked.get("--grad-accum", 1))
    steps = max(1, round(study.seen / step))
    arguments = [word for pair in asked.items() for word in pair if word != ON]
    cpu = run(
        options,
        "train", "--model", options.start, "--dataset", options.dataset, "--output-dir", folder, "--max-steps", steps,
        "--overwrite", "--seed", seed, "--report-to", "none", "--workers", 0, "--eval-every", 2, "--precision", options.precision, *arguments,
        everything=DECAYS_EVERYTHING in study.rows[row],
    )  # fmt: skip
    return {**summary(folder), "steps": steps, "cpu seconds": round(cpu)}


def last_ones(words: Sequence[object]) -> dict[str, Any]:
    """Options by their flag, the last of each."""
    plain = [word for word in words if word != DECAYS_EVERYTHING]
    return dict(zip(map(str, plain[::2]), plain[1::2], strict=True))


def run(options: argparse.Namespace, *arguments: object, everything: bool = False) -> float:
    """One of icclip's commands; the seconds of the processor that it took."""
    words = ["everything" if everything else "-", *map(str, arguments)]
    threads = str(max(1, (os.cpu_count() or 1) // options.parallel))
    process = subprocess.Popen(
        [sys.executable, "-c", EVERYTHING, *words], env=os.environ | {"OMP_NUM_THREADS": threads}
    )
    # Of this process alone: others run beside it.
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in {0, NO_BETTER}:
        raise SystemExit(process.returncode)
    return used.ru_utime + used.ru_stime


def summary(folder: Path) -> dict[str, Any]:
    """What the best checkpoint retrieves on the test split."""
    metrics = json.loads((folder / "test_metric.json").read_text(encoding="utf-8"))
    low, high = map(rounded, metrics["confidence_95"]["rsum"])
    names = ("i2t_R@1", "t2i_R@1", "t2i_R@10")
    return {"rsum": rounded(metrics["rsum"]), "95 % from": low, "to": high, **{name: metrics[name] for name in names}}


def mean(runs: Sequence[Mapping[str, Any]], row: str) -> dict[str, Any]:
    """Over the seeds; the interval over images is the mean of the seeds' intervals, the one over seeds the mean's own."""
    own = [one for one in runs if one["recipe"] == row]
    names = ("rsum", "95 % from", "to", "t2i_R@10", *GAIN * all("gain" in one for one in own))
    average = {name: rounded(statistics.mean(one[name] for one in own)) for name in names}
    spread = statistics.stdev(one["rsum"] for one in own) if len(own) > 1 else 0.0
    over_seeds = {"over seeds +-": rounded(STUDENT[len(own)] * spread / len(own) ** 0.5)} if len(own) in STUDENT else {}
    return {"recipe": row, "seeds": len(own), **average, "deviation": rounded(spread), **over_seeds}


if __name__ == "__main__":
    main()
