"""From two pretrained towers to a proven bundle, with the commands of the documentation: how long, and how good?

    python -m benchmarks.two_towers --vision EFFICIENTNET --text MINILM --dataset flickr8k@PATH
    python -m benchmarks.two_towers --vision EFFICIENTNET --text MINILM --aerial

The commands are those of docs/pages/how-to/two-towers.md, from `icclip assemble` to an export in three precisions, with an
empty cache, so that nothing was computed before. `--aerial` draws its own data: pictures from above in JSONL, whose
captions repeat. `--precision bf16` trains in it, as the documentation advises for GPUs and CPUs that compute in bf16. Adds to
two_towers.json what each command cost, what the test split says, and what the gate found.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.support.aerial import write_aerial
from benchmarks.support.timing import environment, rounded, show, write

RESULT = Path(__file__).with_suffix(".json")
PRECISIONS = ("fp32", "fp16", "int8")
METRICS = ("i2t_R@1", "i2t_R@10", "t2i_R@1", "t2i_R@10")
PROJECTIONS = ("--freeze", "both", "--lr", 1e-3, "--train-bs", 512, "--epochs", 40, "--eval-every", 10)
FAILED_GATE = 3
SMALL = ("--train-bs", 128)
"""For a few hundred pictures."""


def main() -> None:
    """Run the commands, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vision", required=True, help="a directory or a hub id, as `icclip assemble` takes it")
    parser.add_argument("--text", required=True, help="likewise")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="as `icclip train` takes it")
    what.add_argument("--aerial", action="store_true", help="drawn pictures from above")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of training")
    parser.add_argument("--keep", type=Path, help="directory for what the commands write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        dataset = str(write_aerial(folder / "data")) if options.aerial else options.dataset
        steps = list(commands(options, dataset, folder, SMALL if options.aerial else ()))
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    label = "aerial, drawn" if options.aerial else options.dataset.split("@")[0]
    about = environment("icclip", "torch", "transformers", "onnxruntime") | {"training": options.precision}
    found[label if options.precision == "fp32" else f"{label}, {options.precision}"] = {
        "about": about,
        "commands": steps,
    }
    write(__file__, found)
    columns = dict.fromkeys(name for row in steps for name in row)
    show([{name: row.get(name, "") for name in columns} for row in steps])


def commands(
    options: argparse.Namespace, dataset: str, folder: Path, small: tuple[object, ...]
) -> Iterator[dict[str, Any]]:
    """One row a command; the rows of training have what the test split says, that of the export what the gate found."""
    cache = folder / "cache"
    start, projections, joined = (folder / name for name in ("start", "projections", "joined"))
    yield timed(cache, "assemble", "--vision", options.vision, "--text", options.text, "-o", start)
    train = ("train", "-d", dataset, "--report-to", "none", "--precision", options.precision)
    yield timed(cache, *train, "-m", start, "-o", projections, *PROJECTIONS, *small) | measured(projections)
    yield timed(cache, *train, "-m", projections, "-o", joined, "--recipe", "gentle", *small) | measured(joined)
    every = [word for precision in PRECISIONS for word in ("--precision", precision)]
    yield timed(cache, "export", joined, "--output-dir", folder / "bundle", *every) | proven(folder / "bundle")


def timed(cache: Path, *arguments: object) -> dict[str, Any]:
    """Run one of icclip's commands. A model that was perfect before, or a bundle that the gate refuses, is a result too."""
    cpu, wall = children(), time.monotonic()
    command = [sys.executable, "-m", "icclip", *map(str, arguments)]
    done = subprocess.run(command, check=False, env=os.environ | {"ICCLIP_CACHE": str(cache)})
    if done.returncode not in {0, FAILED_GATE}:
        raise SystemExit(done.returncode)
    row = {
        "command": str(arguments[0]),
        "minutes": (time.monotonic() - wall) / 60,
        "cpu minutes": (children() - cpu) / 60,
    }
    return {name: rounded(value) if isinstance(value, float) else value for name, value in row.items()}


def children() -> float:
    """Processor seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(run: Path) -> dict[str, Any]:
    """What the best checkpoint retrieves on the test split."""
    metrics = json.loads((run / "test_metric.json").read_text(encoding="utf-8"))
    low, high = map(rounded, metrics["confidence_95"]["rsum"])
    return {"rsum": rounded(metrics["rsum"]), "from": low, "to": high, **{name: metrics[name] for name in METRICS}}


def proven(bundle: Path) -> dict[str, Any]:
    """Whether every precision has passed; a bundle that has not is kept under another name."""
    if not bundle.exists():
        return {"passed": False, "precisions": list(PRECISIONS)}
    results = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))["results"]
    return {"passed": all(one["passed"] for one in results), "precisions": [one["precision"] for one in results]}


if __name__ == "__main__":
    main()
