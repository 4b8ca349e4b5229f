"""The steps of docs/container/Dockerfile in a clean virtual environment, where no container can be built.

    python -m benchmarks.container BUNDLE [--index INDEX] [--python PYTHON]

Builds the wheel and installs it with the pip command of the Dockerfile, checks that no torch came along, starts the
service with its ENTRYPOINT and CMD as the user id of its USER (as root; else as oneself), runs its HEALTHCHECK until it passes, and
sends its STOPSIGNAL. PYTHON must be readable to everybody then. Needs a package index. Writes container.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.support.timing import environment, write

REPOSITORY = Path(__file__).parents[1]
READY = 120


def main() -> None:
    """Check, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    text = (REPOSITORY / "docs/container/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        found = checked(text, folder, options)
    print(json.dumps(found, indent=2))
    write(__file__, {"about": environment("icclip"), **found})


def checked(text: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What was seen."""
    own = installed(text, folder, options.python)
    packages = json.loads(
        subprocess.run([own / "pip", "list", "--format", "json"], check=True, capture_output=True).stdout
    )
    names = {one["name"].lower() for one in packages}
    data = folder / "data"
    shutil.copytree(options.bundle, data / "bundle")
    if options.index is not None:
        shutil.copytree(options.index, data / "index")
    subprocess.run(["chmod", "-R", "a+rX", data], check=True)
    size = sum(file.stat().st_size for file in own.parent.rglob("*") if file.is_file())
    served = service(text, folder, own, with_index=options.index is not None)
    return {"packages": len(names), "MB": round(size / 1e6), "torch": bool(names & {"torch", "transformers"}), **served}


def installed(text: str, folder: Path, python: str) -> Path:
    """Run the pip commands of both stages in new environments; the directory of the second one's programs."""
    for stage in ("build", "run"):
        subprocess.run([python, "-m", "venv", folder / stage], check=True)
    build, run = (folder / stage / "bin" for stage in ("build", "run"))
    wanted = _only(r"pip install --no-cache-dir (build==\S+)", text)
    subprocess.run([build / "pip", "install", "--quiet", wanted], check=True)
    wheels = folder / "wheels"
    command = [build / "python", "-m", "build", "--wheel", "--outdir", wheels, REPOSITORY]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copy(REPOSITORY / "constraints.txt", wheels)
    line = _only(r"RUN (pip install --no-cache-dir -c .*?)&&", text).replace("/wheels", str(wheels))
    subprocess.run(
        ["bash", "-ec", line],
        check=True,
        env={**os.environ, "PATH": f"{run}:{os.environ['PATH']}"},
        capture_output=True,
    )
    return run


def service(text: str, folder: Path, own: Path, *, with_index: bool) -> dict[str, Any]:
    """Start it as the Dockerfile says, look at its health, stop it."""
    words = json.loads(_only(r"^CMD (\[.*\])", text))
    entry = json.loads(_only(r"^ENTRYPOINT (\[.*\])", text))
    if not with_index:
        words = [word for word in words if word not in ("--index", "/data/index")]
    words = [word.replace("/data", str(folder / "data")) for word in words]
    user = int(_only(r"--uid (\d+)", text)) if os.geteuid() == 0 else None
    log = (folder / "log").open("w+", encoding="utf-8")
    process = subprocess.Popen(
        [own / entry[0], *entry[1:], *words], cwd="/", user=user, group=user, extra_groups=None if user is None else [], stderr=log,
        env={"PATH": f"{own}:{os.environ['PATH']}", "HOME": str(folder), **settings(text)},
    )  # fmt: skip
    try:
        took = healthy(json.loads(_only(r"HEALTHCHECK .*?CMD (\[.*\])", text)), own, process)
        owner = Path(f"/proc/{process.pid}").stat().st_uid
        with urllib.request.urlopen("http://127.0.0.1:8080/ping", timeout=5) as answer:
            status = answer.status
    finally:
        process.send_signal(getattr(signal, _only(r"STOPSIGNAL (\w+)", text)))
        code = process.wait(60)
        log.seek(0)
        said = log.read()
    return {
        "user id": owner, "healthy after s": took, "ping": status, "exit code after the stop signal": code,
        "traceback": "Traceback" in said,
    }  # fmt: skip


def healthy(command: list[str], own: Path, process: subprocess.Popen[bytes]) -> float:
    """Seconds until the health check passes. It must fail before."""
    began = time.monotonic()
    while subprocess.run([own / command[0], *command[1:]], check=False, capture_output=True).returncode:
        if process.poll() is not None or time.monotonic() - began > READY:
            raise SystemExit(f"the service is not healthy: exit code {process.poll()}")
        time.sleep(0.2)
    return round(time.monotonic() - began, 1)


def settings(text: str) -> dict[str, str]:
    """The ENV of the Dockerfile."""
    return dict(word.split("=", 1) for word in shlex.split(_only(r"^ENV (.*)$", text)))


def _only(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"the Dockerfile has no {pattern}")
    return found[1].strip()


if __name__ == "__main__":
    main()
