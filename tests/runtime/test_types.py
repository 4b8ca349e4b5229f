"""The annotations say what the door says: mypy finds the wrong calls, and no right one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def mypy(text, path):
    path.write_text(text)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        "",
        "--follow-imports",
        "silent",
        "--no-error-summary",
    ]
    command += ["--cache-dir", str(path.parent / "cache"), "--ignore-missing-imports", str(path)]
    return subprocess.run(
        command, cwd=Path(icclip.__file__).parents[1], capture_output=True, text=True, timeout=500, check=False
    ).stdout.splitlines()  # fmt: skip


def test_right_calls_pass_and_each_wrong_one_is_found(tmp_path):
    assert (Path(icclip.__file__).parent / "py.typed").is_file()
    assert mypy(RIGHT, tmp_path / "right.py") == []
    found = {int(line.split(":")[1]) for line in mypy(WRONG, tmp_path / "wrong.py") if ": error:" in line}
    first = 4
    assert found == set(range(first, len(WRONG.splitlines()) + 1))
