"""Output of commands: results go to stdout, everything else to stderr.

With `--json`, stdout carries one JSON document and nothing else. Progress bars appear only on a
terminal, and only on the first process of a distributed run.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from icclip.identity import identity

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from icclip.results import Result

Advance = Callable[[int], None]


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|[\ud800-\udfff]")
"""Characters with which a caption or a file name could control the terminal, or that it cannot show."""
SURROGATE = re.compile("[\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""Escape the characters in `text` that control a terminal: ESC becomes `\x1b`. Line breaks stay."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def counted(count: int, what: str) -> str:
    """`1 image`, `1,240 images`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


@dataclass(frozen=True)
class Reporter:
    """Prints results, notes and progress for the user.

    Args:
        json: print results as JSON.
        silent: print nothing; for all processes of a distributed run except the first.
    """

    json: bool = False
    silent: bool = False

    @classmethod
    def for_this_process(cls, *, json: bool = False) -> Reporter:
        """Make a reporter that is silent unless this is the first of the processes that a launcher started.

        Raises:
            UsageError: the environment does not tell which process this is; see `icclip.identity`.
        """
        return cls(json=json, silent=not identity().first)

    @cached_property
    def console(self) -> Console:
        """The console for notes and progress, on stderr."""
        return _console(sys.stderr, quiet=self.silent)

    @cached_property
    def results(self) -> Console:
        """The console for tables, on stdout."""
        return _console(sys.stdout, quiet=self.silent or self.json)

    def note(self, message: str) -> None:
        """Print something worth knowing."""
        if self.silent:  # Saying nothing needs no rich.
            return
        self.console.print(harmless(message), markup=False, highlight=False)

    def warn(self, message: str) -> None:
        """Print a warning about something that may be wrong."""
        if self.silent:
            return
        self.console.print("[yellow]warning:[/] ", end="")
        self.console.print(harmless(message), markup=False, highlight=False)

    def header(self, rows: Mapping[str, object]) -> None:
        """Print what is about to run, in aligned lines."""
        width = max(map(len, rows))
        for name, value in rows.items():
            self.console.print(f"[bold]{name.ljust(width)}[/]  ", end="")
            self.console.print(harmless(str(value)), markup=False, highlight=False)

    def deliver(self, result: Result) -> None:
        """Print the result of a command as JSON or for people, then raise the error that its verdict calls for, if any.

        Tables and rich's `Text` are fitted to the terminal. A plain `str` is printed as it is.
        """
        if self.silent:
            pass
        elif self.json:
            sys.stdout.write(_json_line(result.to_mapping()))
        else:
            for renderable in result.renderables():
                self._show(renderable)
        result.verdict()

    def _show(self, renderable: RenderableType) -> None:
        if isinstance(renderable, str):
            self.results.out(harmless(renderable), highlight=False)
        else:
            self.results.print(renderable)

    @contextlib.contextmanager
    def progress(self, description: str, total: int | None) -> Iterator[Advance]:
        """Show a progress bar with the time left; the block calls what it is given with the number of steps done."""
        if self.silent or not self.console.is_terminal:
            yield _ignore
            return
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(escape(harmless(description)), total=total)
            yield lambda steps: bar.advance(task, steps)


def _json_line(payload: Mapping[str, Any]) -> str:
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
    return SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def _ignore(_steps: int) -> None:
    """Stands for a progress bar that nobody would see."""


def _console(stream: TextIO, *, quiet: bool) -> Console:
    from rich.console import Console

    # Without a terminal, a log file or a pipe reads the lines, and breaking them at 80 columns would
    # split paths; tables have a fixed width there.
    width = None if stream.isatty() else 120
    return Console(file=stream, quiet=quiet, width=width, soft_wrap=not stream.isatty())
