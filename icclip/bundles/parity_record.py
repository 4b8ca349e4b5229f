"""`parity.json` of a bundle: what the gate measured, and the limits that a later check applies.

The gate writes it and `icclip verify` reads it. `Thresholds` only holds values; the gate decides which ones
a precision gets, and why.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from icclip.config import Config
from icclip.errors import CheckpointError, ConfigError
from icclip.files import atomic_write_json
from icclip.foreign_files import read_json
from icclip.naming import public_name
from icclip.plugins.specs import Encoder
from icclip.retrieval.captions import CaptionMap

FORMAT = 1
NAME = "parity.json"
BATCH = 32
"""Inputs that the gate and `verify` encode at once, where rows do not depend on each other (`measured_batch`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds(Config):
    """How far an encoder may differ from the checkpoint; None means that the value is not limited."""

    min_cosine: float
    """The lowest cosine that any single input may have, in either tower."""
    mean_cosine: float | None = None
    centred_min_cosine: float | None = None
    """The same after subtracting the reference's mean, because the raw cosine hides damage if embeddings lie close together."""
    centred_mean_cosine: float | None = None
    """The mean of the centred cosine over all inputs."""
    embedding_abs: float | None = None
    """Largest difference of any component of the unit embeddings."""
    similarity_abs: float | None = None
    """Largest difference of image-text similarities."""
    drop_r1: float
    """Largest |difference| of R@1, as a fraction 0..1, in either direction of retrieval."""
    drop_r5: float
    drop_r10: float
    top10_overlap: float | None = None
    neighbours: float | None = 1e-3
    """How far an embedding may depend on the other inputs of its batch: largest difference of any component."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerSearch(Config):
    """How the precision of one tower was reached."""

    kept: tuple[str, ...] = ()
    """Nodes that stayed in float32, the most sensitive first."""
    tried: int = 0
    """Number of graphs that were built and judged in all attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionParity(Config):
    """The gate's result for one precision on one provider."""

    precision: str
    provider: str
    passed: bool
    thresholds: Thresholds
    metrics: Mapping[str, Any]
    """Retrieval metrics of the bundle on the split (`i2t_R@1`, ...); empty if the bundle does not run."""
    recall_limits: Mapping[str, float] = field(default_factory=dict)
    """How far each `i2t_R@1`, ... was allowed to be from the checkpoint's, as a fraction 0..1."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the gate measured, for people to read."""
    failures: tuple[str, ...] = ()
    """One line for each requirement that failed."""
    attempts: int = 1
    """How often the precision was made and measured; each attempt after the first was stricter."""
    search: Mapping[str, TowerSearch] = field(default_factory=dict)
    """The search of each tower; empty for float32, which needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityRecord(Config):
    """What the gate compared, on which images, and with what result."""

    format: int = FORMAT
    dataset: str
    split: str
    n_images: int
    """The number of images compared; if the split has more, these are its `sampled_rows`."""
    n_texts: int
    seed: int = 42
    """The seed of the sample."""
    smoke: bool
    """Whether there were too few images for a verdict on retrieval."""
    fingerprint: str | None = None
    """The `captions_fingerprint` of the data, so that a later check on other data is noticed."""
    relevance: str = "pair"
    """What counted as a right answer: a protocol, or the name of a file with judgements. Records without this field are
    older than the choice."""
    reference: Mapping[str, Any]
    """The checkpoint's own retrieval metrics, under the same keys."""
    results: tuple[PrecisionParity, ...]

    @property
    def passed(self) -> bool:
        """Whether every precision passed the gate."""
        return all(result.passed for result in self.results)

    @property
    def failures(self) -> list[str]:
        """For each precision that failed, the first thing that was wrong with it."""
        return [f"{r.precision} on {r.provider}: {_first(r.failures)}" for r in self.results if not r.passed]

    def result(self, precision: str) -> PrecisionParity | None:
        """The first result for a precision (the CPU's, as the gate orders them)."""
        return next((r for r in self.results if r.precision == precision), None)


def _first(failures: Sequence[str]) -> str:
    more = f" (and {len(failures) - 1} more, see {NAME})" if len(failures) > 1 else ""
    return failures[0] + more


def measured_batch(encoder: Encoder, usual: int = BATCH) -> int:
    """The batch size that an encoder is measured with, which is the one that it serves with.

    A bundle whose activations are quantized dynamically is served one row at a time, because the
    scales of a batch would make a row's embedding depend on the other rows.
    """
    return 1 if getattr(encoder, "rows_alone", False) else usual


def sampled_rows(total: int, wanted: int, seed: int) -> np.ndarray:
    """The rows of a split that are sampled to represent it: int64 [min(wanted, total)], ascending."""
    if wanted >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, wanted, replace=False))


def captions_fingerprint(captions: CaptionMap) -> str:
    """sha256 over the captions and which image each belongs to."""
    digest = hashlib.sha256(captions.offsets.astype("<i8").tobytes())
    digest.update(json.dumps(captions.texts).encode())
    return digest.hexdigest()


def read_parity(bundle: Path) -> ParityRecord:
    """Read `parity.json`. Raises CheckpointError."""
    path = bundle / NAME
    try:
        values = read_json(path)
        if values.get("format") != FORMAT:
            raise CheckpointError(f"{path} has format {values.get('format')!r}, but this icclip reads {FORMAT}")
        return ParityRecord.from_mapping(values)
    except OSError as error:
        raise CheckpointError(
            f"{bundle} has no {NAME} ({error.strerror}): it was exported without the parity gate"
        ) from error
    except (ValueError, AttributeError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): export the checkpoint again") from error


def write_parity(bundle: Path, parity: ParityRecord) -> None:
    """Write `parity.json` without directories of this machine; call `manifest.seal` afterwards."""
    public = dataclasses.replace(parity, dataset=public_name(parity.dataset))
    atomic_write_json(bundle / NAME, public.to_mapping())
