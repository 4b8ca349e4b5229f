from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from icclip.console import Reporter
from icclip.errors import ConfigError, UsageError
from icclip.training.processes.launch import as_launched
from icclip.training.step.arguments import converted

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
def test_one_process_where_several_were_asked_for_is_said(launched, config, capsys):
    environment, processes = launched("--num_processes", "2")
    assert processes == 1
    as_launched(config, environment, Reporter())
    assert "asked for several processes but started one" in " ".join(capsys.readouterr().err.split())


@pytest.mark.distributed
def test_two_processes_where_two_were_asked_for_need_no_word(launched, config, capsys):
    environment, processes = launched("--multi_gpu", "--num_processes", "2")
    assert processes == 2
    as_launched(config, environment, Reporter())
    assert capsys.readouterr().err == ""


@pytest.mark.distributed
def test_fsdp_of_accelerate_is_ours(launched, config, capsys):
    environment, processes = launched("--use_fsdp", "--num_processes", "2")
    assert processes == 2
    assert as_launched(config, environment, Reporter()).fsdp
    assert not any("USE_FSDP" in name for name in environment), "accelerate would divide the model too"
    assert "accelerate was asked for FSDP: icclip shards the model as with --fsdp" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("name", ["DeepSpeed", "Megatron_LM"])
def test_other_ways_to_divide_are_refused(config, name):
    with pytest.raises(
        UsageError, match=rf"asked for {name.replace('_', '-')}, which icclip does not support: leave it"
    ):
        as_launched(config, {f"ACCELERATE_USE_{name.upper()}": "true"}, Reporter())


def test_one_process_cannot_divide_a_model(config):
    with pytest.raises(UsageError, match=r"--fsdp shards .* but there is only one: start several with torchrun"):
        as_launched(dataclasses.replace(config, fsdp=True), {}, Reporter())


def test_a_run_that_nobody_launched_needs_no_word(config, capsys):
    as_launched(config, {"MASTER_ADDR": "left by another job"}, Reporter())
    assert capsys.readouterr().err == ""


def test_fsdp_has_its_own_option():
    with pytest.raises(ConfigError, match=r"--set fsdp: use --fsdp"):
        converted({"fsdp": "full_shard"})
