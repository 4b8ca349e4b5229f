"""The libraries that only an index needs, imported where they are used."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def faiss() -> Any:
    """FAISS, which has no usable type information. Raises ModuleNotFoundError, which the command line explains."""
    return importlib.import_module("faiss")


@cache
def arrow() -> Any:
    """The library of columns: pyarrow."""
    return importlib.import_module("pyarrow")


@cache
def parquet() -> Any:
    """The reader and writer of parquet files in pyarrow."""
    return importlib.import_module("pyarrow.parquet")


@cache
def compute() -> Any:
    """The functions and expressions of pyarrow."""
    return importlib.import_module("pyarrow.compute")
