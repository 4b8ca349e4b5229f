"""How many requests a second `icclip serve` answers, and how long they take, beside a plain handler around transformers.

    pip install locust
    python -m benchmarks.serving [--bundle BUNDLE --checkpoint RUN --index INDEX] [--seconds 8] [--rounds 3] [--clients 1 8 64]

BUNDLE holds float32 and int8; RUN is the checkpoint that it was exported from; INDEX was made with its int8 encoders.
Without them they are made: a CLIP ViT-B/32 at 224 pixels with random weights, on whose values speed does not depend, with all
products of its int8 encoders quantized, and an index of the 128 drawn images of `shapes`.
Locust sends the requests over loopback, from the same machine. All services have the same number of threads, and take
turns: a ratio is the median over the rounds of the ratios within one. `batched` encodes inputs of different requests
together, `alone` is `--max-batch 1`. An int8 bundle encodes each input alone either way, because a row would otherwise
depend on its neighbours.

Writes serving.json.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import http
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.support.checkpoints import preset, write_base
from benchmarks.support.launches import free_port
from benchmarks.support.timing import environment, rounded, show, write
from icclip.bundles.manifest import Tower, TowerFiles, read_manifest, seal
from icclip.config import DatasetConfig, EncoderConfig, ExportConfig
from icclip.console import Reporter
from icclip.exporting.run import export
from icclip.plugins.registry import Registry
from icclip_export.precisions import graph_name
from icclip_export.precisions import precision as find_precision

PLAIN = "transformers, plain handler"
TOWERS: tuple[Tower, ...] = ("vision", "text")
TASKS = ("rank", "encode_text", "search")
WORDS = (
    "a", "two", "dog", "dogs", "child", "man", "red", "blue", "snow", "beach", "runs", "jumps", "with", "on", "in", "the",
)  # fmt: skip
IMAGES, TEXTS, TEXTS_TO_RANK = 8, 64, 8
SIDE = 320
READY = 120
LONGEST = 60
MAX_QUEUE = 4096
"""64 clients that rank ask for more at once than is accepted unless told otherwise."""


@dataclass(frozen=True)
class Contestant:
    """A service, and the command that starts it on a port."""

    name: str
    command: Sequence[str]
    tasks: Sequence[str] = TASKS


@dataclass(frozen=True)
class Load:
    """What is asked, by how many at once, for how many seconds."""

    task: str
    clients: int
    seconds: int
    bodies: Path


def main() -> None:
    """Start everything, load it in turns, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle")
    parser.add_argument("--checkpoint")
    parser.add_argument("--index")
    parser.add_argument("--work", type=Path, help="where what is made is left, or found")
    parser.add_argument("--seconds", type=int, default=8, help="of load for each service, task and number of clients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        if options.bundle is None:
            options.bundle, options.checkpoint, options.index = made(options.work or Path(name))
        bodies = Path(name) / "bodies.json"
        bodies.write_text(json.dumps(requests()))
        ports = {one: stack.enter_context(started(one, options.threads)) for one in contestants(options)}
        asked = json.loads(bodies.read_text())
        for one, port in ports.items():
            warmed(one, port, asked)
        found = [
            {
                "task": task,
                "clients": clients,
                "service": one.name,
                **turn(one, port, Load(task, clients, options.seconds, bodies), asked),
            }
            for task in TASKS
            for clients in options.clients
            for _ in range(options.rounds)
            for one, port in ports.items()
            if task in one.tasks
        ]
    rows = [row for task in TASKS for clients in options.clients for row in summed(found, task, clients)]
    show(rows)
    about = {**environment("icclip", "onnxruntime", "torch", "transformers", "fastapi", "uvicorn", "locust")}
    write(
        __file__,
        {
            "about": {
                **about,
                "threads of each service": options.threads,
                "seconds": options.seconds,
                "rounds": options.rounds,
            },
            "rows": rows,
        },
    )


def made(folder: Path) -> tuple[str, str, str]:
    """A bundle in float32 and int8, its checkpoint, and an index; what is there already is used."""
    checkpoint, bundle, index = folder / "checkpoint", folder / "bundle", folder / "index"
    registry = Registry.from_environment()
    if not checkpoint.exists():
        tokenizer = preset(registry, "clip").feeder.processor.tokenizer
        write_base(checkpoint, "clip", tokenizer, patch_size=32)
    if not bundle.exists():
        encoder, data = EncoderConfig(checkpoint=str(checkpoint)), DatasetConfig(name="shapes")
        export(ExportConfig(encoder=encoder, data=data, output_dir=bundle, sample=16), registry, Reporter(silent=True))
        quantized(bundle)
    if not index.exists():
        words = ("index", str(bundle), "--dataset", "shapes", "-o", str(index), "--precision", "int8", "--gate", "off")
        subprocess.run([sys.executable, "-m", "icclip", *words], check=True)
    return str(bundle), str(checkpoint), str(index)


def quantized(bundle: Path) -> None:
    """Add int8 with no product left in float32: a gate has nothing to say of random weights."""
    graphs = {tower: graph_name(tower, "int8") for tower in TOWERS}
    for tower, graph in graphs.items():
        find_precision("int8").recipe.build(bundle / graph_name(tower, "fp32"), bundle / graph, ())
    manifest = read_manifest(bundle)
    seal(bundle, dataclasses.replace(manifest, precisions={**manifest.precisions, "int8": TowerFiles(**graphs)}))


def contestants(options: argparse.Namespace) -> list[Contestant]:
    """The services."""
    serve = (
        sys.executable,
        "-m",
        "icclip",
        "serve",
        options.bundle,
        "--threads",
        str(options.threads),
        "--max-queue",
        str(MAX_QUEUE),
    )
    searches = ("--index", options.index)
    return [
        Contestant("int8", (*serve, "--precision", "int8", *searches)),
        Contestant("float32, batched", (*serve, "--precision", "fp32"), TASKS[:2]),
        Contestant("float32, alone", (*serve, "--precision", "fp32", "--max-batch", "1"), TASKS[:2]),
        Contestant(PLAIN, (sys.executable, "-m", "benchmarks.support.plain_service", options.checkpoint), TASKS[:2]),
    ]


@contextlib.contextmanager
def started(one: Contestant, threads: int) -> Iterator[int]:
    """A service that answers; its port."""
    port = free_port()
    settings = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([*one.command, "--port", str(port)], stderr=subprocess.DEVNULL, env=settings)
    try:
        deadline = time.monotonic() + READY
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{one.name} does not start: {' '.join(one.command)}")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    """Whether a service is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return bool(answer.status == http.HTTPStatus.OK)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def turn(one: Contestant, port: int, load: Load, asked: Mapping[str, Any]) -> dict[str, float]:
    """What is counted under a load; it ends when the service has worked off what the clients left behind."""
    counted = loaded(one, port, load)
    # Otherwise it would go on during the next one's turn.
    warmed(one, port, asked)
    return counted


def warmed(one: Contestant, port: int, asked: Mapping[str, Any]) -> None:
    """Ask once for each task: what happens at the first request alone is not measured."""
    for task in one.tasks:
        body = json.dumps(asked[task]["bodies"][0]).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{asked[task]['path']}", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=READY).close()


def requests() -> dict[str, dict[str, Any]]:
    """Task -> its path and some bodies."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 9)) for _ in range(TEXTS)]
    pictures = [picture(rng) for _ in range(IMAGES)]
    ranks = [
        {"task": "rank", "image_b64": one, "texts": list(rng.choice(texts, TEXTS_TO_RANK)), "top_k": 5}
        for one in pictures
    ]
    return {
        "rank": {"path": "/invocations", "bodies": ranks},
        "encode_text": {"path": "/invocations", "bodies": [{"task": "encode_text", "texts": [one]} for one in texts]},
        "search": {"path": "/search", "bodies": [{"text": one, "k": 10} for one in texts]},
    }


def picture(rng: np.random.Generator) -> str:
    """A smooth random JPEG, in base64."""
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    file = io.BytesIO()
    small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def loaded(one: Contestant, port: int, load: Load) -> dict[str, float]:
    """What Locust counts while the clients ask as fast as they are answered; for longer where none is answered in time."""
    command = [
        sys.executable, "-m", "locust", "--locustfile", str(Path(__file__).parent / "support/load.py"), "--headless", "--json",
        "--users", str(load.clients), "--spawn-rate", str(load.clients), "--run-time", f"{load.seconds}s",
        "--host", f"http://127.0.0.1:{port}",
    ]  # fmt: skip
    settings = {**os.environ, "BODIES": str(load.bodies), "TASK": load.task}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=settings)
    counted = next(iter(json.loads(done.stdout[done.stdout.index("[") :])), {"num_requests": 0, "num_failures": 0})
    if not counted["num_requests"] and not counted["num_failures"] and load.seconds < LONGEST:
        return loaded(one, port, dataclasses.replace(load, seconds=3 * load.seconds))
    if counted["num_failures"] or not counted["num_requests"]:
        what = f"{counted['num_requests']} requests, {counted['num_failures']} failed"
        raise SystemExit(f"{one.name}, {load.task}, {load.clients} clients: {what}\n{done.stderr[-2000:]}")
    times = np.repeat(
        *map(np.asarray, zip(*((float(ms), n) for ms, n in counted["response_times"].items()), strict=True))
    )
    return {
        "requests/s": counted["num_requests"] / (counted["last_request_timestamp"] - counted["start_time"]),
        "p50 ms": float(np.percentile(times, 50)),
        "p99 ms": float(np.percentile(times, 99)),
    }


def summed(found: Sequence[Mapping[str, Any]], task: str, clients: int) -> list[dict[str, Any]]:
    """A row for each service: medians over the rounds, and how many times the plain handler's requests it answers."""
    here = [one for one in found if (one["task"], one["clients"]) == (task, clients)]
    names = list(dict.fromkeys(one["service"] for one in here))
    own = {name: [one for one in here if one["service"] == name] for name in names}
    rows = []
    for name in names:
        row = {"task": task, "clients": clients, "service": name}
        for key in ("requests/s", "p50 ms", "p99 ms"):
            row[key] = rounded(statistics.median(one[key] for one in own[name]))
        pairs = zip(own[name], own.get(PLAIN, ()), strict=PLAIN in own)
        ratios = [mine["requests/s"] / plain["requests/s"] for mine, plain in pairs]
        row["times the plain handler"] = rounded(statistics.median(ratios)) if ratios else None
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
