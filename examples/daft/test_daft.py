"""The example gives what icclip gives. Run with `pytest examples/daft` where Daft is installed; a bundle is named by BUNDLE."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("daft", reason="pip install daft")
BUNDLE = os.environ.get("BUNDLE")


@pytest.mark.skipif(BUNDLE is None, reason="name a bundle with BUNDLE")
def test_every_image_and_every_failure(tmp_path: Path) -> None:
    """Rows, errors and values."""
    sys.path.insert(0, str(Path(__file__).parent))
    from embed_daft import embedded

    from icclip.runtime import Encoder

    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)).save(file)
    (tmp_path / "bad.png").write_bytes(b"no image")
    rows = {Path(row["name"]).name: row for row in embedded(str(BUNDLE), tmp_path).to_pylist()}
    assert sorted(rows) == ["0.png", "1.png", "2.png", "3.png", "4.png", "bad.png"]
    assert rows["bad.png"]["embedding"] is None
    assert "not an image" in rows["bad.png"]["error"]
    made = np.array([rows[file.name]["embedding"] for file in files], np.float32)
    np.testing.assert_allclose(made, Encoder.open(str(BUNDLE)).encode_images(files), atol=1e-6)
