"""Read text files that list images: JSON, JSON lines, and tables with any separator."""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icclip.console import Reporter
from icclip.data.foreign import regular_file
from icclip.errors import DataError
from icclip_plugins.datasets.columns import CAPTION_NAMES, IMAGE_NAMES, NUMBERED_CAPTION

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
EXPECTED = {".csv": ",", ".tsv": "\t"}
UNNAMED = re.compile(r"(unnamed: ?\d+)?", re.IGNORECASE)
"""The header of an index column, as pandas writes and reads it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a caption file."""

    where: str
    """File and line, for messages."""
    values: Mapping[str, Any]


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark, as spreadsheets save it.

    Raises:
        DataError: the file cannot be read, or is in another encoding.
    """
    regular_file(path, "cannot read the caption file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8: save it in that encoding") from error


# JSON -------------------------------------------------------------------------------------------


def read_jsonl(path: Path) -> Iterator[Row]:
    """Read one object per line; blank lines are skipped. Raises DataError with the line's number."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield Row(f"{path}:{number}", _object(line, f"{path}:{number}"))


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    return _as_row(value, where)


def _as_row(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f'{where}: expected an object such as {{"image": ..., "caption": ...}}')
    return value


def read_array(path: Path) -> Iterator[Row]:
    """Read the objects of a JSON array, each with the line on which it begins. Raises DataError."""
    text, decoder = read_text(path), json.JSONDecoder()
    at, line = _skip(text, 0), 1
    if text[at : at + 1] != "[":
        raise DataError(f"{path}: expected an array of objects: [{{...}}, ...]")
    line += text.count("\n", 0, at)
    begin, at = at, _skip(text, at + 1)
    while text[at : at + 1] != "]":
        line += text.count("\n", begin, at)
        begin, where = at, f"{path}:{line}"
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON: {error}") from error
        yield Row(where, _as_row(value, where))
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise DataError(f"{where}: not valid JSON: expected ',' or ']' after this object")


def _skip(text: str, at: int) -> int:
    """The position of the next character that is no white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def read_object(path: Path) -> Mapping[str, Any]:
    """Read a file that is one JSON object. Raises DataError."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object")
    return value


# Tables -----------------------------------------------------------------------------------------


def read_table(path: Path) -> Iterator[Row]:
    """Read a table with a header line and one row per line; the separator is found from the header.

    Columns without a name (a pandas index) are left out. A cell that holds a list, as JSON or Python
    writes it, becomes that list.

    Raises:
        DataError: the table is malformed; the message names the line.
    """
    lines = io.StringIO(read_text(path), newline="")
    header = _header_line(lines)
    try:
        separator = find_separator(header, EXPECTED.get(path.suffix.lower(), ","))
    except csv.Error as error:
        raise DataError(f"{path}:1: the header is not that of a table: {error}") from error
    if separator != EXPECTED.get(path.suffix.lower()) and header.strip():
        Reporter.for_this_process().note(f"{path}: the fields are separated by {SEPARATORS[separator]}")
    return _rows(path, lines, header, separator)


def _header_line(lines: io.StringIO) -> str:
    """The first line, or the second if the first is Excel's `sep=;`."""
    first = lines.readline()
    return lines.readline() if re.fullmatch(r'"?sep=.?"?\s*', first) else first


def find_separator(header: str, expected: str) -> str:
    """The separator that gives the header an image and a caption column, or else the one that gives most columns."""

    def merit(separator: str) -> tuple[int, int, bool]:
        names = {name.lower() for name in _split(header, separator)}
        images, captions = names & set(IMAGE_NAMES), {n for n in names if n in CAPTION_NAMES or _numbered(n)}
        return bool(images) + bool(captions), len(names), separator == expected

    return max(SEPARATORS, key=merit)


def _numbered(name: str) -> bool:
    return NUMBERED_CAPTION.fullmatch(name) is not None


def _split(header: str, separator: str) -> list[str]:
    fields = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
    return [field.strip() for field in fields]


def _rows(path: Path, lines: io.StringIO, header: str, separator: str) -> Iterator[Row]:
    names = _checked_names(_split(header, separator), path)
    begun = lines.tell()
    offset = lines.getvalue()[:begun].count("\n")
    # Spaces after separators only belong to the layout if the header has them, too.
    spaced = f"{separator} " in header
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=spaced, strict=True)
    ended = 0
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            # An open quote runs on to the end of the file: where
            # the row began says more than where the reader gave up.
            raise DataError(f"{path}:{offset + ended + 1}: not valid CSV: {error}") from error
        if fields is None:
            return
        ended = reader.line_num
        if fields:
            where = f"{path}:{offset + ended}"
            yield Row(where, _values(names, fields, where, spaced=spaced))


def _checked_names(names: list[str], path: Path) -> list[str]:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}:1: two columns are called {twice}: rename one")
    return names


def _values(names: Sequence[str], fields: Sequence[str], where: str, *, spaced: bool) -> dict[str, Any]:
    if len(fields) != len(names):
        raise DataError(f"{where}: the number of fields differs from the header's ({len(names)})")
    cells = [field.strip() for field in fields] if spaced else fields
    return {name: _cell(cell) for name, cell in zip(names, cells, strict=True) if not UNNAMED.fullmatch(name)}


def _cell(text: str) -> Any:
    """A cell, or the list of captions that it spells."""
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(stripped)
        # A cell that cannot be parsed is a caption that happens to be in brackets.
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and value and all(isinstance(item, str | dict) for item in value):
            return value
    return text
