"""The entry point of a SageMaker training job: the container's environment -> `icclip train`.

It is the same `icclip train`, started once a GPU by torch's launcher; this module only finds the data,
names the directories and passes the hyperparameters on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icclip.errors import EXIT_OK, EXIT_USAGE, UsageError
from icclip.files import atomic_write_text
from icclip.publishing.files import LOGS, run_files
from icclip.runs.directory import RunDirectory

MANIFESTS = ("manifest.jsonl", "train.jsonl")
SPLITS = ("validation", "test")
IMAGE_KEYS = ("image", "image_path", "filepath", "path", "file_name")
GATHERED = "gathered"
PORT = 7777
ON, OFF = ("true", "True"), ("false", "False", "null", "None", "")
"""What stands for a switch that is given, and for an option that is not."""
OTHERS = ("sagemaker_", "sagemaker-")
"""How the container's own hyperparameters begin."""


@dataclass(frozen=True, slots=True)
class Container:
    """What SageMaker says to a container, from its environment."""

    base: Path
    """`/opt/ml`, or SAGEMAKER_BASE_DIR."""
    channels: Mapping[str, Path]
    model: Path
    output: Path
    hosts: tuple[str, ...]
    host: str
    gpus: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Container:
        """Read the variables.

        Raises:
            UsageError: one of them is not what SageMaker writes.
        """
        base = Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
        channels = {
            name: Path(environment.get(f"SM_CHANNEL_{name.upper()}", base / "input" / "data" / name))
            for name in ("train", *SPLITS)
        }
        hosts = _json(environment, "SM_HOSTS", ["algo-1"])
        if not isinstance(hosts, list) or not hosts:
            raise UsageError(f"SM_HOSTS is {hosts!r}: a list of names is expected")
        return cls(
            base=base,
            channels={name: path for name, path in channels.items() if path.is_dir()},
            model=Path(environment.get("SM_MODEL_DIR", base / "model")),
            output=Path(environment.get("SM_OUTPUT_DATA_DIR", base / "output" / "data")),
            hosts=tuple(map(str, hosts)),
            host=environment.get("SM_CURRENT_HOST", str(hosts[0])),
            gpus=_json(environment, "SM_NUM_GPUS", 0),
        )

    @property
    def run(self) -> Path:
        """The run directory: where a spot job that starts again finds it."""
        return self.base / "checkpoints" / "run"

    @property
    def first(self) -> bool:
        """Whether this machine publishes the model."""
        return self.host == self.hosts[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the container says, and exit."""
    raise SystemExit(train(sys.argv[1:] if argv is None else argv, os.environ))


def train(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """One training job.

    A run that did not become better than it was (exit code 3 of `icclip train`) is a finished job with a warning in
    its log: its model is whole, and whoever pays for it gets it.

    Args:
        argv: hyperparameters as the container gives them: `--epochs 5 --bf16 true`.
        environment: the variables of the container.

    Returns:
        The exit code of `icclip train`. The last line of an error is in `output/failure`.
    """
    base = Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    try:
        container = Container.of(environment)
        command = [*launcher(container), *_arguments(container, list(argv) or _from_hps(environment))]
        code, lines = _run(command, container, environment)
    except UsageError as error:
        _fail(base, str(error))
        return EXIT_USAGE
    # torch's launcher turns every exit code into 1: whether the run is whole stands in its record.
    if code != EXIT_OK and RunDirectory.open(container.run).status != "complete":
        _fail(base, _reason(lines, code))
        return code
    if container.first:
        _publish(container)
    return EXIT_OK


# From the container to a command ---------------------------------------------------------------------


def launcher(container: Container) -> list[str]:
    """Torch's launcher where several processes train together, and plain Python otherwise."""
    processes = max(1, container.gpus)
    if processes * len(container.hosts) == 1:
        return [sys.executable, "-m", "icclip"]
    where = ["--standalone"]
    if len(container.hosts) > 1:
        where = [
            f"--nnodes={len(container.hosts)}", f"--node_rank={container.hosts.index(container.host)}",
            f"--master_addr={container.hosts[0]}", f"--master_port={PORT}",
        ]  # fmt: skip
    where.append(f"--nproc_per_node={processes}")
    return [sys.executable, "-m", "torch.distributed.run", *where, "-m", "icclip"]


def _arguments(container: Container, hyperparameters: Sequence[str]) -> list[str]:
    given = options(hyperparameters)
    data = _dataset(container)
    own = ["--dataset", str(data), "--output-dir", str(container.run)]
    if data.name == GATHERED:
        # Its images lie in the channels that it links to.
        own.append("--allow-outside-root")
    resume = ["--resume"] if container.run.is_dir() and any(container.run.iterdir()) else []
    return ["train", *own, *resume, *given]


def options(hyperparameters: Sequence[str]) -> list[str]:
    """`--epochs 5 --bf16 true` as `icclip train` reads it: `--epochs 5 --bf16`.

    SageMaker knows no switches: every hyperparameter has a value. `true` stands for a switch that is on; one that is off
    is left out. The container's own (`sagemaker_program`) are too.

    Raises:
        UsageError: a value stands where a name is expected.
    """
    found: list[str] = []
    words = iter(hyperparameters)
    for word in words:
        if not word.startswith("--"):
            raise UsageError(f"hyperparameter {word!r} has no name: write it as --NAME VALUE")
        name, equals, value = word.partition("=")
        value = value if equals else next(words, "true")
        if not name.removeprefix("--").startswith(OTHERS):
            found += _option(name, value)
    return found


def _option(name: str, value: str) -> list[str]:
    if value in ON:
        return [name]
    return [] if value in OFF else [name, value]


def _from_hps(environment: Mapping[str, str]) -> list[str]:
    """The hyperparameters of SM_HPS, for containers that give no arguments."""
    values = _json(environment, "SM_HPS", {})
    if not isinstance(values, Mapping):
        raise UsageError(f"SM_HPS is {values!r}: a table of hyperparameters is expected")
    pairs = ((f"--{name}", value if isinstance(value, str) else json.dumps(value)) for name, value in values.items())
    return [word for pair in pairs for word in pair]


def _dataset(container: Container) -> Path:
    """The training data; with a channel for another split, one directory that names them all.

    Raises:
        UsageError: there is no channel `train`.
    """
    if "train" not in container.channels:
        raise UsageError("there is no channel `train`: give the job one, with manifest.jsonl and its images in it")
    others = {name: container.channels[name] for name in SPLITS if name in container.channels}
    train = container.channels["train"]
    manifest = next((train / name for name in MANIFESTS if (train / name).is_file()), None)
    if manifest is None or not others:
        return train if manifest is None else manifest
    # One manifest a split, whose images are found from where they are.
    gathered = container.base / "input" / GATHERED
    gathered.mkdir(parents=True, exist_ok=True)
    for name, channel in {"train": train, **others}.items():
        _gather(channel, name, gathered)
    return gathered


def _gather(channel: Path, split: str, gathered: Path) -> None:
    """Write a split's manifest beside a link to its images.

    Raises:
        UsageError: the channel has no manifest, or a line that is no JSON object.
    """
    names = (*MANIFESTS, f"{split}.jsonl")
    manifest = next((channel / name for name in names if (channel / name).is_file()), None)
    if manifest is None:
        raise UsageError(f"the channel {split} ({channel}) has none of {', '.join(names)}")
    link = gathered / f"{split}_channel"
    if not link.is_symlink():
        link.symlink_to(channel.resolve(), target_is_directory=True)
    lines = [
        json.dumps(_moved(line, f"{manifest}, line {number}", link.name))
        for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1)
        if line.strip()
    ]
    atomic_write_text(gathered / f"{split}.jsonl", "\n".join(lines) + "\n")


def _moved(line: str, where: str, folder: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: this is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise UsageError(f'{where}: a JSON object is expected, such as {{"image": "a.jpg", "text": "a dog"}}')
    return {
        key: f"{folder}/{value}" if key in IMAGE_KEYS and isinstance(value, str) else value
        for key, value in row.items()
    }


def _json(environment: Mapping[str, str], name: str, default: Any) -> Any:
    try:
        return json.loads(environment[name]) if environment.get(name) else default
    except ValueError as error:
        raise UsageError(f"{name} is {environment[name]!r}: JSON is expected") from error


# Running it ----------------------------------------------------------------------------------------


def _run(command: Sequence[str], container: Container, environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run `icclip train`, print what it prints and what it logs, and pass SIGTERM on: its exit code, its last lines."""
    lines: list[str] = []
    with (
        subprocess.Popen(  # noqa: S603 # our own command; its values are options, and no shell reads them
            list(command),
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as child,
        _passing_on(child),
        _following(container.run / "metrics.jsonl") if container.first else contextlib.nullcontext(),
    ):
        assert child.stdout is not None
        for line in child.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines = [*lines[-50:], line.rstrip()]
        return child.wait(), lines


@contextlib.contextmanager
def _passing_on(child: subprocess.Popen[str]) -> Iterator[None]:
    """A spot interruption is a SIGTERM: the run ends in order, and the next container goes on from its last checkpoint."""
    before = signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _following(history: Path, every: float = 1.0) -> Iterator[None]:
    """Print each new line of the run's history as SageMaker's metric definitions read it."""
    over = threading.Event()
    printed = len(_rows(history))

    def follow() -> None:
        nonlocal printed
        while True:
            last = over.wait(every)
            rows = _rows(history)
            for row in rows[printed:]:
                print_metrics(row, sys.stdout.write)
            sys.stdout.flush()
            printed = len(rows)
            if last:
                return

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _rows(history: Path) -> list[dict[str, Any]]:
    try:
        text = history.read_text(encoding="utf-8")
    except OSError:
        return []
    rows = []
    # The last line may still be written.
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def print_metrics(row: Mapping[str, Any], write: Callable[[str], Any]) -> None:
    """`train_loss=0.0376 step=470 epoch=10.0` for a step; `validation_rsum=598.4 step=470` for an evaluation."""
    step = row.get("step", 0)
    if "loss" in row:
        write(f"train_loss={row['loss']} step={step} epoch={row.get('epoch', 0)}\n")
    if "eval_rsum" in row:
        write(f"validation_rsum={row['eval_rsum']} step={step}\n")


def _reason(lines: Iterable[str], code: int) -> str:
    """The last line that says what was wrong."""
    said = [line for line in lines if line.startswith("error: ")]
    return said[-1].removeprefix("error: ") if said else f"icclip train ended with exit code {code}"


def _fail(base: Path, reason: str) -> None:
    """One line where SageMaker looks for the reason, and in the log."""
    line = " ".join(reason.split())
    sys.stderr.write(f"error: {line}\n")
    (base / "output").mkdir(parents=True, exist_ok=True)
    (base / "output" / "failure").write_text(f"{line}\n", encoding="utf-8")


def _publish(container: Container) -> None:
    """What SageMaker packs as the model, and what as the job's other output."""
    container.model.mkdir(parents=True, exist_ok=True)
    container.output.mkdir(parents=True, exist_ok=True)
    for item in run_files(container.run, logs=True):
        logs = item.path.startswith("logs/") or item.path in LOGS
        target = (container.output if logs else container.model) / item.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(container.run / item.path, target)
    for name in ("metrics.jsonl", "test_metric.json", "validation_metric.json"):
        if (container.run / name).is_file():
            shutil.copyfile(container.run / name, container.output / name)


if __name__ == "__main__":
    main()
