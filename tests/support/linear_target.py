"""A third-party export target: both encoders as one linear map each, stored by numpy, run by numpy alone.

It fits maps from small grey images and from counts of words to the checkpoint's embeddings, on the
split that it then compares both on: poor encoders, honestly measured.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from icclip import hookimpl
from icclip.plugins import ExportTargetSpec, OpenRequest

FILE = "linear.npz"
SIDE = 24


@dataclasses.dataclass(frozen=True)
class LinearEncoder:
    """Two linear maps."""

    vision: np.ndarray
    text: np.ndarray
    words: list[str]
    threads: int | None = None
    provider = "numpy"

    @property
    def description(self) -> str:
        """For headers."""
        return f"linear maps, numpy, {self.threads or 'all'} threads"

    def encode_images(self, images: Any, *, batch_size: int = 128) -> np.ndarray:
        """Unit vectors."""
        return unit(np.stack([pixels(image) for image in images]) @ self.vision)

    def encode_texts(self, texts: Any, *, batch_size: int = 256) -> np.ndarray:
        """Unit vectors."""
        return unit(counts(texts, self.words) @ self.text)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def pixels(image: Any) -> np.ndarray:
    """A small grey image as a row, and a constant."""
    from PIL import Image

    image = Image.open(image) if isinstance(image, Path) else image
    small = np.asarray(image.convert("L").resize((SIDE, SIDE)), np.float64) / 255
    return np.append(small.ravel(), 1.0)


def counts(texts: Any, words: list[str]) -> np.ndarray:
    """How often each word is in each text, and a constant."""
    split = [re.findall(r"\w+", text.lower()) for text in texts]
    return np.array([[*(own.count(word) for word in words), 1.0] for own in split])


def recognises(path: Path) -> bool:
    """Whether it wrote this."""
    return (path / FILE).is_file()


def open_linear(request: OpenRequest) -> LinearEncoder:
    """Read the maps."""
    with np.load(request.path / FILE) as file:
        return LinearEncoder(file["vision"], file["text"], file["words"].tolist(), request.threads)


def export(request: Any) -> Any:
    """Fit the maps, write them, and say how far they are from the checkpoint."""
    from icclip.bundles.golden import write_golden
    from icclip.bundles.parity_record import ParityRecord, PrecisionParity, Thresholds, write_parity
    from icclip.config import ModelConfig
    from icclip.data.gallery import Gallery
    from icclip.data.loading import choose_split, load_splits
    from icclip.exporting.request import ExportResult
    from icclip.models.encoder import TorchEncoder
    from icclip.models.opening import open_model
    from icclip.retrieval.metrics import retrieval_metrics
    from icclip.retrieval.ranking import rank

    config, directory = request.config, Path(request.config.output_dir)
    split = choose_split(load_splits(request.registry, config.data, request.reporter), config.split, "")
    gallery = Gallery.of(split)
    images, texts = list(gallery.images), gallery.captions.texts
    checkpoint = TorchEncoder(open_model(request.registry, ModelConfig(name=config.checkpoint)), device="cpu")
    known = checkpoint.encode_images(images), checkpoint.encode_texts(texts)
    words = sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})
    inputs = np.stack([pixels(image) for image in images]), counts(texts, words)
    maps = [np.linalg.lstsq(own, wanted.astype(np.float64))[0] for own, wanted in zip(inputs, known, strict=True)]
    directory.mkdir()
    np.savez(directory / FILE, vision=maps[0], text=maps[1], words=np.array(words))
    write_golden(directory, images[:2], texts[:2], known[0][:2], known[1][:2])
    found = open_linear(OpenRequest(path=directory, reporter=request.reporter))
    embeddings = found.encode_images(images), found.encode_texts(texts)
    worst = min(float((a * b).sum(1).min()) for a, b in zip(known, embeddings, strict=True))
    limits = Thresholds(min_cosine=0.9, drop_r1=0.2, drop_r5=0.2, drop_r10=0.2)
    result = PrecisionParity(
        precision="exact", provider="numpy", passed=worst >= limits.min_cosine, thresholds=limits,
        metrics=retrieval_metrics(rank(*embeddings, gallery.relevance())),
        recall_limits={f"{way}_R@{k}": 0.01 for way in ("i2t", "t2i") for k in (1, 5, 10)},
        failures=() if worst >= limits.min_cosine else (f"the lowest cosine is {worst}",),
    )  # fmt: skip
    parity = ParityRecord(
        dataset=config.data.label, split=config.split, n_images=len(images), n_texts=len(texts), smoke=True,
        relevance=gallery.counted_as,
        reference=retrieval_metrics(rank(*known, gallery.relevance())), results=(result,),
    )  # fmt: skip
    write_parity(directory, parity)
    return ExportResult(bundle=directory, parity=parity, sizes={"exact": (directory / FILE).stat().st_size})


TARGET = ExportTargetSpec(
    name="linear",
    summary="two linear maps for numpy",
    precisions=("exact",),
    export=export,
    recognises=recognises,
    open=open_linear,
    about=lambda: f"numpy {np.__version__}",
)


@hookimpl
def icclip_export_targets() -> list[ExportTargetSpec]:
    """The one target."""
    return [TARGET]
