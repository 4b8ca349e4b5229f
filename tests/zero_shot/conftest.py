from __future__ import annotations

import json
import shutil

import pytest
from evaluating.fakes import HashEncoder
from PIL import Image
from support.training_fixtures import _one_thread, captions, data, pictures, registry, tiny

__all__ = ["_one_thread", "captions", "data", "pictures", "registry", "tiny"]

COLOURS = {"red": (255, 0, 0), "dark_green": (0, 80, 0), "blue": (0, 0, 255)}


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    """Three classes with four images each: of one colour, a little brighter each time."""
    root = tmp_path_factory.mktemp("data") / "things"
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (40, 36), tuple(min(255, c + 9 * number) for c in colour)).save(
                root / name / f"{number}.png"
            )
    return root


@pytest.fixture
def run(tiny, tmp_path):
    """A run that began with the tiny CLIP, and whose weights are those of the tiny CLIP with another projection."""
    from safetensors.torch import load_file, save_file

    root = shutil.copytree(tiny["softmax"], tmp_path / "run")
    weights = load_file(root / "model.safetensors")
    weights["text_projection.weight"] = weights["text_projection.weight"].flip(0)
    save_file(weights, root / "model.safetensors", {"format": "pt"})
    config = {"model": {"name": str(tiny["softmax"])}, "data": {"name": "shapes"}}
    record = {
        "format": 1,
        "config": config,
        "status": "complete",
        "result": {"best_step": 7, "steps": 9, "seconds": 1.0},
    }
    (root / "icclip.json").write_text(json.dumps(record))
    return root


class Perfect(HashEncoder):
    """Knows a fixed vector for each colour, and for every text that names it."""

    description = "perfect"
    wrong: tuple[str, ...] = ()

    def encode_images(self, images, *, batch_size=128):
        nearest = [min(COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], image.getpixel((0, 0)), strict=True)))
                   for image in images]  # fmt: skip
        return self._unit([self._seen(name) for name in nearest], self.dim)

    def encode_texts(self, texts, *, batch_size=256):
        names = [next(name for name in COLOURS if name.replace("_", " ") in text) for text in texts]
        return self._unit(names, self.dim)

    def _seen(self, name):
        return "red" if name in self.wrong else name
