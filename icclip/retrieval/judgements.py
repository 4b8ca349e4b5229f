"""Right answers as people have judged them, read from a file: TREC's qrels, or JSON.

TREC's layout has a line for each judgement, `QUERY 0 ANSWER GRADE`, separated by white space; the second
column is not used. JSON maps each query to its answers: `{"QUERY": {"ANSWER": 2}}`, or, where all are
equally right, `{"QUERY": ["ANSWER"]}`. Grades above 0 are right answers, and higher ones are better.

A query is an image and its answer a text, or the other way round; one direction is enough, since the
answers of the other follow from it. An image is called by its file name (with or without directories
and extension), by the number at the end of that name (`391895` for `COCO_val2014_000000391895.jpg`), or
by its row in the split, from 0. A text is called `IMAGE#K`, the K-th caption of that image, from 0; in
JSON also by its own words; and where the dataset's captions have ids, as COCO's annotations do, by its id.

One file may judge several splits of a dataset: what names another split's images or texts is passed over.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np

from icclip.errors import DataError
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.relevance import Relevance, same_text

_COLUMNS = 4
_AMBIGUOUS = -1
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of a file."""

    query: str
    answer: str
    grade: float
    where: str
    """File and line, for messages."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a file judges of one split."""

    path: Path
    pairs: np.ndarray
    """int64 [n, 2]: the row of an image and of a text."""
    grades: np.ndarray
    """float64 [n]: how right each pair is; 0 and below mean that it is wrong."""

    @property
    def right(self) -> np.ndarray:
        """int64 [n, 2]: the pairs that are right."""
        found: np.ndarray = self.pairs[self.grades > 0]
        return found

    def relevance(self, captions: CaptionMap) -> Relevance:
        """The right answers of the split with these captions. Raises DataError if there are none."""
        if not len(self.right):
            raise DataError(
                f"{self.path} has no right answers: give at least one grade above 0 to an image and a text of this split"
            )
        return Relevance.judged(captions, self.path.name, self.pairs, self.grades)

    def of_images(self, captions: CaptionMap, rows: np.ndarray) -> Judged:
        """What is judged of some images of the split and of their own captions.

        Args:
            captions: the texts of the whole split.
            rows: int64 [n]: the rows of the images.
        """
        place = np.full(captions.n_images, -1)
        place[rows] = np.arange(len(rows))
        image, text = self.pairs.T
        owner = captions.image_of_text[text]
        kept = (place[image] >= 0) & (place[owner] >= 0)
        image, text, owner = image[kept], text[kept], owner[kept]
        counts = np.diff(captions.offsets)[rows]
        texts = (np.cumsum(counts) - counts)[place[owner]] + text - captions.offsets[owner]
        return Judged(self.path, np.column_stack([place[image], texts]).astype(np.int64), self.grades[kept])


def read_relevance(
    path: Path,
    captions: CaptionMap,
    image_names: Sequence[str | None],
    caption_ids: Mapping[str, tuple[str, int]] | None = None,
) -> Relevance:
    """The right answers of a split, from a file of judgements; for the arguments and errors, see `read_judged`."""
    return read_judged(path, captions, image_names, caption_ids).relevance(captions)


def read_judged(
    path: Path,
    captions: CaptionMap,
    image_names: Sequence[str | None],
    caption_ids: Mapping[str, tuple[str, int]] | None = None,
    *,
    elsewhere: Callable[[str], bool] = lambda _: False,
    by_row: bool = True,
) -> Judged:
    """What a file judges of a split.

    Args:
        path: `.json`, or anything else for TREC's layout.
        captions: the texts of the split.
        image_names: a path or file name for each image, where it has one.
        caption_ids: the id of a caption -> what its image is called, and which of its captions it is. Captions of
            images that the split does not hold are passed over.
        elsewhere: whether a name that the split does not know is one of another split, so that its judgement is
            passed over.
        by_row: whether an image may be called by its row, which is only sure with a single split.

    Raises:
        DataError: the file cannot be read, a line is not in its layout, or names what neither the split nor
            another one holds; the file and the line are named.
    """
    judgements = list(read_judgements(path))
    names = _Names.of(captions, image_names, words=path.suffix == ".json", by_row=by_row)
    names = names.with_ids(caption_ids or {}, judgements)
    judged = []
    for one in judgements:
        try:
            judged.append((*names.pair(one), one.grade))
        except _UnknownError:
            if not (elsewhere(one.query) or elsewhere(one.answer)):
                raise
    table = np.array(judged, np.float64).reshape(-1, 3)
    return Judged(path, table[:, :2].astype(np.int64), table[:, 2])


def names_of_images(image_names: Iterable[str | None]) -> set[str]:
    """All names that files have for these images, other than their rows."""
    return {name for one in image_names for name in _spellings(one, 0)[:-1] if name is not None}


def read_judgements(path: Path) -> Iterator[Judgement]:
    """The lines of a file. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the judgements {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    return _json_judgements(text, path) if path.suffix == ".json" else _trec_judgements(text, path)


def _trec_judgements(text: str, path: Path) -> Iterator[Judgement]:
    for number, line in enumerate(text.splitlines(), 1):
        columns, where = line.split(), f"{path}, line {number}"
        if not columns:
            continue
        if len(columns) != _COLUMNS:
            raise DataError(f"{where}: expected QUERY 0 ANSWER GRADE, got {len(columns)} columns: {line[:_SHOWN]!r}")
        query, _, answer, grade = columns
        yield Judgement(query, answer, _grade(grade, where), where)


def _json_judgements(text: str, path: Path) -> Iterator[Judgement]:
    try:
        content = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}, line {line}: not valid JSON ({getattr(error, 'msg', error)})") from error
    layout = 'expected {"QUERY": {"ANSWER": GRADE}} or {"QUERY": ["ANSWER"]}'
    if not isinstance(content, Mapping):
        raise DataError(f"{path}, line 1: {layout}")
    for query, answers in content.items():
        where = f"{path}, line {_line_of(query, text)}"
        if isinstance(answers, list):
            answers = dict.fromkeys(map(_name, answers), 1)  # noqa: PLW2901  two spellings of one thing
        if not isinstance(answers, Mapping):
            raise DataError(f"{where}: the answers to {query[:_SHOWN]!r} are {str(answers)[:_SHOWN]!r}: {layout}")
        for answer, grade in answers.items():
            yield Judgement(query, answer, _grade(grade, where), where)


def _name(answer: Any) -> str:
    """Published files have numbers as well as texts."""
    return answer if isinstance(answer, str) else json.dumps(answer)


def _line_of(key: str, text: str) -> int:
    """The line of a JSON file in which a key appears first."""
    spellings = (json.dumps(key), json.dumps(key, ensure_ascii=False))
    starts = [start for start in map(text.find, spellings) if start >= 0]
    return text.count("\n", 0, min(starts, default=0)) + 1


def _grade(value: Any, where: str) -> float:
    try:
        grade = float(value)
    except (TypeError, ValueError):
        grade = math.nan
    if not math.isfinite(grade):
        raise DataError(f"{where}: the grade is {str(value)[:_SHOWN]!r}: expected a number")
    return grade


class _UnknownError(DataError):
    """A name that the split does not know."""


@dataclass(frozen=True, slots=True)
class _Names:
    """What files call the images and texts of a split."""

    images: Mapping[str, int]
    """Name -> row; _AMBIGUOUS where several images have it."""
    words: Mapping[str, int]
    """A caption -> the first row that has it; empty where texts are not called so."""
    captions: CaptionMap
    ids: Mapping[str, int] = field(default_factory=dict)
    """The id of a caption -> its row."""
    images_ask: int = 0
    """In how many more lines an image asks for a caption's id than the other way round. Both may be plain numbers."""

    @classmethod
    def of(cls, captions: CaptionMap, image_names: Sequence[str | None], *, words: bool, by_row: bool) -> Self:
        # What is more exact comes first, and a less exact name never takes its place.
        spellings = list(zip(*(_spellings(name, row) for row, name in enumerate(image_names)), strict=True))
        spellings = spellings if by_row else spellings[:-1]
        images: dict[str, int] = {}
        for exactness in spellings:
            found: dict[str, int] = {}
            for row, name in enumerate(exactness):
                if name is not None:
                    found[name] = row if found.get(name, row) == row else _AMBIGUOUS
            images = {**found, **images}
        texts = reversed(list(enumerate(captions.texts))) if words else ()
        return cls(images, {same_text(text): row for row, text in texts}, captions)

    def with_ids(self, caption_ids: Mapping[str, tuple[str, int]], judgements: Sequence[Judgement]) -> Self:
        """With the captions' ids, and how these lines use them."""
        ids = {}
        for name, (image, number) in caption_ids.items():
            row = self.images.get(image, _AMBIGUOUS)
            if row != _AMBIGUOUS and self.captions.offsets[row] + number < self.captions.offsets[row + 1]:
                ids[name] = int(self.captions.offsets[row]) + number
        known = dataclasses.replace(self, ids=ids)
        return dataclasses.replace(known, images_ask=sum(map(known.asks, judgements)))

    def asks(self, judgement: Judgement) -> int:
        """1 where an image asks for a caption's id, -1 the other way round, 0 for neither or where both may be meant."""
        query, answer = judgement.query, judgement.answer
        return (query in self.images and answer in self.ids) - (query in self.ids and answer in self.images)

    def pair(self, judgement: Judgement) -> tuple[int, int]:
        """The rows of image and text. Raises DataError."""
        query, answer, where = judgement.query, judgement.answer, judgement.where
        both = all(name in self.images and name in self.ids for name in (query, answer))
        asks = self.asks(judgement) or (self.images_ask if both else 0)
        if asks:
            image, text = (query, answer) if asks > 0 else (answer, query)
            return self._unambiguous(self.images[image], image, where), self.ids[text]
        found = [self._find(name, judgement.where) for name in (judgement.query, judgement.answer)]
        kinds = [kind for kind, _ in found]
        if kinds[0] == kinds[1]:
            raise DataError(
                f"{judgement.where}: {judgement.query[:_SHOWN]!r} and {judgement.answer[:_SHOWN]!r} are both {kinds[0]}s: "
                "a judgement is about an image and a text (IMAGE#K)"
            )
        rows = dict(found)
        return rows["image"], rows["text"]

    def _find(self, name: str, where: str) -> tuple[str, int]:
        if (row := self.images.get(name)) is not None:
            return "image", self._unambiguous(row, name, where)
        image, mark, number = name.rpartition("#")
        if mark and number.isdecimal() and (row := self.images.get(image)) is not None:
            row = self._unambiguous(row, image, where)
            start, stop = self.captions.offsets[row : row + 2].tolist()
            if int(number) >= stop - start:
                raise DataError(f"{where}: {name!r} does not exist: that image has {stop - start} captions, from #0")
            return "text", start + int(number)
        if (row := self.words.get(same_text(name))) is not None:
            return "text", row
        example = next(iter(self.images), "0")
        raise _UnknownError(
            f"{where}: the split has no image or text called {name[:_SHOWN]!r}; its first image is called {example!r} "
            f"and that image's first text {example + '#0'!r}"
        )

    @staticmethod
    def _unambiguous(row: int, name: str, where: str) -> int:
        if row == _AMBIGUOUS:
            raise DataError(f"{where}: several images of the split are called {name[:_SHOWN]!r}: give their paths")
        return row


def _spellings(name: str | None, row: int) -> tuple[str | None, str | None, str | None, str | None, str]:
    """A path; its file name; that without extension; the number at its end; the row."""
    if name is None:
        return None, None, None, None, str(row)
    path = PurePosixPath(name.replace("\\", "/"))
    number = re.search(r"\d+$", path.stem)
    return name, path.name, path.stem, str(int(number[0])) if number else None, str(row)
