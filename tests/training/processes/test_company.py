"""What a process makes of an error, its own or the echo of another's. Real processes: test_failures.py."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from torch.distributed import HashStore

from icclip.errors import DataError, ElsewhereError, InterruptError, TrainingStoppedError, UsageError
from icclip.identity import Identity
from icclip.training.processes import company as module
from icclip.training.processes.board import Board, Failure, Sighting, ranks
from icclip.training.processes.company import Company

BROKEN = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5214")
TIMED_OUT = RuntimeError("[gloo/unbound_buffer.cc:78] Timed out waiting 5000ms for recv operation to complete")


class GoneStore:
    """As a store whose holder was killed."""

    def __getattr__(self, name):
        raise RuntimeError("Connection reset by peer")


@pytest.fixture
def store():
    return HashStore()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.3)
    monkeypatch.setattr(module, "BEAT", 0.2)


def member(store, rank, size=2, timeout=5.0):
    company = Company(Identity(rank, size, rank, size, "torchrun or accelerate"), timeout)
    company._board = Board(store, rank, size)
    return company


@pytest.fixture
def alive(store):
    """Another process, which gives signs of life."""
    over = threading.Event()

    def live():
        beat = 0
        while not over.wait(0.02):
            beat += 1
            Board(store, 1, 2).sight(Sighting(beat, "reading the batch of step 3", 0.0))

    thread = threading.Thread(target=live)
    thread.start()
    yield
    over.set()
    thread.join()


def test_alone_an_error_is_what_it_is():
    company = Company(Identity(), 5)
    for error in (ValueError("a bug"), KeyboardInterrupt(), DataError("row 3")):
        with pytest.raises(type(error)) as raised, company.together({}):
            raise error
        assert raised.value is error


def test_the_process_that_fails_speaks_and_names_its_rank(store):
    error = DataError("train row 3 is no image")
    assert member(store, 1).settled(error) is error
    assert (error.where, error.settled) == ("rank 1", True)
    assert Board(store, 0, 2).failure() == Failure(1, "train row 3 is no image", 2)


def test_the_others_end_with_its_exit_code_and_say_nothing(store):
    member(store, 1).settled(DataError("train row 3 is no image"))
    ended = member(store, 0).settled(BROKEN)
    assert isinstance(ended, ElsewhereError)
    assert ended.exit_code == 2


def test_what_all_say_is_said_by_the_first_one_without_a_rank(store):
    errors = [UsageError("the disk is full") for _ in range(2)]
    others = threading.Thread(target=lambda: member(store, 1).settled(errors[1]))
    first = threading.Thread(target=lambda: member(store, 0).settled(errors[0]))
    for thread in (first, others):
        thread.start()
    for thread in (first, others):
        thread.join()
    assert sorted(error.settled for error in errors) == [False, True]
    assert all(error.where == "" for error in errors)


@pytest.mark.parametrize("error", [ValueError("a bug"), DataError("row 3"), ElsewhereError(3)])
def test_an_error_is_settled_once(store, error):
    company = member(store, 0)
    assert company.settled(company.settled(error)) is error
    assert len(getattr(error, "__notes__", [])) <= 1


def test_a_bug_keeps_its_traceback_and_gets_the_rank(store):
    error = member(store, 1).settled(ValueError("a bug"))
    assert error.__notes__ == ["on rank 1"]
    assert Board(store, 0, 2).failure().exit_code == 1


def test_a_process_that_is_gone_is_named_with_its_last_place(store):
    Board(store, 1, 2).sight(Sighting(7, "computing step 3", 0.1))
    ended = member(store, 0).settled(BROKEN)
    assert isinstance(ended, TrainingStoppedError)
    assert ended.where == ""
    assert str(ended) == (
        "rank 1 ended without a word (killed, or the machine is gone), last seen computing step 3: start again with --resume"
    )


@pytest.mark.usefixtures("alive")
def test_a_connection_that_breaks_among_the_living_is_said(store):
    ended = member(store, 0).settled(BROKEN)
    assert str(ended).startswith("the connection between the processes broke ([gloo/transport/tcp/pair.cc")


@pytest.mark.usefixtures("alive")
def test_a_wait_that_is_over_says_where_everybody_is(store):
    company = member(store, 0)
    company.at("computing step 3")
    assert str(company.settled(TIMED_OUT)) == (
        "nothing has gone on for 5 seconds: rank 0 computing step 3, rank 1 reading the batch of step 3. Go on with "
        "--resume, or give a larger --timeout if this may take longer"
    )


@pytest.mark.usefixtures("alive")
def test_an_interrupt_is_one_where_the_others_live(store):
    ended = member(store, 0).settled(KeyboardInterrupt())
    assert isinstance(ended, InterruptError)
    assert (str(ended), ended.where, ended.exit_code) == ("interrupted; what was saved before is intact", "rank 0", 130)


def test_an_interrupt_that_a_launcher_sends_because_of_another_is_not_one(store):
    assert "rank 1 ended without a word" in str(member(store, 0).settled(KeyboardInterrupt()))


def test_before_the_others_are_met_an_interrupt_is_no_news():
    company = Company(Identity(1, 2), 5)
    assert company.settled(KeyboardInterrupt()).exit_code == 130
    error = UsageError("no such file")
    assert company.settled(error) is error
    assert not error.settled


def test_without_the_store_the_first_process_is_the_one_that_is_gone():
    assert str(member(GoneStore(), 1).settled(BROKEN)).startswith("rank 0 ended without a word")
    error = DataError("row 3")
    assert member(GoneStore(), 1).settled(error) is error


def test_a_request_to_end_adds_nothing_to_a_failure(store):
    company = member(store, 0)
    assert not company.is_ending()
    company.settled(ValueError("a bug"))
    assert company.is_ending()


@pytest.mark.usefixtures("alive")
def test_a_hang_is_noticed_where_processes_wait_for_each_other(store):
    company = member(store, 0, timeout=0.01)
    company.at("computing step 3")
    time.sleep(0.05)
    # Before the first step one may wait for another's download.
    assert company._hang(company._board) is None
    company._hurried = True
    company._say_where(company._board)
    assert "rank 1 reading the batch of step 3" in company._hang(company._board).line
    assert Board(store, 1, 2).failure() is not None


@pytest.mark.usefixtures("alive")
def test_what_takes_all_of_them_long_is_no_hang(store):
    company = member(store, 0, timeout=0.01)
    company._hurried = True
    company.at("reading the batch of step 3")
    company._say_where(company._board)
    time.sleep(0.05)
    assert company._hang(company._board) is None


def test_a_silent_process_is_a_hang_even_before_the_first_step(store):
    company = member(store, 0, timeout=0.01)
    Board(store, 1, 2).sight(Sighting(1, "loading the data and the model", 0.0))
    time.sleep(0.05)
    assert "rank 1 loading the data and the model (and silent since)" in company._hang(company._board).line


# Meeting -----------------------------------------------------------------------------------------


def at(port):
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.fixture
def taken():
    with socket.socket() as one:
        one.bind(("", 0))
        one.listen()
        yield one.getsockname()[1]


@pytest.fixture
def free(taken):
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


def test_a_taken_port_is_one_line(taken):
    with pytest.raises(
        UsageError, match=rf"the processes cannot meet at 127.0.0.1:{taken} .* set MASTER_PORT to a free one"
    ):
        Board.join(Identity(0, 2), at(taken), 1)


def test_a_first_process_that_is_not_there_is_one_line(free):
    with pytest.raises(
        TrainingStoppedError, match=rf"rank 0 could not be reached at 127.0.0.1:{free} within 0.2 seconds"
    ):
        Board.join(Identity(1, 2), at(free), 0.2)


def test_a_process_that_does_not_come_is_named(free):
    with pytest.raises(TrainingStoppedError, match=r"ranks 1, 2 did not start within 0.2 seconds: look at the output"):
        Board.join(Identity(0, 3), at(free), 0.2)


def test_ranks_are_told_in_words():
    assert (ranks([2]), ranks([0, 2])) == ("rank 2", "ranks 0, 2")
