"""A bundle's golden inputs: images and texts with the embeddings and scores that the checkpoint gave."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icclip.errors import CheckpointError
from icclip.foreign_files import check_regular, read_json, reason

if TYPE_CHECKING:
    from PIL.Image import Image

DIRECTORY = "golden"
_TEXTS, _IMAGE_EMBEDDINGS, _TEXT_EMBEDDINGS = "texts.json", "image_embeds.npy", "text_embeds.npy"
_SCORES = "scores.json"
_ORIENTATION = 0x0112
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class GoldenScores:
    """The scores of the first image with every text, by the checkpoint's temperature, bias and kind of loss."""

    log_scores: np.ndarray
    """float64 [len(texts)]: natural logarithms of the scores that `Encoder.rank` returns."""
    factor: float
    """The factor by which the checkpoint multiplies cosines; it tells how much a score changes with a cosine."""


@dataclass(frozen=True)
class Golden:
    """Inputs with the embeddings and scores that the checkpoint gave."""

    images: tuple[Path, ...]
    texts: tuple[str, ...]
    image_embeddings: np.ndarray
    """float32 [len(images), dim], rows of length 1."""
    text_embeddings: np.ndarray
    """float32 [len(texts), dim], rows of length 1."""
    scores: GoldenScores | None = None
    """None if the export target writes no scores."""


def write_golden(
    bundle: Path,
    images: Sequence[Image],
    texts: Sequence[str],
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    *,
    names: Sequence[str] = (),
    scores: GoldenScores | None = None,
) -> None:
    """Write `golden/`; call `manifest.seal` afterwards.

    Args:
        bundle: the directory of the bundle.
        images: saved as PNG without changes; of their EXIF data, only the orientation is kept.
        texts: saved without changes.
        image_embeddings: float [len(images), dim], rows of length 1.
        text_embeddings: float [len(texts), dim], rows of length 1.
        names: names of the images for their file names, from the first on; without them, files only have numbers.
        scores: the scores of the first image with every text.
    """
    root = bundle / DIRECTORY
    root.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        _save(image, root / f"{index:03}{_slug(names[index]) if index < len(names) else ''}.png")
    if scores is not None:
        values = {"log_scores": scores.log_scores.tolist(), "factor": scores.factor}
        (root / _SCORES).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (root / _TEXTS).write_text(json.dumps(list(texts), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    np.save(root / _IMAGE_EMBEDDINGS, image_embeddings.astype(np.float32), allow_pickle=False)
    np.save(root / _TEXT_EMBEDDINGS, text_embeddings.astype(np.float32), allow_pickle=False)


def read_golden(bundle: Path) -> Golden:
    """Read `golden/`. Raises CheckpointError."""
    root = bundle / DIRECTORY
    try:
        golden = Golden(
            images=tuple(sorted(root.glob("*.png"))),
            texts=_read_texts(root / _TEXTS),
            image_embeddings=_read_embeddings(root / _IMAGE_EMBEDDINGS),
            text_embeddings=_read_embeddings(root / _TEXT_EMBEDDINGS),
            scores=_read_scores(root / _SCORES),
        )
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        MemoryError,
    ) as error:
        raise CheckpointError(f"{root} cannot be read ({reason(error)}): export the checkpoint again") from error
    counts = (len(golden.images), len(golden.texts))
    rows = (len(golden.image_embeddings), len(golden.text_embeddings))
    if counts != rows or 0 in counts:
        raise CheckpointError(f"{root} holds {counts} images and texts for {rows} embeddings: export again")
    if golden.scores is not None and golden.scores.log_scores.shape != (len(golden.texts),):
        raise CheckpointError(f"{root / _SCORES} does not hold a score for each of {counts[1]} texts: export again")
    return golden


def _save(image: Image, path: Path) -> None:
    from PIL.Image import Exif

    orientation, exif = image.getexif().get(_ORIENTATION), Exif()
    if orientation is not None:
        exif[_ORIENTATION] = orientation
    image.save(path, exif=exif)


def _slug(name: str) -> str:
    """A name as part of a file's: `-one-to-three`."""
    return "".join(f"-{word}" for word in re.findall(r"[a-z0-9]+", name.lower().replace("'", "")))


def _read_scores(path: Path) -> GoldenScores | None:
    if not path.is_file():
        return None
    values = read_json(path)
    scores = GoldenScores(np.asarray(values["log_scores"], np.float64), float(values["factor"]))
    if not (np.isfinite(scores.factor) and np.isfinite(scores.log_scores).all()):
        raise ValueError(f"{path.name} holds a score that is not finite")
    return scores


def _read_texts(path: Path) -> tuple[str, ...]:
    texts = read_json(path)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path.name} is not a list of texts")
    return tuple(texts)


def _read_embeddings(path: Path) -> np.ndarray:
    check_regular(path, _MOST_BYTES)
    # Mapped, because a header may claim any shape, and only the size of the file tells the truth.
    found = np.lib.format.open_memmap(path, mode="r")
    if found.ndim != 2 or found.dtype.kind != "f":  # noqa: PLR2004  [n, dim]
        raise ValueError(f"{path.name} does not hold a row of numbers for each input")
    rows = np.array(found, np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"{path.name} holds a number that is not finite")
    return rows
