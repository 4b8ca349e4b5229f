"""A bundle's golden inputs: a few images and texts with the embeddings that the checkpoint gave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icclip.errors import CheckpointError

if TYPE_CHECKING:
    from PIL.Image import Image

DIRECTORY = "golden"
_TEXTS, _IMAGE_EMBEDDINGS, _TEXT_EMBEDDINGS = "texts.json", "image_embeds.npy", "text_embeds.npy"


@dataclass(frozen=True)
class Golden:
    """Inputs and what the checkpoint made of them."""

    images: tuple[Path, ...]
    texts: tuple[str, ...]
    image_embeddings: np.ndarray
    """float32 [len(images), dim], rows of length 1."""
    text_embeddings: np.ndarray
    """float32 [len(texts), dim], rows of length 1."""


def write_golden(
    bundle: Path,
    images: Sequence[Image],
    texts: Sequence[str],
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
) -> None:
    """Write `golden/`; call `manifest.seal` afterwards. Images are kept as they are, as PNG."""
    root = bundle / DIRECTORY
    root.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        image.save(root / f"{index:03}.png")
    (root / _TEXTS).write_text(json.dumps(list(texts), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    np.save(root / _IMAGE_EMBEDDINGS, image_embeddings.astype(np.float32), allow_pickle=False)
    np.save(root / _TEXT_EMBEDDINGS, text_embeddings.astype(np.float32), allow_pickle=False)


def read_golden(bundle: Path) -> Golden:
    """Read `golden/`. Raises CheckpointError."""
    root = bundle / DIRECTORY
    try:
        golden = Golden(
            images=tuple(sorted(root.glob("*.png"))),
            texts=tuple(json.loads((root / _TEXTS).read_text(encoding="utf-8"))),
            image_embeddings=np.load(root / _IMAGE_EMBEDDINGS, allow_pickle=False),
            text_embeddings=np.load(root / _TEXT_EMBEDDINGS, allow_pickle=False),
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{root} cannot be read ({error}): export the checkpoint again") from error
    counts = (len(golden.images), len(golden.texts))
    rows = (len(golden.image_embeddings), len(golden.text_embeddings))
    if counts != rows or 0 in counts:
        raise CheckpointError(f"{root} holds {counts} images and texts for {rows} embeddings: export again")
    return golden
