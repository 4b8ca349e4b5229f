"""Launches of several processes, each of which runs the command line, without waiting for torch to be imported each time.

A process that has imported everything forks a launcher, and this forks the processes of a run: real processes with
their own environment, standard streams and signals, which a shell could have started just as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.support.faults import Fault, install

LONG = 150.0
"""Seconds after which a launch is ended from outside: it hangs."""
NOTED = 10.0
"""Seconds in which the launcher notes the exit code of a process that has ended."""


@dataclass
class Ended:
    """What a launch has left."""

    codes: list[int]
    """Exit code of each process, by rank; a signal is negative."""
    errors: list[str]
    """What each one has printed to stderr."""
    outputs: list[str]
    seconds: float
    hung: bool = False

    @property
    def lines(self) -> list[str]:
        """The error lines of all processes."""
        return [line for text in self.errors for line in text.splitlines() if line.startswith("error: ")]

    @property
    def said(self) -> str:
        return "\n".join(self.errors)


@dataclass
class Running:
    """A launch that goes on."""

    folder: Path
    size: int
    pid: int
    pids: list[int]
    began: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float = LONG) -> Ended:
        """Until all processes have ended; after a time they are ended."""
        deadline, hung = time.monotonic() + seconds, False
        paths = [self.folder / f"{rank}.code" for rank in range(self.size)]
        while any(not path.exists() and alive(pid) for path, pid in zip(paths, self.pids, strict=True)):
            if time.monotonic() > deadline:
                hung = True
                for pid in self.pids:
                    _signal(pid, signal.SIGKILL)
                break
            time.sleep(0.05)
        spent = time.monotonic() - self.began
        self._wait_for_codes(paths)
        codes = [int(path.read_text()) if path.exists() else -9 for path in paths]
        texts = [[(self.folder / f"{rank}.{name}").read_text() for rank in range(self.size)] for name in ("err", "out")]
        return Ended(codes, texts[0], texts[1], round(spent, 1), hung)

    def _wait_for_codes(self, paths: Sequence[Path]) -> None:
        """On a busy machine, the launcher notes the codes of processes that have ended some time later."""
        deadline = time.monotonic() + NOTED
        while any(not path.exists() for path in paths) and alive(self.pid) and time.monotonic() < deadline:
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Launcher:
    """The process that has imported everything.

    Args:
        folder: for the output of the launches.
        environment: of all processes.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.count = folder, 0
        command = [sys.executable, "-m", "benchmarks.support.launches"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment),
        )  # fmt: skip

    def start(
        self, arguments: Sequence[Sequence[str]], variables: Sequence[Mapping[str, str]], faults: Sequence[Fault] = ()
    ) -> Running:
        """Start a process for each list of arguments, with its own environment variables."""
        self.count += 1
        folder = self.folder / f"launch-{self.count}"
        folder.mkdir(parents=True)
        order = {
            "folder": str(folder), "arguments": [list(map(str, one)) for one in arguments],
            "variables": [dict(one) for one in variables], "faults": [asdict(fault) for fault in faults],
        }  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        told = json.loads(self.process.stdout.readline())
        return Running(folder, len(arguments), told["launcher"], told["processes"])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


# In the process that forks ------------------------------------------------------------------------


def main() -> None:
    """Read orders from stdin, one JSON object a line."""
    _import_everything()
    with contextlib.suppress(KeyboardInterrupt):
        for line in _lines(sys.stdin):
            print(json.dumps(_launch(json.loads(line))), flush=True)


def _lines(stream: IO[str]) -> Iterator[str]:
    while line := stream.readline():
        # The launchers of earlier orders.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        yield line


def _import_everything() -> None:
    import datasets
    import peft  # noqa: F401
    import torch
    import torch.distributed.fsdp
    import transformers

    torch.set_num_threads(1)
    # After each pass over a stream.
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
    # They are imported when they are first asked for.
    assert transformers.CLIPModel is not transformers.Trainer


def _launch(order: Mapping[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        os.close(reading)
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        pids = [_fork(order, rank) for rank in range(len(order["arguments"]))]
        os.write(writing, json.dumps(pids).encode() + b"\n")
        os.close(writing)
        _wait(Path(order["folder"]), pids)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        # A line, because the end comes only when all processes that have the pipe have ended.
        return {"launcher": launcher, "processes": json.loads(pipe.readline())}


def _wait(folder: Path, pids: Sequence[int]) -> None:
    ranks = {pid: rank for rank, pid in enumerate(pids)}
    while ranks:
        pid, status = os.wait()
        part = folder / f"{ranks[pid]}.part"
        part.write_text(str(os.waitstatus_to_exitcode(status)))
        part.rename(folder / f"{ranks.pop(pid)}.code")


def _fork(order: Mapping[str, Any], rank: int) -> int:
    launcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    folder = Path(order["folder"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(order["variables"][rank])
    for fault in (Fault(**one) for one in order["faults"]):
        if fault.rank == rank:
            install(fault)
    code = _run(order["arguments"][rank])
    if os.getppid() != launcher:
        # The launcher is gone, and notes no exit code.
        (folder / f"{rank}.code").write_text(str(code))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(arguments: list[str]) -> int:
    from icclip.cli import main as command_line

    try:
        command_line(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:  # noqa: BLE001 # as Python does at the top
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
