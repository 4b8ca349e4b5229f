from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from icclip.errors import UsageError
from icclip.runs.claim import claim_beside, claim_of, claimed

HOLDER = """
import sys, time
from pathlib import Path
from icclip.runs.claim import claim_of, claimed
with claimed(Path(sys.argv[1]), claim_of(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the claim of `tmp_path / "run"`."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "run")], text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_told_who_holds_it_and_since_when(tmp_path, holder):
    run = tmp_path / "run"
    said = rf"run is being written by process {holder.pid} on .* since 20.*--output-dir"
    with pytest.raises(UsageError, match=said), claimed(run, claim_of(run)):
        pytest.fail("two writers")


def test_a_dead_holder_s_claim_is_taken_over_and_said(tmp_path, holder):
    run, said = tmp_path / "run", []
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with claimed(run, claim_of(run), said.append):
        pass
    (line,) = said
    assert f"process {holder.pid} on " in line
    assert line.endswith("and died; this process takes over")


def test_nothing_is_left_of_a_claim(tmp_path):
    bundle = tmp_path / "bundle"
    with claimed(bundle, claim_beside(bundle)):
        assert [path.name for path in tmp_path.iterdir()] == [".bundle.claim"]
    assert list(tmp_path.iterdir()) == []
    with claimed(bundle, claim_beside(bundle)):
        pass


def test_a_directory_made_for_the_claim_stays_only_with_something_in_it(tmp_path):
    for name in ("empty", "used"):
        with claimed(tmp_path / name, claim_of(tmp_path / name)):
            if name == "used":
                (tmp_path / name / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_a_claim_ends_with_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="broke"), claimed(tmp_path, claim_of(tmp_path)):
        raise RuntimeError("broke")
    with claimed(tmp_path, claim_of(tmp_path)):
        pass


def test_two_claims_in_one_process_exclude_each_other(tmp_path):
    first, second = (claimed(tmp_path, claim_of(tmp_path)) for _ in range(2))
    with first, pytest.raises(UsageError, match="is being written by process"), second:
        pytest.fail("two writers")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    run = tmp_path / "file" / "run"
    with pytest.raises(UsageError, match="cannot write the claim to"), claimed(run, claim_of(run)):
        pytest.fail("no such place")


def test_what_is_no_claim_is_no_holder(tmp_path):
    claim_of(tmp_path).write_text("not json")
    said = []
    with claimed(tmp_path, claim_of(tmp_path), said.append):
        pass
    assert said == []
