"""Checks of the arguments that callers give to an encoder."""

from __future__ import annotations

import os
from pathlib import Path

from icclip.errors import InputTypeError, InputValueError
from icclip.runtime.limits import Limits, positive


def as_path(bundle: object) -> Path:
    """Turn the argument into the path of a directory. Raises InputTypeError or InputValueError."""
    if not isinstance(bundle, str | os.PathLike):
        raise InputTypeError(f"bundle is of type {type(bundle).__name__}: give the path of a bundle's directory")
    name = os.fspath(bundle)
    if not isinstance(name, str) or "\0" in name or not name:
        raise InputValueError(f"bundle {name[:80]!r} cannot be a path: give that of a bundle's directory")
    return Path(name)


def check_arguments(precision: object, threads: object, limits: object) -> None:
    """Raise InputTypeError or InputValueError if an argument has the wrong type or is out of range."""
    if precision is not None and not isinstance(precision, str):
        raise InputTypeError(f"precision is of type {type(precision).__name__}: give its name, such as 'fp32'")
    if threads is not None:
        positive("threads", threads)
    if limits is not None and not isinstance(limits, Limits):
        raise InputTypeError(f"limits is of type {type(limits).__name__}: give icclip.runtime.Limits(...)")


def check_batch_size(batch_size: object) -> None:
    """Raise InputTypeError or InputValueError for a wrong batch size; None means the usual size."""
    if batch_size is not None:
        positive("batch_size", batch_size)
