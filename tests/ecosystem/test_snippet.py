"""The ten lines of export/README.md that run a bundle with onnxruntime alone, as they are written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from support.subjects import subject

from icclip.runtime import Encoder

README = Path(__file__).parents[2] / "export/README.md"


def test_the_snippet_runs_as_written_and_agrees(tmp_path):
    snippet = next(
        code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "onnxruntime" in code
    )
    assert len(snippet.strip().splitlines()) <= 12
    own = subject("clip", tmp_path / "bundle")
    own.reference.data.images[0].resize((32, 32)).save(tmp_path / "photo.png")
    code = snippet + "\nnp.savez('out.npz', image=image, text=text)\n"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    found = np.load(tmp_path / "out.npz")
    encoder = Encoder.open(tmp_path / "bundle", provider="cpu")
    for name, expected in (
        ("image", encoder.encode_images([tmp_path / "photo.png"])),
        ("text", encoder.encode_texts(["a photo of a dog"])),
    ):
        np.testing.assert_allclose(found[name] / np.linalg.norm(found[name]), expected, atol=1e-5)
