"""The processes of a run compare what they were given before the first step."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from datasets import Dataset, Image
from support.processes import under_torchrun

from icclip.data.gallery import Gallery
from icclip.errors import EXIT_USAGE
from icclip.models.opening import open_model
from icclip.training.processes.agreement import differences, of_content, of_options, require_agreement

SOURCES = str(Path(__file__).parents[3])
OPTIONS = ["-m", "clip-tiny", "--epochs", "1", "--image-resize", "32", "--device", "cpu", "--workers", "0",
           "--report-to", "none"]  # fmt: skip


def test_what_is_the_same_everywhere_is_not_mentioned():
    assert differences([{"seed": "1", "lr": "0.1"}] * 3) == []


def test_what_differs_is_named_with_its_ranks():
    first, other = {"seed": "1", "train_bs": "4"}, {"seed": "1", "train_bs": "8"}
    assert differences([first, other, first]) == ["train_bs is 4 on ranks 0, 2 and 8 on rank 1"]


def test_what_one_process_alone_has_is_named():
    assert differences([{}, {"the test split": "9 images"}]) == [
        "the test split is absent on rank 0 and 9 images on rank 1"
    ]


def test_a_process_alone_agrees():
    require_agreement({"seed": "1"})


def test_settings_of_a_machine_may_differ_and_others_may_not(config):
    of_machine = dataclasses.replace(config, workers=3, device=None, report_to=("tensorboard",))
    assert differences([of_options(config), of_options(of_machine)]) == []
    other = dataclasses.replace(config, train_bs=3, resume=True)
    assert differences([of_options(config), of_options(other)]) == [
        "train_bs is 2 on rank 0 and 3 on rank 1",
        "resume is False on rank 0 and True on rank 1",
    ]


def test_no_token_is_shown(config):
    secret = dataclasses.replace(config, training_args={"hub_token": "hf_secret"})
    assert "hf_secret" not in str(of_options(secret))


@pytest.fixture
def content(config, registry, data):
    rows = Dataset.from_parquet(str(data / "train.parquet")).cast_column("image", Image(decode=False))
    loaded = open_model(registry, config.model, captions=list)
    return rows, loaded


def test_the_order_of_rows_is_part_of_the_data(content):
    rows, loaded = content
    forth, back = (
        of_content({"train": Gallery.of(rows.select(order), "train")}, loaded)
        for order in (range(len(rows)), range(len(rows))[::-1])
    )
    (line,) = differences([forth, back])
    assert line.startswith("the train split is 16 images with 32 captions (rows ")


def test_one_other_weight_is_another_model(content):
    rows, loaded = content
    splits = {"train": Gallery.of(rows, "train")}
    before = of_content(splits, loaded)
    loaded.model.logit_scale.data.add_(1)
    (line,) = differences([before, of_content(splits, loaded)])
    assert line.startswith("the model is ")


# Two processes through the command line -----------------------------------------------------------


def launched(folder, common, own):
    """Run `icclip train` on two processes; the second one is given `own` too, which win over `common`."""
    script = folder / "each.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        from icclip.cli import main
        own = {list(map(str, own))!r} if os.environ["RANK"] == "1" else []
        main([*sys.argv[1:], *own])
        """)
    )
    environment = os.environ | {
        "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1", "ICCLIP_LOAD_PLUGINS": "", "ICCLIP_CACHE": str(folder / "cache"),
    }  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, script, "train", *OPTIONS, *map(str, common)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def refused_in_one_line(finished):
    """The line, after checking that there is one, that nothing else was said, and that the exit code is that of bad input."""
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.stderr
    assert f"exitcode  : {EXIT_USAGE} " in finished.stderr, finished.stderr
    assert "/icclip/" not in finished.stderr.replace("error: ", ""), "a traceback through our files"
    return lines[0]


@pytest.fixture
def halves(data, tmp_path):
    """Folders with a split each: the rows of `data`, and the same rows in the reverse order."""
    rows = Dataset.from_parquet(str(data / "train.parquet"))
    for name, order in (("forth", range(16)), ("back", range(16)[::-1])):
        (tmp_path / name).mkdir()
        rows.select(order).to_parquet(tmp_path / name / "train.parquet")
    return tmp_path / "forth", tmp_path / "back"


@pytest.mark.slow
@pytest.mark.distributed
def test_another_batch_size_on_one_process_is_one_line(tmp_path, halves):
    run = tmp_path / "run"
    finished = launched(tmp_path, ["-d", halves[0], "-o", run, "--train-bs", 2], ["--train-bs", 3])
    assert "train_bs is 2 on rank 0 and 3 on rank 1" in refused_in_one_line(finished)
    assert not (run / "icclip.json").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_another_output_directory_on_one_process_is_one_line(tmp_path, halves):
    finished = launched(tmp_path, ["-d", halves[0], "-o", tmp_path / "run", "--train-bs", 2], ["-o", tmp_path / "x"])
    assert (
        f"the output directory is {tmp_path / 'run'} on rank 0 and {tmp_path / 'x'} on rank 1"
        in refused_in_one_line(finished)
    )


@pytest.mark.slow
@pytest.mark.distributed
def test_the_same_rows_in_another_order_are_one_line_and_touch_no_cache(tmp_path, halves):
    run, (forth, back) = tmp_path / "run", halves
    finished = launched(tmp_path, ["-d", forth, "-o", run, "--train-bs", 2, "--cache-images", "on"], ["-d", back])
    assert "the train split is " in refused_in_one_line(finished)
    assert not (run / "icclip.json").exists()
    assert not (tmp_path / "cache" / "images").exists()


@pytest.mark.distributed
def test_all_resume_from_what_the_first_one_chose_and_sees(tmp_path):
    first, second = under_torchrun(Path(__file__).with_name("chosen_checkpoint.py"), tmp_path)
    assert first["same"] == second["same"] == "checkpoint-4"
    assert first["later"] == second["later"] == "checkpoint-4"
    assert first["begun"] is second["begun"] is None
    assert "checkpoint-4 is there" in first["unseen"]
    for outcomes in (first, second):
        assert re.search(
            r"is there \(state \w{8}\) on rank 0 and absent from \S+ on rank 1.* that they share", outcomes["unseen"]
        )
        assert re.search(
            r"is there \(state (\w{8})\) on rank 0 and there \(state (?!\1)\w{8}\) on rank 1", outcomes["other"]
        )
