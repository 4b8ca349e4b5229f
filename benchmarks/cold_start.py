"""Where the time goes from the start of Python to the first embedding, and what kept graphs save of it.

    nice -n -10 python -m benchmarks.cold_start [--bundles DIRECTORY] [--rounds 5]

A CLIP ViT-B/16 at 224 pixels with random weights on the CPU, in float32 and int8, its files in the file cache.

- **start**: a new process imports the runtime, opens the bundle, opens each tower, and encodes an image and a text; and one
  that opens both towers at once (`warm`). "before" hashes, optimises and copies the bundle's graphs, as
  `Encoder.open(keep_graphs=False)` does; "after" maps the kept ones. They take turns.
- **opening**: one tower in its steps, in one process: hashing; reading the weights (a session that neither optimises nor
  rearranges them); rearranging them for the processor's products; optimising; and mapping the kept graph, instead of all these.
- **first time**: what keeping a graph adds to the start that does it.

Seconds of the processor are there too, because other programs disturb them less. Writes cold_start.json; with
`--size tiny`, which only shows that the script works, nothing.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.support import base_bundle
from benchmarks.support.timing import environment, medians, rounded, show, take_turns, times_faster, write
from icclip.bundles.manifest import Manifest, check_files, read_manifest
from icclip.runtime import kept_graphs
from icclip.runtime.sessions import Opening

REPOSITORY = Path(__file__).parents[1]
PRECISIONS = ("fp32", "int8")
BEFORE, AFTER = "before", "after"
PARTS = ("import", "open", "vision tower", "text tower", "first image", "first text")

START = """
import json, sys, time
began = last = time.perf_counter()
parts = {}
def took(name):
    global last
    now = time.perf_counter()
    parts[name] = now - last
    last = now
bundle, precision, keep, smallest, warm = sys.argv[1], sys.argv[2], sys.argv[3] == "after", int(sys.argv[4]), sys.argv[5] == "warm"
from icclip.runtime import Encoder, kept_graphs
kept_graphs.SMALLEST = smallest
took("import")
encoder = Encoder.open(bundle, precision, "cpu", keep_graphs=keep)
took("open")
if warm:
    encoder.warm()
    took("warm")
else:
    for tower in ("vision", "text"):
        encoder.session(tower)
        took(tower + " tower")
encoder.encode_images([bundle + "/golden/000.png"])
took("first image")
encoder.encode_texts(["two dogs"])
took("first text")
print(json.dumps(parts))
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundles", type=Path, help="where the bundle is, or is left")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = base_bundle.make(options.bundles or Path(folder), options.size)
        os.environ["ICCLIP_CACHE"] = str(Path(folder) / "cache")
        smallest = kept_graphs.SMALLEST if options.size == "base" else 1
        starts, keeping = [], []
        for precision in PRECISIONS:
            keeping += first_times(bundle, precision, smallest)
            starts += start_rows(bundle, precision, smallest, options.rounds)
        opening = [row for precision in PRECISIONS for row in opening_rows(bundle, precision, options.rounds)]
    for table in (starts, opening, keeping):
        show(table)
    if options.size == "base":
        about = {**environment("icclip", "onnxruntime", "numpy"), "threads": os.environ.get("OMP_NUM_THREADS")}
        write(
            __file__,
            {"about": about, "rounds": options.rounds, "start": starts, "opening": opening, "first time": keeping},
        )


# A start ------------------------------------------------------------------------------------------


def start(bundle: Path, precision: str, way: str, smallest: int, how: str = "lazy") -> dict[str, float]:
    """Seconds of each part of one start, of all of it, and of the processor."""
    paths = os.pathsep.join(str(REPOSITORY / name) for name in (".", "plugins", "export"))
    # Compiled modules are there after the first start, as they are after an installation.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", START, str(bundle), precision, way, str(smallest), how],
        check=True, capture_output=True, text=True, env=environment | {"PYTHONPATH": paths},
    )  # fmt: skip
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout.splitlines()[-1]), "all": seconds, "processor": used}


def first_times(bundle: Path, precision: str, smallest: int) -> list[dict[str, Any]]:
    """The start that notes the graphs, and the one that keeps them."""
    runs = [start(bundle, precision, AFTER, smallest) for _ in range(2)]
    names = ("first start, which notes the graphs", "second start, which keeps them")
    return [
        {"precision": precision, "start": name, **{key: rounded(run[key]) for key in ("all", "processor")}}
        for name, run in zip(names, runs, strict=True)
    ]


def start_rows(bundle: Path, precision: str, smallest: int, rounds: int) -> list[dict[str, Any]]:
    """Before and after, towers one after the other and at once; one row for each."""
    ways = [(way, how) for how in ("lazy", "warm") for way in (BEFORE, AFTER)]
    runs: dict[tuple[str, str], list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            runs[way].append(start(bundle, precision, way[0], smallest, way[1]))
    return [row(precision, way, how, runs) for way, how in ways]


def row(
    precision: str, way: str, how: str, runs: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]
) -> dict[str, Any]:
    """The medians of each part, and the median of the ratios within a round."""
    own = runs[way, how]
    values = {part: medians({part: [run.get(part, 0.0) for run in own]})[part] for part in (*PARTS, "warm")}
    whole = {key: medians({key: [run[key] for run in own]})[key] for key in ("all", "processor")}
    ratios = {
        f"times faster, {key}": times_faster(
            {name: [run[key] for run in runs[name, how]] for name in (BEFORE, AFTER)}, way, BEFORE
        )
        for key in ("all", "processor")
    }
    return {"precision": precision, "way": way, "towers": how, **values, **whole, **ratios}


# One tower ----------------------------------------------------------------------------------------


def opening_rows(bundle: Path, precision: str, rounds: int) -> list[dict[str, Any]]:
    """Seconds of the processor for each step of opening each tower."""
    manifest = read_manifest(bundle)
    towers = manifest.towers(precision)
    return [
        {"precision": precision, "tower": tower, **steps(bundle, manifest, getattr(towers, tower), rounds)}
        for tower in base_bundle.TOWERS
    ]


def steps(bundle: Path, manifest: Manifest, graph: str, rounds: int) -> dict[str, float]:
    """What each step adds to those before it."""
    path = bundle / graph
    io = manifest.vision_io if "vision" in graph else manifest.text_io
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    kept = kept_graphs.kept_graph(manifest, graph)
    calls: dict[str, Callable[[], object]] = {
        "hashing": lambda: check_files(bundle, manifest, [graph]),
        "read": lambda: session(path, threads, optimise=False, pack=False),
        "packed": lambda: session(path, threads, optimise=False, pack=True),
        "optimised": lambda: session(path, threads, optimise=True, pack=True),
    }
    if kept is not None:
        calls["kept"] = lambda: kept.opened(Opening(path, io, threads))
    used = medians(processor_turns(calls, rounds))
    return {
        "hashing": used["hashing"],
        "reading": used["read"],
        "rearranging": rounded(used["packed"] - used["read"]),
        "optimising": rounded(used["optimised"] - used["packed"]),
        "the kept graph instead": used.get("kept", 0.0),
    }


def processor_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of the processor, in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}

    def timed(name: str, call: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            began = time.process_time()
            call()
            found[name].append(time.process_time() - began)

        return run

    take_turns({name: timed(name, call) for name, call in calls.items()}, rounds=rounds)
    # The first of each is the warm-up.
    return {name: taken[1:] for name, taken in found.items()}


def session(path: Path, threads: int, *, optimise: bool, pack: bool) -> Any:
    """A session of onnxruntime's own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", str(int(not pack)))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
