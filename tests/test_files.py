from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from icclip.errors import UsageError
from icclip.files import atomic_directory, atomic_write_bytes, atomic_write_json, atomic_write_text

LIMITED = """
import resource, signal, sys
from pathlib import Path
from icclip.errors import UsageError
from icclip.files import atomic_directory, atomic_write_bytes
# As a full disk does, the limit makes write() fail half-way; without the handler it would kill.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
target = Path(sys.argv[1])
try:
    if sys.argv[2] == "file":
        atomic_write_bytes(target, bytes(5000))
    else:
        with atomic_directory(target) as staging:
            (staging / "big").write_bytes(bytes(5000))
except UsageError as error:
    print(error)
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_written_whole_with_the_usual_rights(tmp_path):
    target = tmp_path / "new" / "a.txt"
    atomic_write_text(target, "größe")
    assert target.read_bytes() == "größe".encode()
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert names(target.parent) == ["a.txt"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_write_that_fails_half_way_leaves_the_old_content(tmp_path, kind):
    target = tmp_path / "result"
    if kind == "file":
        target.write_text("old")
    else:
        target.mkdir()
        (target / "old").touch()
    command = [sys.executable, "-c", LIMITED, str(target), kind]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"cannot write result to {target}: File too large\n"
    assert names(tmp_path) == ["result"]
    assert target.read_text() == "old" if kind == "file" else names(target) == ["old"]


def test_json_refuses_what_is_not_json(tmp_path):
    target = tmp_path / "a.json"
    atomic_write_json(target, {"a": [1, "é"]})
    assert json.loads(target.read_text()) == {"a": [1, "é"]}
    with pytest.raises(ValueError, match="Out of range float"):
        atomic_write_json(target, {"a": float("nan")})
    assert json.loads(target.read_text()) == {"a": [1, "é"]}


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write a\.txt to .*: (Not a directory|File exists)"):
        atomic_write_bytes(tmp_path / "file" / "a.txt", b"")
    with (
        pytest.raises(UsageError, match=r"cannot write d to .*: (Not a directory|File exists)"),
        atomic_directory(tmp_path / "file" / "d"),
    ):
        pass


def test_directory_appears_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "bundle"
    with atomic_directory(target) as staging:
        (staging / "a").touch()
        assert not target.exists()
    assert names(target) == ["a"]
    with atomic_directory(target) as staging:
        (staging / "b").touch()
    assert names(target) == ["b"]
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_directory_after_an_error_is_as_it_was(tmp_path, error):
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").touch()

    def fail():
        with atomic_directory(target) as staging:
            (staging / "new").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["bundle"]


def test_concurrent_writers_never_show_a_mixture(tmp_path):
    target = tmp_path / "a.json"
    contents = [bytes([65 + i]) * 200_000 for i in range(4)]
    atomic_write_bytes(target, contents[0])
    stop = threading.Event()
    seen = set()

    def read():
        while not stop.is_set():
            content = target.read_bytes()
            seen.add((len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    writers = [
        threading.Thread(target=lambda c=c: [atomic_write_bytes(target, c) for _ in range(10)]) for c in contents
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    assert seen == {(200_000, 1)}
    assert names(tmp_path) == ["a.json"]
