"""The errors of icclip; the command line turns each into one line and an exit code.

    IcclipError                 base; a message that names the thing, the place and the way out
    ├── UsageError              exit code 2: the user can fix it
    │   ├── ConfigError         every problem of a configuration at once
    │   ├── UnknownNameError    a model, dataset, split... that is not known, with suggestions
    │   ├── MissingExtraError   an optional dependency that is not installed
    │   ├── PluginError         a plugin that cannot be used
    │   ├── DataError           something in a dataset: file, row, column, image, caption
    │   │   ├── InputTypeError  an argument of a type that the library does not take; also a TypeError
    │   │   └── InputValueError an argument with a value that the library cannot use; also a ValueError
    │   ├── ClosedError         an encoder that was closed is used; also a ValueError, as for files
    │   ├── CheckpointError     something in a model directory or hub repository
    │   └── DisagreementError   the processes of one run were given different things
    ├── TrainingStoppedError         exit code 1: training cannot go on (a non-finite loss)
    ├── InterruptError               exit code 130: the run was asked to stop
    ├── ElsewhereError               another process of the run has failed and says so: this one ends without a word
    └── GateError               exit code 3: a measured result missed its threshold

Anything else that reaches the top is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_GATE = 3
EXIT_INTERRUPTED = 130


class IcclipError(Exception):
    """The base of all errors that are shown as one line, without a traceback."""

    exit_code: int = EXIT_INTERNAL
    where: str = ""
    """Which of several processes it happened on, such as `rank 1`."""
    settled: bool = False
    """Whether the processes of a run have agreed that this one speaks of it."""


class UsageError(IcclipError):
    """Bad input: the message says what, where and what to do."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """All problems of one configuration, reported together."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class UnknownNameError(UsageError):
    """A name that is not among the known ones.

    Args:
        kind: what the name stands for ("dataset", "split", ...).
        name: the unknown name.
        known: the names that would have worked.
        note: anything else worth knowing, such as plugins that failed to load.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], note: str = "") -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        near = difflib.get_close_matches(name, self.known, n=1)
        parts = [f"unknown {kind} {name!r}"]
        if near:
            parts.append(f"did you mean {near[0]!r}?")
        parts.append(f"known: {', '.join(self.known) or 'none'}")
        if note:
            parts.append(note)
        super().__init__("; ".join(parts))


class MissingExtraError(UsageError):
    """An optional dependency is needed, but not installed."""

    def __init__(self, what: str, missing: Iterable[str], install: str) -> None:
        self.missing = tuple(missing)
        self.install = install
        super().__init__(f"{what} needs {', '.join(self.missing)}, not installed here: {install}")


class PluginError(UsageError):
    """A plugin is broken, or two of them claim the same name."""


class DataError(UsageError):
    """A dataset, or one of its rows, cannot be used as it is."""


class InputTypeError(DataError, TypeError):
    """An image, text or argument of a type that the library does not take."""


class InputValueError(DataError, ValueError):
    """An image, text or argument of the right type that cannot be used."""


class ClosedError(UsageError, ValueError):
    """Something is used after it was closed."""


class CheckpointError(UsageError):
    """A model directory or hub repository cannot be used as it is."""


class DisagreementError(UsageError):
    """The processes of one run were given different things; all of them raise it, and the first one reports it."""


class TrainingStoppedError(IcclipError):
    """Training cannot continue; everything that was saved before is intact."""


class InterruptError(IcclipError):
    """The run was asked to stop; what was saved before is intact. A run of one process raises KeyboardInterrupt instead."""

    exit_code = EXIT_INTERRUPTED


class ElsewhereError(IcclipError):
    """Another process of this run has failed and says so: there is nothing to print here.

    Args:
        exit_code: that of the process that failed.
    """

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__("another process of this run has failed")


class GateError(IcclipError):
    """A measured result missed its threshold."""

    exit_code = EXIT_GATE


def shorten(text: str, length: int = 300) -> str:
    """Shorten text to one line of at most `length` characters by leaving out its middle."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    half = (length - len(" ... ")) // 2
    return f"{line[:half]} ... {line[-half:]}"
