"""The annotations say what the door says: mypy finds the wrong calls, and no right one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import icclip

RIGHT = """
import io
from pathlib import Path
import numpy as np
from PIL import Image
from icclip.runtime import Encoded, Encoder, Limits
from icclip.plugins.specs import Encoder as Protocol

encoder = Encoder.open("bundle", limits=Limits(pixels_per_image=1), warm=True)
rows: np.ndarray = encoder.encode_images(Image.new("RGB", (1, 1)))
rows = encoder.encode_images(["a.png", Path("b.png"), b"", io.BytesIO(), np.zeros((1, 1), np.uint8)])
rows = encoder.encode_images(path for path in Path(".").glob("*.png"))
rows = encoder.encode_texts("a dog")
rows = encoder.encode_texts(line for line in ["a", "b"])
rows = encoder.rank(Path("a.png"), "cat")
some: Encoded = encoder.encode_images([b""], errors="skip")
for part in encoder.iter_encode_images(open("a.png", "rb")):
    some = part
with encoder as same:
    rows = same.encode_texts(["a"])
served: Protocol = encoder
"""
WRONG = """
from icclip.runtime import Encoder, Limits
encoder = Encoder.open("bundle")
encoder.encode_texts(None)
encoder.encode_texts([("a", "b")])
encoder.encode_texts(["a", 1])
encoder.encode_images(3)
encoder.encode_images([[b""]])
encoder.encode_images([b""], errors="ignore")
encoder.encode_images([b""], errors="skip").mean()
encoder.rank([b""], "cat")
encoder.encode_texts("a", batch_size="8")
Encoder.open(None)
Encoder.open("bundle", provider="gpu")
Limits(pixels_per_image="many")
"""


SETTINGS = """
[mypy]
strict = true
follow_imports = silent
ignore_missing_imports = true
[mypy-torch.*,transformers.*,datasets.*,onnxruntime.*,tokenizers.*,rich.*,icclip.models.*]
follow_imports = skip
"""
"""Who uses the runtime has no torch, and mypy need not read it."""


@pytest.mark.slow
def test_right_calls_pass_and_each_wrong_one_is_found(tmp_path):
    assert (Path(icclip.__file__).parent / "py.typed").is_file()
    for name, text in {"right.py": RIGHT, "wrong.py": WRONG, "settings.ini": SETTINGS}.items():
        (tmp_path / name).write_text(text)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "settings.ini",
        "--cache-dir",
        "cache",
        "right.py",
        "wrong.py",
    ]
    root = Path(icclip.__file__).parents[1]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "MYPYPATH": str(root)},
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert not [line for line in errors if not line.startswith("wrong.py")], done.stdout
    found = {int(line.split(":")[1]) for line in errors}
    first = 4
    assert found == set(range(first, len(WRONG.splitlines()) + 1)), done.stdout
