from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.images import photo
from transformers import CLIPImageProcessor, SiglipImageProcessor

from icclip.console import Reporter
from icclip.errors import DataError, UsageError
from icclip.models.pixels import Pixels
from icclip.training.feeding import cache
from icclip.training.feeding.cache import PixelCache, cache_directory, cache_path, cached_images

PIXELS = Pixels.of(CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}))
IMAGES = [photo(60 + number, 50, seed=number) for number in range(20)]
DIGESTS = [bytes([number]) * 32 for number in range(20)]

FILLING = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from test_cache import IMAGES, PIXELS, Slow
from icclip.console import Reporter
from icclip.training.feeding.cache import cached_images
print("started", flush=True)
cache = cached_images(Slow(IMAGES, float(sys.argv[2])), Path(sys.argv[1]), PIXELS, "on", workers=0, reporter=Reporter())
print(len(cache), cache[7].sum())
"""


class Slow(Sequence):
    """Images that take their time, and leave a trace of each that is decoded."""

    def __init__(self, images, seconds=0.0):
        self.images, self.seconds, self.decoded = images, seconds, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        time.sleep(self.seconds)
        self.decoded += 1
        return self.images[index]


class Broken(Sequence):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        if index == 12:
            raise DataError("row 12: not an image")
        return IMAGES[index]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "images" / "key.npy"


def filled(path, images=IMAGES, mode="on", **options):
    options = {"workers": 0, "reporter": Reporter(silent=True), **options}
    return cached_images(images, path, PIXELS, mode, **options)


def filling(path, seconds=0.0):
    """Another process that fills the cache."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", FILLING, str(path), str(seconds)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_what_the_processor_gives(path, workers):
    rows = filled(path, workers=workers)
    assert len(rows) == 20
    assert torch.equal(PIXELS.resized(list(rows)), PIXELS.resized(IMAGES))
    whole = PIXELS.processor(images=IMAGES, return_tensors="pt")["pixel_values"]
    assert torch.equal(PIXELS.normalised(PIXELS.resized(list(rows))), whole)


def test_a_cache_that_is_there_is_used_and_nothing_decoded(path):
    first, images = filled(path), Slow(IMAGES)
    again = filled(path, images)
    assert images.decoded == 0
    assert np.array_equal(again[3], first[3])


def test_its_size_and_place_are_announced(path, capsys):
    filled(path, reporter=Reporter())
    assert f"image cache: 20 images, 60 KiB in {path}" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "text"), [(7, "7 bytes"), (5 << 20, "5 MiB"), (5 << 29, "2.5 GiB")])
def test_sizes_are_readable(count, text):
    assert cache._size(count) == text


def test_slices_shards_and_ends(path):
    rows = filled(path)
    assert np.array_equal(rows[5:8][1], rows[6])
    assert np.array_equal(rows[-1], rows[19])
    assert [len(rows.shard(3, index)) for index in range(3)] == [7, 7, 6]
    assert np.array_equal(rows.shard(3, 2)[0], rows[14])
    assert len(rows[:2].shard(3, 2)) == 0
    with pytest.raises(IndexError):
        rows[20]


def test_workers_get_the_path_and_not_the_pixels(path):
    rows = filled(path)[2:]
    content = pickle.dumps(rows)
    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content)[0], rows[0])


def test_the_name_follows_content_order_and_settings():
    path = cache_path(DIGESTS, PIXELS)
    assert cache_path(DIGESTS, PIXELS) == path
    assert path.parent == cache_directory() / "images"
    others = [
        cache_path([*DIGESTS[:-1], b"x" * 32], PIXELS),
        cache_path(DIGESTS[::-1], PIXELS),
        cache_path(DIGESTS[:-1], PIXELS),
        cache_path(DIGESTS, Pixels.of(CLIPImageProcessor())),
        cache_path(DIGESTS, Pixels.of(CLIPImageProcessor(resample=2, **_sizes(PIXELS.processor)))),
        cache_path(DIGESTS, Pixels.of(SiglipImageProcessor(size={"height": 32, "width": 32}))),
    ]
    assert len({path, *others}) == 7
    same = CLIPImageProcessor(image_mean=[0, 0, 0], **_sizes(PIXELS.processor))
    assert cache_path(DIGESTS, Pixels.of(same)) == path


def _sizes(processor):
    return {"size": processor.size, "crop_size": processor.crop_size}


def test_the_directory_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("ICCLIP_CACHE", str(tmp_path / "a"))
    assert cache_directory() == tmp_path / "a"
    monkeypatch.delenv("ICCLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_directory() == tmp_path / "b" / "icclip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "icclip"


def test_two_processes_that_start_together_fill_once(path):
    first = filling(path, seconds=0.1)
    first.stdout.readline()
    while not path.with_suffix(".part").exists():
        time.sleep(0.02)
    second = filling(path)
    (first_out, first_err), (second_out, second_err) = first.communicate(timeout=120), second.communicate(timeout=120)
    assert first.returncode == second.returncode == 0, first_err + second_err
    assert first_out == second_out.removeprefix("started\n") == f"20 {PIXELS.resized(IMAGES)[7].sum()}\n"
    assert [file.suffix for file in sorted(path.parent.iterdir())] == [".lock", ".npy"]


def test_what_a_killed_process_left_half_written_is_not_used(path):
    process = filling(path, seconds=0.1)
    while not path.with_suffix(".part").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.with_suffix(".part").exists()
    assert not path.exists()
    assert torch.equal(PIXELS.resized(list(filled(path))), PIXELS.resized(IMAGES))
    assert not path.with_suffix(".part").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "another file", "too few rows"])
def test_a_damaged_cache_is_filled_again(path, capsys, damage):
    whole = filled(path)[7].copy()
    content = {
        "truncated": path.read_bytes()[:-100],
        "empty": b"",
        "another file": b"not an array" * 50,
        "too few rows": path.read_bytes().replace(b"(20, 3, 32, 32)", b"(10, 3, 32, 32)"),
    }[damage]
    path.write_bytes(content)
    again = filled(path, reporter=Reporter())
    assert len(again) == 20
    assert np.array_equal(again[7], whole)
    assert f"the image cache {path} is damaged: filling it again" in " ".join(capsys.readouterr().err.split())


def test_a_damaged_cache_that_is_not_worth_filling_is_left_alone(path):
    filled(path)
    path.write_bytes(b"")
    assert filled(path, mode="auto", worth_filling=False) is None


def test_waiting_for_another_process_is_said(path, capsys):
    process = filling(path, seconds=0.1)
    while not path.with_suffix(".part").exists():
        time.sleep(0.02)
    filled(path, reporter=Reporter())
    process.communicate()
    assert f"another process is filling the image cache {path}: waiting for it" in capsys.readouterr().err


def test_a_broken_image_leaves_nothing(path):
    for workers in (0, 1):
        with pytest.raises(DataError, match="row 12: not an image"):
            filled(path, Broken(), workers=workers)
    assert [file.suffix for file in path.parent.iterdir()] == [".lock"]


def test_without_room_auto_goes_without_and_on_is_an_error(path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000))
    assert filled(path, mode="auto", reporter=Reporter()) is None
    assert "it needs 60 KiB and must leave 4.0 GiB free, and the disk has 49 KiB" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"cannot write the image cache .* set ICCLIP_CACHE to another directory"):
        filled(path)


def test_on_needs_nothing_to_spare(path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 3 * 32 * 32))
    assert len(filled(path)) == 20


def test_a_directory_that_cannot_be_written(path):
    path.parent.write_text("a file in the way")
    with pytest.raises(UsageError, match="cannot write the image cache"):
        filled(path)
    assert filled(path, mode="auto") is None


def test_a_cache_that_is_not_worth_filling_is_used_where_it_is_there(path):
    assert filled(path, mode="auto", worth_filling=False) is None
    assert not path.parent.exists()
    filled(path)
    assert isinstance(filled(path, mode="auto", worth_filling=False), PixelCache)


def test_what_is_asked_for_is_filled_even_so(path):
    assert isinstance(filled(path, worth_filling=False), PixelCache)
