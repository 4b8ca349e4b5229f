"""What several processes of a run do together, and what becomes of it when something goes wrong.

    python -m benchmarks.processes                   # all cases
    python -m benchmarks.processes --only elastic    # one kind of them; the others keep their results

Each case starts real processes, on a model of one layer and 43 images, and compares what they print, their exit codes
and what they leave with what should be so. After a failure the run is resumed, and has to end as the unbroken one, to the
bit. Writes processes.json beside itself. Cases with a full or a read-only disk need the right to mount one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.support.faults import Fault
from benchmarks.support.launches import Ended, Launcher, Running, alive, free_port

REPOSITORY = Path(__file__).parents[1]
RESULT = Path(__file__).with_suffix(".json")
IMAGES, BATCH, EPOCHS = 43, 8, 2
STEPS = IMAGES // BATCH * EPOCHS
SAVE_EVERY, UNDER_WAY, CUT = 3, 3, 8
CLOSE = 2e-4
"""How far losses may lie apart where other processes add the same numbers in another order."""
RECALLS = ("i2t_R@1", "i2t_R@5", "t2i_R@1", "t2i_R@5")
REPORTED = "Root Cause (first observed failure)"
"""What torchrun prints of its own when a process has failed."""

Seen = tuple[bool, str, dict[str, Any]]
"""Whether a case went as expected, what was seen, and numbers to keep."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    kind: str
    name: str
    processes: str
    expected: str
    run: Callable[[Lab], Seen]


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="kinds of cases, or parts of names")
    only = parser.parse_args().only
    chosen = [case for case in cases() if only is None or any(one == case.kind or one in case.name for one in only)]
    rows = {row["name"]: row for row in json.loads(RESULT.read_text())["rows"]} if RESULT.exists() and only else {}
    with tempfile.TemporaryDirectory() as folder, lab(Path(folder)) as here:
        for case in chosen:
            rows[case.name] = row = _row(case, here)
            print(
                "ok  " if row["ok"] else "FAIL", case.kind, "|", case.name, "|", row["seen"], row["seconds"], flush=True
            )
            ordered = [rows[one.name] for one in cases() if one.name in rows]
            RESULT.write_text(json.dumps(_result(ordered), indent=1) + "\n", encoding="utf-8")
    print(sum(row["ok"] for row in rows.values()), "of", len(rows))


def _row(case: Case, here: Lab) -> dict[str, Any]:
    began = time.monotonic()
    ok, seen, more = case.run(here)
    about = {"kind": case.kind, "name": case.name, "processes": case.processes, "expected": case.expected}
    return {**about, "seen": seen, "ok": ok, "seconds": round(time.monotonic() - began, 1), **more}


def _result(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counted, right = Counter(row["kind"] for row in rows), Counter(row["kind"] for row in rows if row["ok"])
    kinds = {kind: {"cases": counted[kind], "as_expected": right[kind]} for kind in counted}
    return {"model": "clip, one layer of 32", "images": IMAGES, "global_batch": BATCH, "steps": STEPS,
            "cases": len(rows), "as_expected": sum(right.values()), "by_kind": kinds, "rows": list(rows)}  # fmt: skip


# Where it happens ---------------------------------------------------------------------------------


@dataclass
class Lab:
    """A model, data, and what starts processes on them."""

    folder: Path
    launcher: Launcher
    environment: Mapping[str, str]
    wholes: dict[tuple[Any, ...], Path] = dataclasses.field(default_factory=dict)
    count: int = 0

    def fresh(self, name: str = "run") -> Path:
        """A path for a run directory."""
        self.count += 1
        return self.folder / f"{name}-{self.count}"

    def options(self, run: Path, processes: int, *more: object, data: str = "data") -> list[str]:
        """The words of the command."""
        said = {
            "model": self.folder / "model", "dataset": self.folder / data, "output-dir": run, "epochs": EPOCHS,
            "train-bs": BATCH // processes, "save-every-steps": SAVE_EVERY, "logging-steps": 1, "workers": 0,
            "lr": 1e-3, "device": "cpu", "report-to": "none", "guard": "off", "eval-bs": 8,
        }  # fmt: skip
        return ["train", *(str(part) for name, value in said.items() for part in (f"--{name}", value)), *map(str, more)]

    def start(
        self, run: Path, processes: int, *more: object, faults: Sequence[Fault] = (), data: str = "data",
        variables: Sequence[Mapping[str, str]] | None = None, own: Mapping[int, Sequence[object]] | None = None,
    ) -> Running:  # fmt: skip
        """Start a run; `own` are further options of single ranks, `variables` what a launcher tells each process."""
        common = self.options(run, processes, *more, data=data)
        arguments = [[*common, *map(str, (own or {}).get(rank, ()))] for rank in range(processes)]
        return self.launcher.start(arguments, variables or plain(processes), faults)

    def train(self, run: Path, processes: int, *more: object, **how: Any) -> Ended:
        """Start a run and wait for its end."""
        return self.start(run, processes, *more, **how).wait()

    def whole(self, processes: int, *more: object, data: str = "data") -> Path:
        """A run that nothing has interrupted."""
        key = (processes, data, *map(str, more))
        if key not in self.wholes:
            self.wholes[key] = self.fresh("whole")
            ended = self.train(self.wholes[key], processes, *more, data=data)
            assert set(ended.codes) == {0}, f"{ended.codes}: {ended.said}"
        return self.wholes[key]


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """A lab in a folder."""
    sources = os.pathsep.join(str(REPOSITORY / root) for root in (".", "plugins", "export"))
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "ICCLIP_LOAD_PLUGINS": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": sources,
        "TOKENIZERS_PARALLELISM": "false", "ICCLIP_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    prepare(folder)
    launcher = Launcher(folder / "launches", environment)
    try:
        yield Lab(folder, launcher, environment)
    finally:
        launcher.close()


def prepare(folder: Path) -> None:
    """Write the model, and the data in its variants."""
    import torch
    from datasets import Dataset, Image, disable_progress_bars
    from transformers import AutoModel

    from icclip.config import ModelConfig
    from icclip.console import Reporter
    from icclip.data.loading import dataset_config, load_splits
    from icclip.models.opening import open_model
    from icclip.plugins.registry import Registry

    disable_progress_bars()
    registry = Registry(load_plugins=frozenset())
    splits: Any = load_splits(registry, dataset_config(registry, "shapes"), Reporter(silent=True))
    rows = splits["train"]
    for name, order in DATA.items():
        (data := folder / name).mkdir()
        rows.select(order).to_parquet(data / "train.parquet")
        for split, images in (("validation", 3 if name == "few" else 16), ("test", 16)):
            splits[split].select(range(images)).to_parquet(data / f"{split}.parquet")
    for name, split, row in (("corrupt", "train", 17), ("corrupt-validation", "validation", 9)):
        shutil.copytree(folder / "data", folder / name)
        table = Dataset.from_parquet(str(folder / name / f"{split}.parquet"))
        content = table.cast_column("image", Image(decode=False)).to_list()
        content[row]["image"]["bytes"] = b"no image"
        kept = Dataset.from_list(content, features=table.features)
        kept.to_parquet(folder / name / f"{split}.parquet")
    texts = [text for captions in rows["captions"] for text in captions]
    loaded = open_model(registry, ModelConfig(name="clip-tiny", image_resize=32), captions=lambda: texts)
    config = loaded.model.config
    for tower in (config.vision_config, config.text_config):
        tower.num_hidden_layers, tower.hidden_size, tower.num_attention_heads, tower.intermediate_size = 1, 32, 2, 64
    config.vision_config.patch_size, config.projection_dim = 8, 32
    torch.manual_seed(0)
    for name, dropout in (("model", 0.0), ("dropout", 0.1)):
        for tower in (config.vision_config, config.text_config):
            tower.attention_dropout = dropout
        AutoModel.from_config(config).save_pretrained(folder / name)
        loaded.feeder.processor.save_pretrained(folder / name)


DATA: Mapping[str, Sequence[int]] = {
    "data": range(IMAGES), "other": range(IMAGES, 2 * IMAGES), "reverse": range(IMAGES)[::-1], "few": range(IMAGES), "five": range(5),
}  # fmt: skip
"""Name -> rows of the training split."""


# How processes are started ------------------------------------------------------------------------


def plain(processes: int) -> list[dict[str, str]]:
    """The variables of torch, which anything can set."""
    port = str(free_port())
    return [
        {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes),
         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} for rank in range(processes)
    ] if processes > 1 else [{}]  # fmt: skip


def foreign(rank: str, size: str, local_rank: str, local_size: str) -> Callable[[int], list[dict[str, str]]]:
    """The variables of another launcher."""

    def variables(processes: int) -> list[dict[str, str]]:
        port = str(free_port())
        return [
            {
                rank: str(number),
                size: str(processes),
                local_rank: str(number),
                local_size: str(processes),
                "MASTER_PORT": port,
            }
            for number in range(processes)
        ]

    return variables


LAUNCHERS = {
    "plain variables": plain,
    "Open MPI's variables": foreign("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    "MVAPICH's variables": foreign("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    "MPICH's variables": foreign("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "SLURM's variables": foreign("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}  # fmt: skip
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no")  # fmt: skip


def through(here: Lab, launcher: Sequence[str], run: Path, *more: object) -> subprocess.Popen[str]:
    """Start a run with a real launcher."""
    port = ["--main_process_port", str(free_port())] if launcher is ACCELERATE else []
    command = [sys.executable, "-m", *launcher, *port, "-m", "icclip", *here.options(run, 2, *more)]
    return subprocess.Popen(command, env=here.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# What a run has left ------------------------------------------------------------------------------


def history(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in history(run) if "loss" in line}


def recalls(run: Path) -> dict[str, float]:
    values = json.loads((run / "test_metric.json").read_text())
    return {name: values[name] for name in RECALLS}


def status(run: Path) -> str:
    path = run / "icclip.json"
    return str(json.loads(path.read_text())["status"]) if path.exists() else "no run"


def each_step_once(run: Path) -> bool:
    """Whether the history has one loss of every step and one measurement of every epoch."""
    lines = history(run)
    steps = [line["step"] for line in lines if "loss" in line]
    measured = [line["step"] for line in lines if "eval_rsum" in line]
    return steps == sorted(set(steps)) and measured == sorted(set(measured))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def identical(run: Path, whole: Path) -> bool:
    """The same weights, history and metrics, to the bit, and nothing half-written."""
    same = all(
        sha256(run / name) == sha256(whole / name)
        for name in ("model.safetensors", f"checkpoint-{STEPS}/model.safetensors")
    )
    left = [path.name for path in run.glob(".*")]
    return (
        same and history(run) == history(whole) and recalls(run) == recalls(whole) and each_step_once(run) and not left
    )


def furthest(run: Path, whole: Path) -> float:
    """The largest distance between the losses of a step."""
    ours, theirs = losses(run), losses(whole)
    return max(abs(ours.get(step, 1e9) - loss) for step, loss in theirs.items())


def furthest_weight(run: Path, whole: Path) -> float:
    """The largest distance between the weights of the last step."""
    ours, theirs = (load_file(one / f"checkpoint-{STEPS}" / "model.safetensors") for one in (run, whole))
    return max(float((ours[name] - weight).abs().max()) for name, weight in theirs.items())


def close(run: Path, whole: Path) -> bool:
    """The same to float tolerance, every step once."""
    return furthest(run, whole) < CLOSE and losses(run).keys() == losses(whole).keys() and each_step_once(run)


def side_by_side(run: Path, whole: Path) -> dict[str, Any]:
    """Losses of every step and the final recalls, of the unbroken run and of this one."""
    return {
        "losses": {"unbroken": list(losses(whole).values()), "resumed": list(losses(run).values())},
        "recalls": {"unbroken": recalls(whole), "resumed": recalls(run)},
        "furthest_loss": float(f"{furthest(run, whole):.1e}"),
        "furthest_weight": float(f"{furthest_weight(run, whole):.1e}"),
    }


# How they end -------------------------------------------------------------------------------------


def complete(ended: Ended) -> bool:
    return set(ended.codes) == {0} and not ended.lines


def in_one_line(ended: Ended, pattern: str, codes: set[int], tracebacks: int = 0) -> tuple[bool, str]:
    """Whether one process said one line, the exit codes are right and no traceback is there that should not be."""
    lines = ended.lines
    found = ended.said.count("Traceback (most recent call last)")
    said = bool(re.search(pattern, "\n".join(lines) if not tracebacks else ended.said))
    ok = (
        len(lines) == (0 if tracebacks else 1)
        and said
        and set(ended.codes) <= codes
        and found == tracebacks
        and not ended.hung
    )
    shown = lines[0].removeprefix("error: ") if lines else "a traceback" if found else "nothing"
    return ok, f"{shortened(shown)}; exit codes {' '.join(map(str, ended.codes))}" + "; hung" * ended.hung + (
        f"; {len(lines)} lines, {found} tracebacks" if not ok else ""
    )


def shortened(text: str) -> str:
    """Without the directories of this machine."""
    return re.sub(r"(/[\w.-]+)+/([\w.-]+)", r"\2", text)


def resumed(here: Lab, run: Path, processes: int, *more: object, data: str = "data") -> tuple[bool, str]:
    """Resume, and compare with the unbroken run."""
    ended = here.train(run, processes, *more, "--resume", data=data)
    if set(ended.codes) != {0}:
        return False, f"the resumed run failed: {shortened(' '.join(ended.lines) or ended.said[-300:])}"
    same = identical(run, here.whole(processes, *more, data=data))
    return same, "resumed bit-identical" if same else "resumed, and NOT identical"


def failing(
    fault: Fault, pattern: str, codes: set[int], processes: int = 2, *more: object, tracebacks: int = 0, left: str = "", again: bool = True,
) -> Callable[[Lab], Seen]:  # fmt: skip
    """A fault, what is said of it, and the run resumed."""

    def run(here: Lab) -> Seen:
        where = here.fresh()
        ended = here.train(where, processes, *more, faults=[fault])
        ok, seen = in_one_line(ended, pattern, codes, tracebacks)
        if left and status(where) != left:
            ok, seen = False, f"{seen}; status {status(where)}"
        if not again:
            return ok, seen, {}
        after, said = resumed(here, where, processes, *[one for one in more if one not in ("--timeout", 5)])
        return ok and after, f"{seen}; {said}", {}

    return run


# The cases ----------------------------------------------------------------------------------------


def cases() -> list[Case]:
    """All of them, in the order of the table."""
    return [
        *launchers(), *uneven(), *kills(), *signals(), *failures(), *writers(), *variables(), *disagreements(), *disks(),
        *elastic(),
    ]  # fmt: skip


def launchers() -> list[Case]:
    def told(variables: Callable[[int], list[dict[str, str]]], processes: int) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            where = here.fresh()
            ended = here.train(where, processes, variables=variables(processes))
            speakers = sum(bool(text.strip()) for text in ended.errors)
            ok = complete(ended) and speakers == 1 and close(where, here.whole(1))
            return ok, f"losses within {furthest(where, here.whole(1)):.0e}; {speakers} process speaks", {}

        return run

    def real(launcher: Sequence[str]) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            where = here.fresh()
            process = through(here, launcher, where)
            process.communicate(timeout=300)
            ok = process.returncode == 0 and close(where, here.whole(1))
            return ok, f"exit code {process.returncode}; losses within {furthest(where, here.whole(1)):.0e}", {}

        return run

    expected = "the losses of one process with the same global batch; one process speaks"
    return [
        Case("launchers", "torchrun", "2", expected, real(TORCHRUN)),
        Case("launchers", "accelerate launch", "2", expected, real(ACCELERATE)),
        *(Case("launchers", f"{name}, {n} processes", str(n), expected, told(variables, n))
          for name, variables in LAUNCHERS.items() for n in ((2, 4) if name == "plain variables" else (2,))),
    ]  # fmt: skip


STREAM = ("--streaming", "--max-steps", STEPS)


def uneven() -> list[Case]:
    def same(n: int, *more: object, data: str = "data") -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            one, several = here.whole(1, *more, data=data), here.whole(n, *more, data=data)
            return close(several, one), f"losses within {furthest(several, one):.0e}", {}

        return run

    def refused(pattern: str, n: int, *more: object, data: str = "data", code: int = 2) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            ok, seen = in_one_line(here.train(here.fresh(), n, *more, data=data), pattern, {code})
            return ok, seen, {}

        return run

    def ones(here: Lab) -> Seen:
        where = here.fresh()
        ended = here.train(where, 2, "--train-bs", 1, "--max-steps", UNDER_WAY)
        return (
            complete(ended) and len(losses(where)) == UNDER_WAY,
            f"exit codes {ended.codes}, {len(losses(where))} steps",
            {},
        )

    left_out = f"{IMAGES % BATCH} of {IMAGES} images are left out of each pass, as by one process"
    return [
        Case("uneven data", "a split that makes no whole batches", "2", left_out, same(2)),
        Case("uneven data", "a stream that makes no whole batches", "2", left_out, same(2, *STREAM)),
        Case("uneven data", "a stream that makes no whole batches, on four", "4", left_out, same(4, *STREAM)),
        Case("uneven data", "fewer validation rows than processes", "4", "measured as by one process", same(4, data="few")),
        Case("uneven data", "fewer images than a global batch", "2", "one line, exit code 2", refused("fewer than one batch", 2, data="five")),
        Case("uneven data", "a stream with fewer rows than a batch", "2", "one line, exit code 2",
             refused("than the 8 images of a step", 2, *STREAM, data="five")),
        Case("uneven data", "--train-bs 1", "2", "trains: the global batch has two", ones),
    ]  # fmt: skip


GONE = r"rank {} ended without a word"


def kills() -> list[Case]:
    found = [
        Case("kills", f"kill -9 of rank {rank} while {moment}", "2", "one line of the survivor; resumed bit-identical",
             failing(Fault(rank, moment, "kill -9"), GONE.format(rank), {-9, 1}))
        for rank in (0, 1) for moment in ("loading", "training", "measuring", "saving", "publishing")
    ]  # fmt: skip

    def of_launcher(moment: str) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            where = here.fresh()
            running = here.start(where, 2)
            wait_for(running, lambda: reached(where, moment))
            os.kill(running.pid, signal.SIGKILL)
            end = time.monotonic() + 60
            while any(map(alive, running.pids)) and time.monotonic() < end:
                time.sleep(0.1)
            gone = not any(map(alive, running.pids))
            after, said = resumed(here, where, 2)
            return gone and after, f"all processes {'end' if gone else 'GO ON'}; {said}", {}

        return run

    def under_torchrun(here: Lab) -> Seen:
        where = here.fresh()
        process = through(here, TORCHRUN, where)
        until(lambda: len(losses(where)) >= UNDER_WAY, process)
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
        _, said = process.communicate(timeout=120)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        after, ended = resumed(here, where, 2)
        ok = len(lines) == 1 and "ended without a word" in lines[0] and after
        return ok, f"{shortened(lines[0][7:]) if lines else 'nothing'}; {ended}", {}

    return [
        *found,
        Case("kills", "kill -9 of rank 2 of four while training", "4", "one line of a survivor; resumed bit-identical",
             failing(Fault(2, "training", "kill -9"), GONE.format(2), {-9, 1}, 4)),
        *(Case("kills", f"kill -9 of the launcher while {moment}", "2", "the processes end themselves; resumed bit-identical",
               of_launcher(moment)) for moment in ("training", "saving", "publishing")),
        Case("kills", "kill -9 of a process of torchrun while training", "2", "one line of the survivor; resumed bit-identical", under_torchrun),
    ]  # fmt: skip


def reached(run: Path, moment: str) -> bool:
    """Whether a run has come to a moment, seen from outside."""
    if moment == "training":
        return len(losses(run)) >= UNDER_WAY
    return any(run.glob(".checkpoint-*.partial" if moment == "saving" else ".publishing*"))


def wait_for(running: Running, has_come: Callable[[], bool]) -> None:
    end = time.monotonic() + 100
    while not has_come() and time.monotonic() < end and any(map(alive, running.pids)):
        time.sleep(0.002)


def until(has_come: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while not has_come() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)


INTERRUPTED = "interrupted; what was saved before is intact"


def signals() -> list[Case]:
    def to_all(what: str) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            where = here.fresh()
            faults = [Fault(rank, "training", what) for rank in range(2)]
            ended = here.train(where, 2, faults=faults)
            ok, seen = in_one_line(ended, f"^error: (rank . )?.*{INTERRUPTED}", {130})
            published = (where / "model.safetensors").exists() and status(where) == "interrupted"
            after, said = resumed(here, where, 2)
            return ok and published and after, f"{seen}; {'published' if published else 'NOT published'}; {said}", {}

        return run

    def to_torchrun(here: Lab) -> Seen:
        where = here.fresh()
        process = through(here, TORCHRUN, where)
        until(lambda: len(losses(where)) >= UNDER_WAY, process)
        process.terminate()
        _, said = process.communicate(timeout=120)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        published = status(where) == "interrupted"
        after, ended = resumed(here, where, 2)
        ok = len(lines) == 1 and INTERRUPTED in lines[0] and published and after
        return ok, f"{'; '.join(lines)}; {'published' if published else 'NOT published'}; {ended}", {}

    one = "one line with the rank, exit code 130 everywhere; the best model published; resumed bit-identical"
    every = "one line, exit code 130 everywhere; the best model published; resumed bit-identical"
    return [
        *(Case("signals", f"{what} to rank {rank}", "2", one,
               failing(Fault(rank, "training", what), f"rank {rank}: {INTERRUPTED}", {130}, left="interrupted"))
          for what in ("SIGTERM", "SIGINT") for rank in (0, 1)),
        Case("signals", "SIGTERM to all", "2", every, to_all("SIGTERM")),
        Case("signals", "SIGINT to all", "2", every, to_all("SIGINT")),
        Case("signals", "SIGTERM to torchrun", "2", every, to_torchrun),
        Case("signals", "SIGTERM to rank 1 while saving", "2", one,
             failing(Fault(1, "saving", "SIGTERM"), f"rank 1: {INTERRUPTED}", {130}, left="interrupted")),
    ]  # fmt: skip


NOTHING = "nothing has gone on for 5 seconds: "


def failures() -> list[Case]:
    def of_data(data: str, pattern: str) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            ok, seen = in_one_line(here.train(here.fresh(), 2, "--cache-images", "off", data=data), pattern, {2})
            return ok, seen, {}

        return run

    def usage(pattern: str, *more: object, said_by: str = "error") -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            ended = here.train(here.fresh(), 2, *more)
            count = len(re.findall(pattern, ended.said))
            ok = count == 1 and set(ended.codes) == {2} and "Traceback" not in ended.said
            return ok, f"said {count} time{'s' * (count != 1)} by {said_by}; exit codes {ended.codes}", {}

        return run

    def absent(here: Lab) -> Seen:
        where, told = here.fresh(), plain(2)
        common = here.options(where, 2, "--timeout", 5)
        ended = here.launcher.start([common], told[:1]).wait()
        ok, seen = in_one_line(ended, "rank 1 did not start within 5 seconds", {1})
        return ok, seen, {}

    def not_finite(here: Lab) -> Seen:
        ended = here.train(here.fresh(), 2, "--lr", "1e30")
        ok, seen = in_one_line(ended, "^error: non-finite", {1})
        return ok, seen, {}

    def stopped(here: Lab) -> Seen:
        where = here.fresh()
        running = here.start(where, 2, "--timeout", 5, faults=[Fault(1, "training", "SIGSTOP")])
        end = time.monotonic() + 90
        while alive(running.pids[0]) and time.monotonic() < end:
            time.sleep(0.1)
        os.kill(running.pids[1], signal.SIGKILL)
        ended = running.wait()
        ok, seen = in_one_line(ended, NOTHING + r".*rank 1 .* \(and silent since\)", {1, -9})
        after, said = resumed(here, where, 2)
        return ok and after, f"{seen}; {said}", {}

    line = "one line with the rank; exit code of a single process; resumed bit-identical"
    where = "one line that says which rank was last seen where; resumed bit-identical"
    return [
        Case("failures", "a corrupt image in training", "2", "one line with the row, exit code 2", of_data("corrupt", "train row 17")),
        Case("failures", "a corrupt image in validation", "2", "one line with the row, exit code 2", of_data("corrupt-validation", "validation row 9")),
        Case("failures", "out of memory on rank 1", "2", line,
             failing(Fault(1, "reading", "out of memory"), "rank 1: out of memory after step 4", {1})),
        Case("failures", "out of GPU memory on rank 0", "2", line,
             failing(Fault(0, "reading", "out of GPU memory"), "rank 0: out of memory after step 4", {1})),
        Case("failures", "out of memory on rank 3 of four", "4", line,
             failing(Fault(3, "reading", "out of memory"), "rank 3: out of memory after step 4", {1}, 4)),
        Case("failures", "the loaders of rank 1 are killed", "2", line,
             failing(Fault(1, "reading", "its loaders are killed"), "rank 1: a process that loads images was killed", {1}, 2, "--workers", 1)),
        Case("failures", "a bug on rank 1", "2", "one traceback, with the rank; exit code 1",
             failing(Fault(1, "training", "a bug"), r"ValueError: a bug\non rank 1", {1}, tracebacks=1)),
        Case("failures", "a bug on rank 0", "2", "one traceback, with the rank; exit code 1",
             failing(Fault(0, "training", "a bug"), r"ValueError: a bug\non rank 0", {1}, tracebacks=1)),
        Case("failures", "rank 1 hangs while reading", "2", where,
             failing(Fault(1, "reading", "hang"), NOTHING + "(.*)rank 1 reading the batch of step 5", {1}, 2, "--timeout", 5)),
        Case("failures", "rank 0 hangs while reading", "2", where,
             failing(Fault(0, "reading", "hang"), NOTHING + "(.*)rank 0 reading the batch of step 5", {1}, 2, "--timeout", 5)),
        Case("failures", "rank 1 hangs while saving", "2", where,
             failing(Fault(1, "saving", "hang"), NOTHING + "(.*)ranks 0, 1 saving", {1}, 2, "--timeout", 5)),
        Case("failures", "rank 1 is stopped (SIGSTOP)", "2", where, stopped),
        Case("failures", "rank 1 is never started", "2", "one line after --timeout, exit code 1", absent),
        Case("failures", "a loss that is not finite", "2", "one line for all ranks, exit code 1", not_finite),
        Case("failures", "an unknown option", "2", "said once, exit code 2", usage("No such option", "--no-such-option", said_by="the parser")),
        Case("failures", "an option out of its range", "2", "said once, exit code 2", usage("error: --lr is -1", "--lr", "-1")),
        Case("failures", "a dataset that is not there", "2", "said once, exit code 2", usage("error: .*nowhere", "--dataset", "nowhere")),
    ]  # fmt: skip


def writers() -> list[Case]:
    def second(*more: object) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            where = here.fresh()
            first = here.start(where, 2, "--timeout", 60, faults=[Fault(1, "training", "SIGSTOP", 4)])
            wait_for(first, lambda: len(losses(where)) >= UNDER_WAY)
            before = sha256(where / "icclip.json")
            ok, seen = in_one_line(here.train(where, 2, *more), "is being written by process|already holds a run", {2})
            untouched = sha256(where / "icclip.json") == before and len(losses(where)) >= UNDER_WAY
            os.kill(first.pids[1], signal.SIGCONT)
            ended = first.wait()
            whole = identical(where, here.whole(2))
            return (
                ok and untouched and complete(ended) and whole,
                f"{seen}; the first run ends bit-identical: {whole}",
                {},
            )

        return run

    def at_once(here: Lab) -> Seen:
        where = here.fresh()
        both = [here.start(where, 1) for _ in range(2)]
        ended = [one.wait() for one in both]
        codes = sorted(one.codes[0] for one in ended)
        whole = identical(where, here.whole(1))
        return codes == [0, 2] and whole, f"exit codes {codes}; the one that runs ends bit-identical: {whole}", {}

    expected = "one line, nothing touched; the first run ends as if alone"
    return [
        Case("two writers", "a second launch", "2", expected, second()),
        Case("two writers", "a second launch with --resume", "2", expected, second("--resume")),
        Case("two writers", "a second launch with --overwrite", "2", expected, second("--overwrite")),
        Case("two writers", "two launches at once", "1", "one of them runs, the other is refused", at_once),
    ]  # fmt: skip


def variables() -> list[Case]:
    def stale(pattern: str, told: Mapping[str, str]) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            where = here.fresh()
            shutil.copytree(here.whole(1), where)
            before = sha256(where / "model.safetensors")
            ok, seen = in_one_line(here.train(where, 1, variables=[told]), pattern, {2})
            kept = sha256(where / "model.safetensors") == before
            return ok and kept, f"{seen}; the run that was there {'stays' if kept else 'IS GONE'}", {}

        return run

    def batch_script(here: Lab) -> Seen:
        where = here.fresh()
        ended = here.train(where, 1, variables=[{"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}])
        return complete(ended) and identical(where, here.whole(1)), f"exit codes {ended.codes}", {}

    expected = "one line, exit code 2; nothing is deleted"
    return [
        Case("stale variables", "RANK=1 alone", "1", expected, stale("RANK is 1 and WORLD_SIZE is not set", {"RANK": "1"})),
        Case("stale variables", "WORLD_SIZE=2 alone", "1", expected, stale("WORLD_SIZE is 2 and RANK is not set", {"WORLD_SIZE": "2"})),
        Case("stale variables", "RANK=5 of WORLD_SIZE=2", "1", expected, stale("must lie between 0 and 1", {"RANK": "5", "WORLD_SIZE": "2"})),
        Case("stale variables", "RANK=first", "1", expected, stale("RANK is 'first'", {"RANK": "first", "WORLD_SIZE": "2"})),
        Case("stale variables", "a batch script of SLURM without srun", "1", "one process", batch_script),
    ]  # fmt: skip


def disagreements() -> list[Case]:
    def other(pattern: str, *own: object) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            where = here.fresh()
            words = [
                here.folder / str(one) if str(one) in DATA else here.fresh("elsewhere") if one == "OTHER" else one
                for one in own
            ]
            ok, seen = in_one_line(here.train(where, 2, own={1: words}), "do not agree: " + pattern, {2})
            return ok and not (where / "icclip.json").exists(), seen, {}

        return run

    expected = "one line that names what differs and on which rank, exit code 2; nothing is written"
    return [
        Case("disagreeing ranks", "another --train-bs on rank 1", "2", expected, other("train_bs is 4 on rank 0 and 2 on rank 1", "--train-bs", 2)),
        Case("disagreeing ranks", "another --seed on rank 1", "2", expected, other("seed is 42 on rank 0 and 7 on rank 1", "--seed", 7)),
        Case("disagreeing ranks", "other rows on rank 1", "2", expected, other("the train split is", "--dataset", "other")),
        Case("disagreeing ranks", "the same rows in another order on rank 1", "2", expected, other("the train split is", "--dataset", "reverse")),
        Case("disagreeing ranks", "another output directory on rank 1", "2", expected, other("the output directory is", "--output-dir", "OTHER")),
    ]  # fmt: skip


def disks() -> list[Case]:
    def small(processes: int) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            with disk(here, "900k") as place:
                where = place / "run"
                ended = here.train(where, processes)
                ok, seen = in_one_line(ended, r"cannot write a checkpoint to .*run: .*(No space left|needs \d+)", {2})
                whole = checkpoints_are_whole(where)
                kept = here.fresh()
                shutil.copytree(where, kept, ignore=shutil.ignore_patterns(".*"))
            after, said = resumed(here, kept, processes)
            return (
                ok and whole and after,
                f"{seen}; the last checkpoint is {'whole' if whole else 'BROKEN'}; {said}",
                {},
            )

        return run

    def read_only(here: Lab) -> Seen:
        with disk(here, "4m") as place:
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            ok, seen = in_one_line(here.train(place / "run", 2), "cannot write .*: Read-only file system", {2})
        return ok, seen, {}

    def filled(here: Lab) -> Seen:
        """Full by the time of a save, where it was not when it began."""
        where = here.fresh()
        ended = here.train(where, 2, faults=[Fault(0, "saving", "disk full")])
        ok, seen = in_one_line(ended, "rank 0: cannot write a checkpoint to .*: No space left", {2})
        whole = checkpoints_are_whole(where)
        after, said = resumed(here, where, 2)
        return ok and whole and after, f"{seen}; the last checkpoint is {'whole' if whole else 'BROKEN'}; {said}", {}

    expected = "one line with the path, exit code 2; the last checkpoint is whole; resumed elsewhere bit-identical"
    return [
        Case("disks", "a disk that is full at the second save", "1", expected, small(1)),
        Case("disks", "a disk that is full at the second save, two processes", "2", expected, small(2)),
        Case("disks", "a disk that fills up in the midst of a save", "2", expected, filled),
        Case("disks", "a disk that cannot be written to", "2", "one line, exit code 2", read_only),
    ]  # fmt: skip


@contextlib.contextmanager
def disk(here: Lab, size: str) -> Iterator[Path]:
    """A file system of its own."""
    place = here.fresh("disk")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "icclip", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def checkpoints_are_whole(run: Path) -> bool:
    """Whether there are checkpoints, and all as they were written."""
    from icclip.runs.checkpoints import damage

    found = list(run.glob("checkpoint-*"))
    return bool(found) and all(damage(one) is None for one in found)


def elastic() -> list[Case]:
    def resumed_by(
        before: int, after: int, *more: object, then: Sequence[object] = (), fsdp: tuple[bool, bool] = (False, False)
    ) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            where = here.fresh()
            faults = [Fault(rank, "training", "kill -9", CUT) for rank in range(before)]
            here.train(where, before, *more, *(["--fsdp"] * fsdp[0]), faults=faults)
            ended = here.train(where, after, *more, "--resume", *(["--fsdp"] * fsdp[1]), *then)
            whole = here.whole(before, *more, *(["--fsdp"] * fsdp[0]))
            if not complete(ended):
                return False, f"failed: {shortened(ended.said[-400:])}", {}
            same = identical(where, whole) if before == after else close(where, whole)
            seen = (
                "bit-identical"
                if before == after and same
                else f"losses within {furthest(where, whole):.0e}, weights within {furthest_weight(where, whole):.0e}"
            )
            equal = recalls(where) == recalls(whole)
            return same and equal, f"{seen}; recalls {'equal' if equal else 'differ'}", side_by_side(where, whole)

        return run

    def with_dropout(*more: object) -> Callable[[Lab], Seen]:
        def run(here: Lab) -> Seen:
            where = here.fresh()
            faults = [Fault(rank, "training", "kill -9", CUT) for rank in range(2)]
            here.train(where, 2, *more, faults=faults)
            ended = here.train(where, 1, *more, "--resume")
            said = "dropout" in ended.said
            whole = here.whole(2, *more)
            seen = f"{'said' if said else 'NOT said'}; losses within {furthest(where, whole):.0e}"
            return complete(ended) and said and each_step_once(where), seen, side_by_side(where, whole)

        return run

    def other_batch(here: Lab) -> Seen:
        where = here.fresh()
        here.train(where, 2, faults=[Fault(rank, "training", "kill -9", CUT) for rank in range(2)])
        ok, seen = in_one_line(here.train(where, 1, "--resume", "--train-bs", 4), "began with batches of 8 images", {2})
        return ok, seen, {}

    lora, ema = ("--lora-rank", 2), ("--ema", 0.9)
    dropping = (*lora, "--lora-dropout", 0.2)
    near, same = (
        "the losses of every step and the recalls of the unbroken run, to float tolerance",
        "the unbroken run, to the bit",
    )

    def case(name: str, processes: str, run: Callable[[Lab], Seen], expected: str = near) -> Case:
        return Case("elastic resume", f"{name}, {processes}", processes, expected, run)

    return [
        case("plain", "2 -> 2", resumed_by(2, 2), same),
        case("plain", "4 -> 4", resumed_by(4, 4), same),
        case("plain", "1 -> 2", resumed_by(1, 2)),
        case("plain", "2 -> 1", resumed_by(2, 1)),
        case("plain", "2 -> 4", resumed_by(2, 4)),
        case("plain", "4 -> 1", resumed_by(4, 1)),
        case("in micro-batches", "2 -> 1", resumed_by(2, 1, then=["--micro-batch", 4])),
        case("out of micro-batches", "1 -> 2", resumed_by(1, 2, "--micro-batch", 2, then=["--micro-batch", 4])),
        case("a stream", "2 -> 2", resumed_by(2, 2, *STREAM), same),
        case("a stream", "2 -> 1", resumed_by(2, 1, *STREAM)),
        case("a stream", "1 -> 2", resumed_by(1, 2, *STREAM)),
        case("a stream", "2 -> 4", resumed_by(2, 4, *STREAM)),
        case("LoRA", "2 -> 1", resumed_by(2, 1, *lora)),
        case("LoRA", "1 -> 2", resumed_by(1, 2, *lora)),
        case("EMA", "1 -> 2", resumed_by(1, 2, *ema)),
        case("EMA", "2 -> 4", resumed_by(2, 4, *ema)),
        case("FSDP", "2 -> 2", resumed_by(2, 2, fsdp=(True, True)), same),
        case("FSDP", "2 -> 4", resumed_by(2, 4, fsdp=(True, True))),
        case("FSDP, then without", "2 -> 1", resumed_by(2, 1, fsdp=(True, False))),
        case("without, then FSDP", "1 -> 2", resumed_by(1, 2, fsdp=(False, True))),
        case("FSDP with LoRA and EMA", "2 -> 4", resumed_by(2, 4, *lora, *ema, fsdp=(True, True))),
        case("LoRA with dropout", "2 -> 2", resumed_by(2, 2, *dropping), same),
        case("LoRA with dropout", "2 -> 1", with_dropout(*dropping), "goes on, and says in a line that the masks are other ones"),
        case("another global batch", "2 -> 1", other_batch, "one line with the way out, exit code 2"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
