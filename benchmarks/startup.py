"""How long `icclip --help` takes beside `optimum-cli --help`: pairs, one after the other, in one run.

    python -m benchmarks.startup

Writes startup.json beside itself. Compare the ratio, not the seconds, between machines.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

PAIRS = 10
RESULT = Path(__file__).with_suffix(".json")


def main() -> None:
    """Measure, print, write."""
    ours = [sys.executable, "-m", "icclip", "--help"]
    theirs = [shutil.which("optimum-cli", path=Path(sys.executable).parent) or "optimum-cli", "--help"]
    for command in (ours, theirs):
        seconds(command)  # Files come into the system's cache, bytecode is written.
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(PAIRS)]
    result = {
        "icclip_seconds": statistics.median(pair[0] for pair in pairs),
        "optimum_cli_seconds": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
        "pairs": PAIRS,
        "python": platform.python_version(),
        "optimum": version("optimum"),
    }
    print(json.dumps(result, indent=2))
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def seconds(command: list[str]) -> float:
    """Wall-clock time of one run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
