"""The processes of a run part before Python ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.processes import under_torchrun

SCRIPT = Path(__file__).with_name("parting.py")
GLOO = "pt_gloo_runloop"
"""How torch names the threads that send and receive."""


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
@pytest.mark.parametrize("divided", [(), ("--fsdp",)], ids=["whole", "divided"])
def test_the_group_has_ended_when_python_ends(tmp_path, divided):
    """A thread of gloo's that dropped the last reference to a tensor then would abort the process."""
    options = (
        "train", "--model", "clip-tiny", "--dataset", "shapes", "--output-dir", tmp_path / "run", "--device", "cpu",
        "--image-resize", 32, "--workers", 0, "--report-to", "none", "--max-steps", 2, "--guard", "off", *divided,
    )  # fmt: skip
    for seen in under_torchrun(SCRIPT, tmp_path, options=options):
        assert GLOO in seen["during"]
        assert not seen["together"]
        # torch's caches keep the group of a divided model.
        assert GLOO not in seen["at the end"] or divided
