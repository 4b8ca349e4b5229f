"""The texts that stand for a class: its name in a handful of templates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icclip.errors import UsageError
from icclip.foreign_files import read_text, reason

PLACE = "{}"
TEMPLATES = (
    "{}",
    "a picture of a {}",
    "an image that shows a {}",
    "a {} seen from nearby",
    "a {} in its usual surroundings",
    "a snapshot with a {} in it",
    "this is what a {} looks like",
)
"""What is used unless a file is given; for any kind of class, so a file that suits the images is often better."""


def templates_in(path: Path | None) -> tuple[str, ...]:
    """The templates of a UTF-8 file, one per line, each with `{}` for the name of the class; blank lines are skipped.

    Args:
        path: the file; None: TEMPLATES.

    Raises:
        UsageError: the file cannot be read, has no templates, or a line has no `{}`.
    """
    if path is None:
        return TEMPLATES
    try:
        lines = read_text(path).removeprefix("\ufeff").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: save it as UTF-8, one template per line") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the templates in {path}: {reason(error)}") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f"{path} has no templates: write one per line, with {PLACE} for the name of the class")
    for number, line in found:
        if PLACE not in line:
            raise UsageError(
                f"{path}, line {number}: {line!r:.80} has no {PLACE}: write {PLACE} where the name of the class goes"
            )
        if "\0" in line:
            raise UsageError(f"{path}, line {number}: holds a NUL character: remove it")
    return tuple(line for _, line in found)


def prompts_of(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All prompts, those of a class together, in the order of the templates."""
    return [template.replace(PLACE, name) for name in names for template in templates]
