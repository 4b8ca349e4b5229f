"""Which queries the model of step 0 answered: what a later evaluation is compared with, image by image."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from icclip.files import atomic_write_bytes
from icclip.retrieval.bootstrap import Hits, SharedCaptions

BASELINE = "step0_hits.npz"
"""In the run directory."""
_SHARED = ("owner", "kind", "hits")


def write_baseline(root: Path, hits: Hits) -> None:
    """Keep them in a run directory. Raises UsageError."""
    file = io.BytesIO()
    shared = {name: getattr(hits.shared, name) for name in _SHARED}
    np.savez_compressed(file, own=hits.own, n_kinds=np.int64(hits.shared.n_kinds), **shared)
    atomic_write_bytes(root / BASELINE, file.getvalue())


def read_baseline(root: Path) -> Hits | None:
    """What `write_baseline` kept; None where there is none, or none that can be read."""
    try:
        with np.load(root / BASELINE, allow_pickle=False) as found:
            parts = {name: found[name] for name in _SHARED}
            return Hits(found["own"], SharedCaptions(**parts, n_kinds=int(found["n_kinds"])))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
