"""The share of a split that each process measures: it may be empty, and counts its rows as the split does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Image

from icclip.data.split import SplitImages
from icclip.errors import DataError
from icclip.runs.history import HISTORY, read_history

SOURCES = str(Path(__file__).parents[3])


@pytest.fixture
def rows(data):
    return Dataset.from_parquet(str(data / "train.parquet"))


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 9])
def test_shares_are_the_whole_split_in_its_order(rows, pictures, processes):
    images = SplitImages(rows.select(range(5)).cast_column("image", Image(decode=False)))
    shares = [images.shard(processes, index) for index in range(processes)]
    assert sum(map(len, shares)) == 5
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [image.tobytes() for share in shares for image in share] == [image.tobytes() for image in pictures[:5]]


def test_a_message_names_the_row_of_the_split(rows):
    encoded = rows.cast_column("image", Image(decode=False)).select(range(6)).to_list()
    encoded[4]["image"]["bytes"] = b"no image"
    images = SplitImages(Dataset.from_list(encoded), "validation")
    for share, row in ((images.shard(2, 1), 1), (images.shard(2, 1).shard(3, 1), 0)):
        with pytest.raises(DataError, match=r"validation row 4\b"):
            share[row]


def trained(data, run, launcher=()):
    environment = os.environ | {"PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1", "ICCLIP_LOAD_PLUGINS": ""}
    options = ["-m", "clip-tiny", "-d", data, "-o", run, "--image-resize", "32", "--max-steps", "1", "--device", "cpu",
               "--workers", "0", "--report-to", "none", "--guard", "off", "--train-bs", "12" if not launcher else "4"]  # fmt: skip
    command = [sys.executable, "-m", *launcher, *(["-m"] if launcher else []), "icclip", "train", *map(str, options)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    before_training = next(line for line in read_history(run / HISTORY) if "eval_rsum" in line)
    assert before_training["step"] == 0
    return {name: value for name, value in before_training.items() if name.startswith("eval_")}


@pytest.mark.slow
@pytest.mark.distributed
def test_a_split_of_fewer_rows_than_processes_is_measured_as_by_one_process(rows, tmp_path):
    (folder := tmp_path / "few").mkdir()
    rows.select(range(12)).to_parquet(folder / "train.parquet")
    for split in ("validation", "test"):
        few = rows.select(range(12, 14))
        few = few.remove_columns("captions").add_column("captions", [["the first"], ["another"]])
        few.to_parquet(folder / f"{split}.parquet")
    one = trained(folder, tmp_path / "one")
    three = trained(folder, tmp_path / "three", ["torch.distributed.run", "--standalone", "--nproc-per-node", "3"])
    assert one.keys() == three.keys()
    assert {"eval_rsum", "eval_image_uniformity"} <= one.keys()
    assert three == pytest.approx(one, abs=1e-4)
