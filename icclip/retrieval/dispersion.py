"""How far apart embeddings lie; this falls to zero when a model collapses."""

from __future__ import annotations

import numpy as np

SAMPLE = 1000
"""Number of embeddings that are compared with each other, taken at even distances from all."""


def dispersion(embeddings: np.ndarray) -> dict[str, float]:
    """Compute the `variance` and `uniformity` of embeddings [n, d] of any norm.

    Both are of the unit vectors u. The variance, mean |u - mean(u)|^2, is 0 if all are the same, and at
    most 1. The uniformity, log mean exp(-2 |u_i - u_j|^2) over the pairs i < j, is then 0 too, and lower the
    more evenly they cover the sphere (Wang and Isola 2020, arXiv:2005.10242).
    """
    rows = np.linspace(0, len(embeddings) - 1, min(len(embeddings), SAMPLE)).astype(int)
    vectors = np.asarray(embeddings, dtype=np.float64)[rows]
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
    uniformity = np.log(np.mean(np.exp(4 * cosines - 4))) if cosines.size else 0.0
    return {"variance": float(1 - np.square(unit.mean(axis=0)).sum()), "uniformity": float(uniformity)}
