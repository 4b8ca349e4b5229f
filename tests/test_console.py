from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from icclip.console import Reporter, counted
from icclip.errors import GateError


@dataclass
class Sample:
    """A result of a command."""

    values: dict
    shown: object = "a table"
    error: Exception | None = None

    def to_mapping(self):
        return self.values

    def renderables(self):
        return [self.shown]

    def verdict(self):
        if self.error is not None:
            raise self.error


def test_words_go_to_stderr_and_results_to_stdout(capsys):
    reporter = Reporter()
    reporter.note("a [note]")
    reporter.warn("careful [/]")
    reporter.header({"model": "clip", "data": "shapes[1]"})
    reporter.deliver(Sample({"a": 1}))
    out, err = capsys.readouterr()
    assert out == "a table\n"
    assert err == "a [note]\nwarning: careful [/]\nmodel  clip\ndata   shapes[1]\n"


def test_json_is_the_only_thing_on_stdout(capsys):
    reporter = Reporter(json=True)
    reporter.note("a note")
    reporter.deliver(Sample({"name": "größe"}))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"name": "größe"}
    assert out.count("\n") == 1
    assert err == "a note\n"


@pytest.mark.parametrize("reporter", [Reporter(), Reporter(json=True), Reporter(silent=True)])
def test_the_verdict_comes_last_whoever_listens(reporter, capsys):
    with pytest.raises(GateError, match="missed"):
        reporter.deliver(Sample({"a": 1}, error=GateError("missed")))
    assert bool(capsys.readouterr().out) is not reporter.silent


def test_a_string_is_printed_as_it_is(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "40")
    text = f"# a [bold]comment[/] of {'many ' * 30}words\nepochs = 5"
    Reporter().deliver(Sample({}, shown=text))
    assert capsys.readouterr().out == text + "\n"


def test_json_refuses_nan():
    with pytest.raises(ValueError, match="Out of range float"):
        Reporter(json=True).deliver(Sample({"a": float("nan")}))


def test_silent_says_nothing(capsys):
    reporter = Reporter(silent=True, json=True)
    reporter.note("a note")
    reporter.warn("a warning")
    reporter.header({"a": 1})
    reporter.deliver(Sample({"a": 1}))
    with reporter.progress("work", 2) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("rank", "silent"), [(None, False), ("0", False), ("1", True)])
def test_only_the_first_process_speaks(monkeypatch, rank, silent):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
    assert Reporter.for_this_process(json=True) == Reporter(json=True, silent=silent)


def test_long_lines_stay_whole_where_there_is_no_terminal(capsys):
    Reporter().note("x" * 500)
    assert capsys.readouterr().err == "x" * 500 + "\n"


def test_no_bar_where_there_is_no_terminal(capsys):
    with Reporter().progress("work", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with Reporter().progress("encoding", 3) as advance:
        advance(3)
    assert "3/3" in capsys.readouterr().err


def test_what_steers_a_terminal_is_written_out(capsys):
    from icclip.console import Reporter, harmless

    hostile = "a\x1b[31m\x9b \u202e\udc80\r[bold]ü\n"
    assert harmless(hostile) == "a\\x1b[31m\\x9b \\u202e\\udc80\\r[bold]ü\n"
    reporter = Reporter()
    reporter.note(hostile)
    reporter.warn(hostile)
    reporter.header({"data": hostile})
    assert capsys.readouterr().err.count("a\\x1b[31m\\x9b \\u202e\\udc80\\r[bold]ü") == 3
    Reporter(json=True).deliver(Sample({"name": hostile}))
    assert __import__("json").loads(capsys.readouterr().out) == {"name": hostile}


def test_an_error_is_one_line_whatever_a_file_is_called(icclip, tmp_path):
    outcome = icclip("train", "-m", "clip-tiny", "-d", f"{tmp_path}/a\nb\x1b[31m.csv")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "a\\nb\\x1b[31m.csv" in outcome.err


def test_one_is_no_plural():
    assert [counted(n, "image") for n in (0, 1, 2, 1240)] == ["0 images", "1 image", "2 images", "1,240 images"]
