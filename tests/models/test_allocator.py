from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from icclip.models import allocator

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
FAULTS = """
import resource, sys, torch
from icclip.models.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def layers():
    image = torch.ones(48, 1 << 20)
    for _ in range(50):
        image = image + 1
    return image.sum().item()
layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
assert layers() == 51 * 48 * 2**20
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in allocator.USERS_OWN:
        monkeypatch.delenv(name, raising=False)


@GLIBC
def test_the_next_layer_gets_the_memory_of_the_last_without_the_kernel():
    """48 MiB x 4 bytes: more than malloc would keep by itself."""
    kept, plain = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("kept", "plain")
    )
    assert plain > 1_000, "huge pages make it fewer"
    assert kept < plain / 10


@pytest.mark.parametrize("name", allocator.USERS_OWN)
def test_settings_of_the_user_stay(monkeypatch, name):
    monkeypatch.setenv(name, "something")
    monkeypatch.setattr(ctypes, "CDLL", pytest.fail)
    assert not allocator.keep_freed_memory()


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not allocator.keep_freed_memory()
