from __future__ import annotations

import pytest
from support.bundles import TEXTS
from support.images import photo

import numpy as np

from icclip.runtime import Encoder


@pytest.fixture(scope="session")
def images():
    return [photo(w, h, seed=h) for w, h in ((40, 30), (30, 90), (200, 33), (32, 32), (7, 5))]


def test_the_same_embeddings_as_the_checkpoint(bundle, tiny, images):
    encoder = Encoder.open(bundle, provider="cpu")
    np.testing.assert_allclose(encoder.encode_images(images), tiny.image_embeddings(images), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), tiny.text_embeddings(TEXTS), atol=1e-5)
