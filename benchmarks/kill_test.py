"""Kill a training run with SIGKILL, again and again, and compare what it ends with.

    python -m benchmarks.kill_test --kills 24

Runs a small CLIP with dropout, two processes that load images and a checkpoint every four steps; first
without an interruption, then in chains of kills, each followed by the same command with --resume. After
every kill the directory is inspected. Writes kill_test.json beside itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RESULT = Path(__file__).with_suffix(".json")
EPOCHS, BATCH, IMAGES, SAVE_EVERY = 6, 16, 96, 4
STEPS = EPOCHS * IMAGES // BATCH
KILLS_OF_A_CHAIN = 6
POLL = 0.001
MOMENTS = ("starting", "training", "writing a checkpoint", "deleting a checkpoint", "publishing", "training")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = kill_test(Path(folder), options.kills, random.Random(options.seed))
    result = {"steps": STEPS, "save_every_steps": SAVE_EVERY, "kills": len(rows), "by_moment": by_moment(rows)}
    print(table(result["by_moment"]))
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def kill_test(folder: Path, kills: int, rng: random.Random) -> list[dict[str, Any]]:
    """One row a kill: its moment, the step it hit, and whether its chain ended as the uninterrupted run."""
    command = training_command(folder)
    whole = folder / "whole"
    subprocess.run([*command, "--output-dir", str(whole)], check=True, env=environment(), capture_output=True)
    expected = outcome(whole)
    rows: list[dict[str, Any]] = []
    while len(rows) < kills:
        run = folder / f"chain-{len(rows)}"
        chain = [*MOMENTS[:KILLS_OF_A_CHAIN]][: kills - len(rows)]
        hit = [killed(command, run, moment, rng) for moment in ordered(chain)]
        last = [*command, "--output-dir", str(run), "--resume"]
        subprocess.run(last, check=True, env=environment(), capture_output=True)
        identical = outcome(run) == expected
        rows += [{**row, "identical": identical} for row in hit if row is not None]
    return rows


def ordered(moments: Sequence[str]) -> list[str]:
    """Publishing comes last: there is one at the end of a run."""
    return sorted(moments, key=lambda moment: moment == "publishing")


# One process --------------------------------------------------------------------------------------


def killed(command: Sequence[str], run: Path, moment: str, rng: random.Random) -> dict[str, Any] | None:
    """Start or resume, and kill at the moment. None where the run was over before."""
    resumed = [*command, "--output-dir", str(run), "--resume"]
    with run.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(resumed, env=environment(), stdout=log, stderr=log)
    wait_for(process, come(moment, run, rng))
    if moment != "deleting a checkpoint":
        # Not always at the first file.
        time.sleep(rng.uniform(0, 0.02))
    process.kill()
    if process.wait() >= 0:
        if process.returncode > 0:
            raise SystemExit(run.with_suffix(".log").read_text())
        return None
    row = {"moment": moment, "step": last_step(run), "lost": lost(run)}
    print(row, file=sys.stderr)
    return row


def come(moment: str, run: Path, rng: random.Random) -> Callable[[], bool]:
    """What tells that the moment has come."""
    if moment == "starting":
        at = time.monotonic() + rng.uniform(0, 10)
        return lambda: time.monotonic() > at
    if moment == "training":
        step = last_step(run) % (STEPS - SAVE_EVERY) + rng.randint(1, SAVE_EVERY * 2)
        return lambda: last_step(run) >= step
    sign = {
        "writing a checkpoint": f".checkpoint-{'[0-9]' * rng.choice([1, 2])}.partial/checkpoint-*/*",
        "deleting a checkpoint": ".checkpoint-*.deleted.partial",
        "publishing": ".publishing*",
    }[moment]
    return lambda: any(run.glob(sign))


def wait_for(process: subprocess.Popen[bytes], has_come: Callable[[], bool]) -> None:
    """Until the moment or the end."""
    while process.poll() is None and not has_come():
        time.sleep(POLL)


def last_step(run: Path) -> int:
    """The last one that was logged, whether or not a checkpoint holds it."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
    return max(steps, default=0)


# What is left -------------------------------------------------------------------------------------


def lost(run: Path) -> list[str]:
    """What a kill has broken: nothing, if all is well."""
    from safetensors import safe_open

    steps = sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))
    problems = []
    for step in steps:
        checkpoint = run / f"checkpoint-{step}"
        try:
            with safe_open(checkpoint / "model.safetensors", "numpy") as file:
                file.get_tensor("logit_scale")
            state = json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError) as error:
            problems.append(f"{checkpoint.name}: {error}")
        else:
            if step == steps[-1] and state["best_global_step"] not in (None, *steps):
                problems.append(f"the best checkpoint, of step {state['best_global_step']}")
    if not (run / ".publishing").exists() and (run / "model.safetensors").exists():
        copies = {sha256(path) for path in run.glob("checkpoint-*/model.safetensors")}
        problems += [] if sha256(run / "model.safetensors") in copies else ["the root is no checkpoint"]
    return problems


def outcome(run: Path) -> dict[str, Any]:
    """What has to be the same, to the last bit."""
    metrics = json.loads((run / "test_metric.json").read_text())
    return {
        "best weights": sha256(run / "model.safetensors"),
        "last weights": sha256(run / f"checkpoint-{STEPS}" / "model.safetensors"),
        "history": sha256(run / "metrics.jsonl"),
        "checkpoints": sorted(path.name for path in run.glob("checkpoint-*")),
        "leavings": [path.name for path in run.glob(".*")],
        "test": {name: value for name, value in metrics.items() if name != "about"},
    }


def sha256(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def by_moment(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Kills, those whose chain ended bit-identical, and those that lost something."""
    kills = Counter(row["moment"] for row in rows)
    identical = Counter(row["moment"] for row in rows if row["identical"])
    losses = Counter(row["moment"] for row in rows if row["lost"])
    return {
        moment: {"kills": kills[moment], "resumed_bit_identical": identical[moment], "lost": losses[moment]}
        for moment in dict.fromkeys(MOMENTS)
    }


def table(moments: dict[str, dict[str, int]]) -> str:
    """For Markdown."""
    total = {name: sum(row[name] for row in moments.values()) for name in next(iter(moments.values()))}
    rows = [(moment, *row.values()) for moment, row in {**moments, "all": total}.items()]
    head = ["| killed while | kills | resumed bit-identical | lost |", "|---|---|---|---|"]
    return "\n".join([*head, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


# What is trained ----------------------------------------------------------------------------------


def training_command(folder: Path) -> list[str]:
    """`icclip train` of a small model with dropout on a part of the shapes."""
    model, data = prepare(folder)
    options = {
        "model": model, "dataset": data, "epochs": EPOCHS, "train-bs": BATCH, "save-every-steps": SAVE_EVERY,
        "logging-steps": 1, "workers": 2, "lr": 1e-3, "device": "cpu", "report-to": "none",
    }  # fmt: skip
    said = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "icclip", "train", *said]


def prepare(folder: Path) -> tuple[Path, Path]:
    """Write the model and the data that are trained."""
    from icclip.config import ModelConfig
    from icclip.console import Reporter
    from icclip.data.loading import dataset_config, load_splits
    from icclip.models.opening import open_model
    from icclip.plugins.registry import Registry

    registry = Registry(load_plugins=frozenset())
    splits = load_splits(registry, dataset_config(registry, "shapes"), Reporter(silent=True))
    (data := folder / "data").mkdir()
    for name, images in (("train", IMAGES), ("validation", 32), ("test", 32)):
        splits[name].select(range(images)).to_parquet(data / f"{name}.parquet")
    texts = [text for captions in splits["train"]["captions"] for text in captions]
    loaded = open_model(registry, ModelConfig(name="clip-tiny", image_resize=32), captions=lambda: texts)
    for tower in (loaded.model.config.vision_config, loaded.model.config.text_config):
        tower.attention_dropout = 0.1
    loaded.save(folder / "model")
    return folder / "model", data


def environment() -> dict[str, str]:
    """Of a checkout as of an installation, without the network, and no third-party plugin."""
    sources = os.pathsep.join(str(REPOSITORY / root) for root in (".", "plugins", "export"))
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "ICCLIP_LOAD_PLUGINS": "",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {**os.environ, **quiet, "PYTHONPATH": sources}


if __name__ == "__main__":
    main()
