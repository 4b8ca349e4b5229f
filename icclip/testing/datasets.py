"""Checks that a dataset loads what its spec promises, and the same every time."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icclip.config import DatasetConfig
from icclip.errors import UsageError
from icclip.plugins.specs import DatasetSpec
from icclip.testing.record import Recorder, SkippedError, no_problems

SPLITS = ("train", "validation", "test")
ROWS = 16
"""The number of rows of each split that are checked."""


def dataset_checks(recorder: Recorder, spec: DatasetSpec, config: DatasetConfig) -> None:
    """Check a dataset and record the results."""
    splits = recorder.get("load", _load_dataset, spec, config)
    if splits is None:
        return
    recorder.run("splits", _check_splits, splits)
    if not recorder.run("columns", _check_columns, splits):
        return
    recorder.run("captions", lambda: no_problems(_caption_problems(splits)))
    if spec.classes is not None:
        recorder.run("classes", lambda: no_problems(_class_problems(spec, config, splits)))
    seen = recorder.get("images decode", _digests, splits)
    if seen is not None:
        recorder.run("loads the same again", lambda: _same_again(seen, _digests(_load_dataset(spec, config))))


def _load_dataset(spec: DatasetSpec, config: DatasetConfig) -> Mapping[str, Any]:
    try:
        splits = spec.load(config)
    except UsageError as error:
        if spec.takes_path and config.path is None:
            raise SkippedError(f"without a path it says: {error}; give one with --path") from error
        raise
    if not isinstance(splits, Mapping):
        raise TypeError(f"returned {type(splits).__name__}: return a datasets.DatasetDict")
    return splits


def _check_splits(splits: Mapping[str, Any]) -> None:
    unknown = [name for name in splits if name not in SPLITS]
    empty = [name for name, split in splits.items() if next(iter(split), None) is None]
    no_problems(
        [f"split {name!r}: call it one of {', '.join(SPLITS)}" for name in unknown]
        + [f"split {name!r} has no rows: leave it out" for name in empty]
        + ([] if splits else ["the dataset has no splits"])
    )


def _check_columns(splits: Mapping[str, Any]) -> None:
    from datasets import Image

    problems = []
    for name, split in splits.items():
        columns = sorted(split.column_names)
        if columns != ["captions", "image"]:
            problems.append(f"split {name!r} has the columns {', '.join(columns)}: give exactly captions and image")
        elif not isinstance(split.features["image"], Image):
            problems.append(f"split {name!r}: the feature of image is {split.features['image']}: use datasets.Image()")
    no_problems(problems)


def _caption_problems(splits: Mapping[str, Any]) -> Iterator[str]:
    for name, split in splits.items():
        for row, captions in enumerate(itertools.islice(split.select_columns("captions"), ROWS)):
            texts = captions["captions"]
            if not isinstance(texts, list) or not texts:
                yield f"split {name!r} row {row}: captions is {texts!r}: give a list with at least one text"
            elif not all(isinstance(text, str) and text.strip() for text in texts):
                yield f"split {name!r} row {row}: a caption is empty or not a string: {texts!r}"


def _class_problems(spec: DatasetSpec, config: DatasetConfig, splits: Mapping[str, Any]) -> Iterator[str]:
    assert spec.classes is not None
    for name, split in splits.items():
        known = set(spec.classes(config, name))
        for row, cell in enumerate(itertools.islice(split.select_columns("captions"), ROWS)):
            own = cell["captions"]
            if len(own) != 1 or own[0] not in known:
                yield f"split {name!r} row {row}: captions is {own!r}: give one of the classes that `classes` names"


def _digests(splits: Mapping[str, Any]) -> dict[str, list[tuple[list[str], str]]]:
    """The captions and a digest of the decoded pixels of the first rows of each split."""
    from datasets import Image

    from icclip.data.images import decode_image

    found: dict[str, list[tuple[list[str], str]]] = {}
    for name, split in splits.items():
        rows = itertools.islice(split.cast_column("image", Image(decode=False)), ROWS)
        for number, row in enumerate(rows):
            source = row["image"]["bytes"] or Path(row["image"]["path"])
            image = decode_image(source, f"split {name!r} row {number}")
            digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
            found.setdefault(name, []).append((row["captions"], digest))
    return found


def _same_again(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    changed = [name for name in first if first[name] != second.get(name)]
    no_problems([f"split {name!r} differs between two loads with the same configuration" for name in changed])
