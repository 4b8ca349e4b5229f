"""The record of the conformance kit: every check with its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from icclip.errors import PluginError
from icclip.plugins.loading import describe

T = TypeVar("T")
Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the conformance kit, with its outcome."""

    subject: str
    what: str
    status: Status
    detail: str = ""


class ConformanceError(PluginError):
    """A plugin does not do what its specs promise; `checks` lists every check that was made."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = tuple(checks)
        super().__init__("; ".join(f"{c.subject}: {c.what}: {c.detail}" for c in checks if c.status == "failed"))


class SkippedError(Exception):
    """Raised by a check that cannot run here, with the reason."""


@dataclass
class Recorder:
    """Runs checks on one subject and keeps their outcomes."""

    subject: str
    checks: list[Check] = field(default_factory=list)

    def get(self, what: str, look: Callable[..., T], *arguments: Any) -> T | None:
        """Return `look(*arguments)`; if it raises, record the reason and return None."""
        try:
            found = look(*arguments)
        except KeyboardInterrupt:
            raise
        except SkippedError as reason:
            self.skip(what, str(reason))
            return None
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self.checks.append(Check(self.subject, what, "failed", describe(error)))
            return None
        self.checks.append(Check(self.subject, what, "ok"))
        return found

    def run(self, what: str, look: Callable[..., None], *arguments: Any) -> bool:
        """Run a check; returns whether it passed."""
        self.get(what, look, *arguments)
        return self.checks[-1].status == "ok"

    def skip(self, what: str, reason: str) -> None:
        """Record why a check was skipped."""
        self.checks.append(Check(self.subject, what, "skipped", reason))


def no_problems(problems: Iterable[str]) -> None:
    """Raise ValueError with all problems in one line, if there are any."""
    found = list(problems)
    if found:
        raise ValueError("; ".join(found))


def passed(checks: Sequence[Check]) -> tuple[Check, ...]:
    """Return the checks. Raises ConformanceError if one failed."""
    if any(check.status == "failed" for check in checks):
        raise ConformanceError(checks)
    return tuple(checks)
