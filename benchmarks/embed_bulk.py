"""Embed 20,000 images of which five are corrupt, kill it twice, and look at what comes out and at the memory it took.

    python -m benchmarks.embed_bulk

The images are small and generated. Peak memory is that of the command and its worker processes
together, also of an undisturbed run over a quarter of the images. Writes embed_bulk.json beside itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
RESULT = Path(__file__).with_suffix(".json")
FOLDERS = 20
CORRUPT = 5
POLL = 0.1


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = embed_bulk(Path(folder), options.images)
    print(json.dumps(result, indent=2))
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def embed_bulk(folder: Path, count: int) -> dict[str, Any]:
    """What was measured."""
    checkpoint = model(folder / "model")
    names = images(folder / "images", count)
    bad = corrupt(names)
    quarter = folder / "images" / "0[0-4]" / "*.png"
    small = run(command(checkpoint, quarter, folder / "quarter.npy"))
    whole = run(command(checkpoint, folder / "images", folder / "whole.npy"), folder / "whole.npy.parts")
    arguments = command(checkpoint, folder / "images", folder / "all.npy")
    kills = [killed(arguments, folder / "all.npy.parts", parts) for parts in (2, 5)]
    last = run([*arguments, "--resume"])
    vectors = np.load(folder / "all.npy", allow_pickle=False)
    rows = [json.loads(line) for line in (folder / "all.inputs.jsonl").read_text().splitlines()]
    skipped = [json.loads(line)["input"] for line in (folder / "all.skipped.jsonl").read_text().splitlines()]
    return {
        "images": count,
        "corrupt": len(bad),
        "kills": kills,
        "rows": len(vectors),
        "complete_and_in_order": rows == [name for name in names if name not in bad] and len(rows) == len(vectors),
        "skipped_are_the_corrupt": skipped == bad,
        "identical_to_an_undisturbed_run": bool(np.array_equal(vectors, np.load(folder / "whole.npy"))),
        "parts_left": (folder / "all.npy.parts").exists(),
        "peak_mb": {"a quarter": small["peak_mb"], "all": whole["peak_mb"], "after the second kill": last["peak_mb"]},
        "peak_mb_by_part": whole["peak_mb_by_part"],
        "seconds": {"a quarter": small["seconds"], "all": whole["seconds"]},
    }


def model(path: Path) -> Path:
    """An untrained clip-tiny, as a checkpoint."""
    program = (
        "import sys; from icclip.config import ModelConfig; from icclip.models.opening import open_model; "
        "from icclip.plugins.registry import Registry; "
        "loaded = open_model(Registry(), ModelConfig(name='clip-tiny'), captions=lambda: ['a red square', 'a dog']); "
        "loaded.model.save_pretrained(sys.argv[1]); loaded.feeder.save(__import__('pathlib').Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, env=environment(), capture_output=True)
    return path


def images(root: Path, count: int) -> list[str]:
    """Their paths, in the order in which they must come out."""
    rng = np.random.default_rng(0)
    names = []
    for number in range(count):
        path = root / f"{number * FOLDERS // count:02}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((48, 40)).save(path)
        names.append(str(path))
    return names


def corrupt(names: Sequence[str]) -> list[str]:
    """Damage five, spread over all; the first is among them."""
    bad = [names[i * len(names) // CORRUPT] for i in range(CORRUPT)]
    for number, name in enumerate(bad):
        content = Path(name).read_bytes()
        Path(name).write_bytes((b"", content[:60], b"no image", content[: len(content) // 2], b"\0" * 99)[number])
    return bad


def command(checkpoint: Path, source: Path, output: Path) -> list[str]:
    """Of one run."""
    start = [sys.executable, "-m", "icclip", "embed", str(checkpoint), str(source), "-o", str(output)]
    return [*start, "--on-bad-image", "skip", "--device", "cpu", "--workers", "1", "--batch-size", "128"]


def run(arguments: Sequence[str], folder: Path | None = None) -> dict[str, Any]:
    """To its end, with the peak of its memory while each part was made. Raises RuntimeError where it fails."""
    began, peaks = time.monotonic(), dict[int, float]()
    process = subprocess.Popen(
        arguments,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None:
        part = 0 if folder is None else len(list(folder.glob("[0-9]*.json")))
        peaks[part] = max(peaks.get(part, 0.0), memory(process.pid))
        time.sleep(POLL)
    if process.returncode:
        raise RuntimeError(process.stderr.read() if process.stderr else "")
    by_part = [round(peaks[part]) for part in sorted(peaks)]
    return {"seconds": round(time.monotonic() - began, 1), "peak_mb": max(by_part), "peak_mb_by_part": by_part}


def killed(arguments: Sequence[str], folder: Path, parts: int) -> dict[str, Any]:
    """Start or go on, and send SIGKILL to all of it once so many parts are there."""
    peak, before = 0.0, folder.exists()
    process = subprocess.Popen(
        [*arguments, *["--resume"] * before], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and len(list(folder.glob("[0-9]*.json"))) < parts:
        peak = max(peak, memory(process.pid))
        time.sleep(POLL)
    if process.poll() is not None:
        raise RuntimeError("the run was over before it was killed")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return {"parts": len(list(folder.glob("[0-9]*.json"))), "peak_mb": round(peak)}


def memory(session: int) -> float:
    """Megabytes of all processes of a session, what they share counted once."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    rollup = (entry / "smaps_rollup").read_text()
                    total += int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])
            except (OSError, IndexError, StopIteration):
                continue
    return total / 1e3


def environment() -> dict[str, str]:
    """Ours, with the packages of this checkout."""
    paths = os.pathsep.join(str(REPOSITORY / name) for name in (".", "plugins", "export"))
    return {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "ICCLIP_LOAD_PLUGINS": ""}


if __name__ == "__main__":
    main()
