from __future__ import annotations

import math

import numpy as np
import pytest

from icclip.retrieval import dispersion as module
from icclip.retrieval.dispersion import dispersion


def test_by_hand():
    # Cosines 0, 0, -1: squared distances 2, 2, 4.
    found = dispersion(np.array([[3.0, 0.0], [0.0, 1.0], [0.0, -2.0]]))
    assert found["uniformity"] == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3))
    # The mean of the unit vectors is (1/3, 0).
    assert found["variance"] == pytest.approx(1 - 1 / 9)


@pytest.mark.parametrize("rows", [1, 5])
def test_collapsed(rows):
    found = dispersion(np.ones((rows, 3), dtype=np.float32))
    assert (found["variance"], found["uniformity"]) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))


def test_zeros_are_numbers():
    assert all(math.isfinite(value) for value in dispersion(np.zeros((5, 3))).values())


def test_a_sample_stands_for_many(monkeypatch):
    embeddings = np.random.default_rng(0).normal(size=(400, 8))
    whole = dispersion(embeddings)
    monkeypatch.setattr(module, "SAMPLE", 200)
    part = dispersion(embeddings)
    assert part["variance"] == pytest.approx(whole["variance"], abs=0.05)
    assert part["uniformity"] == pytest.approx(whole["uniformity"], abs=0.05)
