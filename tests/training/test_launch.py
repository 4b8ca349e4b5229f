from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from icclip.console import Reporter
from icclip.errors import ConfigError, UsageError
from icclip.training.arguments import converted
from icclip.training.launch import check_launch

REPORT = """
import json, os
open(os.path.join(os.path.dirname(__file__), os.environ.get("RANK", "0")), "w").write(json.dumps(dict(os.environ)))
"""


@pytest.fixture
def launched(tmp_path):
    """What the first process finds that `accelerate launch` starts on a machine without GPUs, and how many there are."""

    def launch(*options):
        (script := tmp_path / "report.py").write_text(REPORT)
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--main_process_port", "0", script]
        without_gpus = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, env=without_gpus, capture_output=True, timeout=300, check=True)
        return json.loads((tmp_path / "0").read_text()), len(list(tmp_path.glob("[0-9]")))

    return launch


@pytest.mark.distributed
def test_one_process_where_several_were_asked_for_is_said(launched, capsys):
    environment, processes = launched("--num_processes", "2")
    assert processes == 1
    check_launch(environment, Reporter())
    assert "asked for several processes and started one" in " ".join(capsys.readouterr().err.split())


@pytest.mark.distributed
def test_two_processes_where_two_were_asked_for_need_no_word(launched, capsys):
    environment, processes = launched("--multi_gpu", "--num_processes", "2")
    assert processes == 2
    check_launch(environment, Reporter())
    assert capsys.readouterr().err == ""


@pytest.mark.distributed
def test_fsdp_is_refused(launched):
    environment, _ = launched("--use_fsdp", "--num_processes", "2")
    with pytest.raises(UsageError, match=r"accelerate was asked for FSDP, .*whole model in every process: leave it"):
        check_launch(environment, Reporter())


def test_a_run_that_nobody_launched_needs_no_word(capsys):
    check_launch({"MASTER_ADDR": "left by another job"}, Reporter())
    assert capsys.readouterr().err == ""


def test_nor_is_the_model_divided_by_a_setting():
    with pytest.raises(ConfigError, match=r"--set fsdp: every process needs the whole model"):
        converted({"fsdp": "full_shard"})
