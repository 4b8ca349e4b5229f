"""Scripts that need several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).parents[2]


def under_torchrun(script: Path, folder: Path, processes: int = 2, options: Sequence[object] = ()) -> list[Any]:
    """Run a script that saves `<rank>.pt` into the folder that it is given first; what each process has saved."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "plugins", REPOSITORY / "export")))
    }
    command = [sys.executable, *torchrun, script, folder, *map(str, options)]
    subprocess.run(command, check=True, env=environment, timeout=300, capture_output=True)
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]
