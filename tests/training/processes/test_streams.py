"""A stream of tar shards among processes and their workers."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.formats import SHARDS, many_shards
from support.processes import under_torchrun

from icclip.runs.directory import RunDirectory
from icclip.runs.history import HISTORY, read_history
from icclip.runs.record import RECORD, read_record, write_record
from icclip.training.feeding.streams import WHOLE, CaptionedStream, Share, Turns, division

SCRIPT = Path(__file__).with_name("divided_stream.py")
SOURCES = str(Path(__file__).parents[3])
CAPTIONS = sorted(f"{shard} {sample}" for shard in range(SHARDS) for sample in range(8))


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Processes -> what each of them has read of three shards of eight samples, by case."""
    found = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes-{processes}")
        many_shards(folder / "shards", SHARDS, each=8)
        found[processes] = under_torchrun(SCRIPT, folder, processes)
    return found


@pytest.mark.distributed
def test_every_sample_is_read_once_in_a_pass_by_one_of_two_processes_with_two_workers(read):
    # One worker has two shards and the other one, each of them whole batches.
    for one_pass in range(2):
        seen = [caption for report in read[2] for batch in report[2, 4, 1][one_pass] for caption in batch]
        assert sorted(seen) == CAPTIONS


@pytest.mark.distributed
def test_workers_without_a_shard_keep_nobody_waiting(read):
    for one_pass in range(2):
        assert sorted(c for report in read[2] for batch in report[5, 2, 1][one_pass] for c in batch) == CAPTIONS


@pytest.mark.distributed
@pytest.mark.parametrize("case", runpy.run_path(str(SCRIPT))["CASES"])
def test_the_batches_are_the_same_however_many_processes_share_them(read, case):
    (alone,) = (report[case] for report in read[1])
    both = [report[case] for report in read[2]]
    together = [
        [list(chain.from_iterable(parts)) for parts in zip(*passes, strict=True)] for passes in zip(*both, strict=True)
    ]
    assert together == alone
    assert alone[0] != alone[1]


@pytest.mark.distributed
def test_two_processes_open_different_shards_of_a_divided_stream(read):
    opened = [report["opened", 0, 4, 2] for report in read[2]]
    assert opened == [["000.tar", "002.tar"], ["001.tar"]]
    assert read[1][0]["opened", 0, 4, 2] == ["000.tar", "001.tar", "002.tar"]
    # A whole stream is read by both.
    assert [report["opened", 0, 4, 1] for report in read[2]] == [["000.tar", "001.tar", "002.tar"]] * 2


@pytest.mark.distributed
def test_the_part_that_ends_first_ends_the_pass_for_all(read):
    # Two of three shards, one of them half of what its process has: eight samples for each process.
    for one_pass in range(2):
        seen = [caption for report in read[2] for batch in report[0, 4, 2][one_pass] for caption in batch]
        assert len(seen) == len(set(seen)) == 16


@pytest.mark.parametrize(
    ("shards", "processes", "workers", "parts"),
    [
        (8, 2, 0, 2), (8, 2, 4, 2), (8, 4, 2, 4), (41, 5, 1, 5), (80, 3, 2, 3),
        # Not as many for everyone, and too few for one more to be little.
        (3, 2, 0, 1), (8, 2, 3, 1), (1, 2, 0, 1), (1, 1, 0, 1),
    ],
)  # fmt: skip
def test_a_stream_is_divided_where_it_is_fair(shards, processes, workers, parts):
    found = division(SimpleNamespace(num_shards=shards), processes, workers, each=4)
    assert found == (Turns(parts, 4) if parts > 1 else WHOLE)


def test_each_place_of_a_step_is_taken_by_one_process():
    shares = [Share(12, Turns(3, 2), process).places for process in range(3)]
    assert shares == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def trained(folder, run, *options, processes=2):
    environment = os.environ | {"PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1", "ICCLIP_LOAD_PLUGINS": ""}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] * (processes > 1)
    command = [
        sys.executable, *launcher, "-m", "icclip", "train", "-m", "clip-tiny", "-d", folder, "-o", run, "--streaming",
        "--train-bs", 4 // processes, "--workers", 2, "--device", "cpu", "--report-to", "none", "--guard", "off",
        "--logging-steps", 1, *options,
    ]  # fmt: skip
    return subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def losses(run):
    return [line["loss"] for line in read_history(run / HISTORY) if "loss" in line]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("shards", "stream"), [(SHARDS, {}), (4, {"several": 2, "each": 2})], ids=["whole", "divided"])
def test_a_run_over_a_stream_goes_on_with_another_number_of_processes(tmp_path, shards, stream):
    for name, count in (("train", shards), ("validation", 1)):
        many_shards(tmp_path / "shards" / name, count, each=8)
    steps = ("--max-steps", 9, "--save-every-steps", 4)
    whole = trained(tmp_path / "shards", tmp_path / "whole", *steps)
    assert whole.returncode == 0, whole.stderr
    first = trained(tmp_path / "shards", tmp_path / "parts", "--max-steps", 9, "--save-every-steps", 4)
    assert first.returncode == 0, first.stderr
    # As if it had been cut after step 4.
    for step in (6, 8, 9):
        for path in (tmp_path / "parts").glob(f"checkpoint-{step}"):
            path.rename(tmp_path / f"gone-{step}")
    resumed = trained(tmp_path / "shards", tmp_path / "parts", *steps, "--resume", processes=1)
    assert resumed.returncode == 0, resumed.stderr
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)
    # Kept for whoever goes on next.
    assert [RunDirectory.open(tmp_path / name).stream for name in ("parts", "whole")] == [stream] * 2


def test_a_divided_stream_that_has_lost_its_shards_is_one_line(tmp_path, icclip):
    for name in ("train", "validation"):
        many_shards(tmp_path / "shards" / name, 2, each=4)
    command = ["train", "-m", "clip-tiny", "-d", tmp_path / "shards", "-o", tmp_path / "run", "--streaming"]
    command += ["--train-bs", 4, "--device", "cpu", "--report-to", "none", "--guard", "off"]
    assert icclip(*command, "--max-steps", 1).code == 0
    record = read_record(tmp_path / "run" / RECORD) | {"stream": {"several": 3, "each": 4}}
    write_record(tmp_path / "run", record)
    outcome = icclip(*command, "--max-steps", 2, "--resume")
    assert outcome.code == 2
    assert "began with at least 3 shards, and there are 2 now: resume with the same data" in outcome.err


def test_a_stream_that_fills_no_batch_is_one_line(tmp_path, icclip):
    for name in ("train", "validation"):
        many_shards(tmp_path / "shards" / name, 2, each=3)
    options = ["--train-bs", 4, "--workers", 2, "--device", "cpu", "--report-to", "none", "--guard", "off"]
    outcome = icclip(
        "train", "-m", "clip-tiny", "-d", tmp_path / "shards", "-o", tmp_path / "run", "--streaming", "--max-steps", 3,
        *options,
    )  # fmt: skip
    assert outcome.code == 2, outcome.out
    problem = "each worker reads fewer than the 4 images of a step: give a smaller --train-bs or fewer --workers\n"
    assert outcome.err.endswith(f"error: a pass over the stream makes no step: {problem}")


def test_other_workers_would_divide_a_stream_otherwise(tmp_path, icclip):
    for name in ("train", "validation"):
        many_shards(tmp_path / "shards" / name, 2, each=4)
    command = ["train", "-m", "clip-tiny", "-d", tmp_path / "shards", "-o", tmp_path / "run", "--streaming"]
    command += ["--train-bs", 4, "--device", "cpu", "--report-to", "none", "--guard", "off"]
    assert icclip(*command, "--max-steps", 1).code == 0
    outcome = icclip(*command, "--max-steps", 2, "--resume", "--workers", 2)
    assert outcome.code == 2
    assert (
        "began with 0 workers, which divide the stream among themselves, and not with 2: give --workers 0"
        in outcome.err
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_no_more_workers_than_shards_are_started(tmp_path, icclip, monkeypatch):
    started = []
    start = torch.utils.data.DataLoader.__init__

    def noted(self, dataset, *arguments, **options):
        if isinstance(dataset, CaptionedStream):
            started.append(options["num_workers"])
        start(self, dataset, *arguments, **options)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", noted)
    for name in ("train", "validation"):
        many_shards(tmp_path / "shards" / name, 2, each=4)
    outcome = icclip(
        "train", "-m", "clip-tiny", "-d", tmp_path / "shards", "-o", tmp_path / "run", "--streaming", "--max-steps", 2,
        "--train-bs", 4, "--device", "cpu", "--report-to", "none", "--guard", "off", "--workers", 5,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert set(started) == {2}
