"""How fast `icclip embed` turns large photos into embeddings, and what the time goes into.

    nice -n -10 python -m benchmarks.embed_photos [--photos 500] [--directory PHOTOS] [--bundles DIRECTORY] [--rounds 3]

A CLIP ViT-B/16 at 224 pixels with random weights, in int8, on the CPU. Without `--directory`, the photos are drawn: five JPEGs
of 12 megapixels (4,000 x 3,000, quality 90, 4:2:0) of detail at every scale and sharp edges, each copied as often as it
takes.

- **whole**: images per second of the command, from its start to its end, in turns: "before" takes the plain path (all
  threads prepare a batch, all threads run one image), "lanes" gives every core images of its own, "lanes, fast jpeg" also
  decodes at a fraction of the size (`--fast-jpeg`).
- **shares**: seconds of the processor that an image takes to be read and decoded, resized and normalised, and encoded, by one
  thread alone.
- **pixels**: how far `--fast-jpeg` moves pixels of the model's input, in grey levels, and embeddings.

Writes embed_photos.json; with `--size tiny`, which only shows that the script works, nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.support import base_bundle
from benchmarks.support.timing import environment, medians, rounded, show, take_turns, times_faster, write
from icclip.data.images import decode_image
from icclip.embedding.run import FAST_TIMES
from icclip.runtime import Encoder

REPOSITORY = Path(__file__).parents[1]
SIZE = (4000, 3000)
DRAWN = 5
"""Different photos."""
COARSEST, DETAIL = 4, 0.6
"""Cells of the coarsest layer of a drawn photo, and how much weaker each finer one is."""
SHAPES = 30
MEASURED = 8
"""Photos whose steps are timed one by one."""
BEFORE, LANES, FAST = "before", "lanes", "lanes, fast jpeg"

EMBED = """
import sys
if sys.argv.pop(1) == "before":
    from icclip.runtime import lanes
    lanes.Lanes.possible = property(lambda self: False)
from icclip.cli import main
main()
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--directory", type=Path, help="JPEGs of your own")
    parser.add_argument("--bundles", type=Path, help="where the bundle is, or is left")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundle = base_bundle.make(options.bundles or work, options.size)
        photos = options.directory or draw_photos(work / "photos", options.photos)
        files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        os.environ |= {"ICCLIP_CACHE": str(work / "cache"), "OMP_NUM_THREADS": str(options.threads)}
        whole = whole_rows(bundle, photos, len(files), work, options.rounds)
        shares = share_rows(bundle, files[:MEASURED])
        moved = pixel_rows(bundle, files[:DRAWN])
    for table in (whole, shares, moved):
        show(table)
    if options.size == "base":
        about = {**environment("icclip", "onnxruntime", "numpy", "pillow"), "threads": options.threads}
        about |= {"photos": len(files), "rounds": options.rounds, "drawn": options.directory is None}
        write(__file__, {"about": about, "whole": whole, "shares": shares, "pixels": moved})


# Photos -------------------------------------------------------------------------------------------


def draw_photos(folder: Path, count: int) -> Path:
    """Photos of `SIZE`; the first ones differ, the others are copies."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:04}.jpg"
        if number < DRAWN:
            draw_photo(number).save(path, quality=90, subsampling=2)
        else:
            path.write_bytes((folder / f"{number % DRAWN:04}.jpg").read_bytes())
    return folder


def draw_photo(seed: int) -> Image.Image:
    """Detail at every scale, as photographs have it, a little noise, and shapes with sharp edges."""
    draw = np.random.default_rng(seed)
    whole = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    cells, weight = COARSEST, 1.0
    while cells < SIZE[0]:
        layer = draw.standard_normal((cells * SIZE[1] // SIZE[0], cells, 3)).astype(np.float32)
        for channel in range(3):
            whole[:, :, channel] += weight * np.asarray(Image.fromarray(layer[:, :, channel]).resize(SIZE))
        cells, weight = 2 * cells, weight * DETAIL
    levels = (whole - whole.mean()) / whole.std() * 50 + 128 + draw.normal(0, 4, (SIZE[1], SIZE[0], 1))
    image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    pencil = ImageDraw.Draw(image)
    for _ in range(SHAPES):
        x, y, wide, high = (int(value) for value in draw.integers(0, SIZE[1], 4))
        pencil.ellipse((x, y, x + wide // 6, y + high // 6), fill=tuple(draw.integers(0, 256, 3).tolist()))
    return image


# The whole command --------------------------------------------------------------------------------


def whole_rows(bundle: Path, photos: Path, count: int, work: Path, rounds: int) -> list[dict[str, Any]]:
    """Images per second of each way."""
    calls = {name: embed(bundle, photos, work, name) for name in (BEFORE, LANES, FAST)}
    # Graphs are kept at the second start: after it all ways start alike.
    taken = take_turns(calls, rounds=rounds, warmup=1)
    middle = medians(taken)
    return [
        {
            "way": name,
            "seconds": middle[name],
            "images per second": rounded(count / middle[name]),
            "times faster": times_faster(taken, name, BEFORE),
        }
        for name in calls
    ]


def embed(bundle: Path, photos: Path, work: Path, way: str) -> Callable[[], object]:
    """The command, in a new process."""
    paths = os.pathsep.join(str(REPOSITORY / name) for name in (".", "plugins", "export"))
    flags = ["--fast-jpeg"] if way == FAST else []
    arguments = ["embed", bundle, photos, "--precision", "int8", "--provider", "cpu", "-o", work / "out.npy", *flags]
    return lambda: subprocess.run(
        [sys.executable, "-c", EMBED, way, *map(str, arguments)],
        check=True, capture_output=True, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip


# One image ----------------------------------------------------------------------------------------


def share_rows(bundle: Path, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Seconds of the processor for each step of an image, with the whole JPEG and with a part of it."""
    with Encoder.open(bundle, "int8", "cpu", threads=1) as encoder:
        encoder.warm()
        return [share_row(encoder, files, fast=fast) for fast in (False, True)]


def share_row(encoder: Encoder, files: Sequence[Path], *, fast: bool) -> dict[str, Any]:
    """The medians over the files, and what share each is of their sum."""
    at_least = enough(encoder) if fast else None
    taken: dict[str, list[float]] = {"decode": [], "resize": [], "encode": []}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        made = call()
        taken[name].append(time.process_time() - began)
        return made

    for path in files:
        image = timed("decode", lambda path=path: decode_image(path, str(path), at_least=at_least))
        pixels = timed("resize", lambda image=image: encoder.preprocessor(image))
        timed("encode", lambda pixels=pixels: encoder.session("vision").run(pixels))
    middle = medians(taken)
    total = sum(middle.values())
    shares = {f"{name} share": rounded(value / total) for name, value in middle.items()}
    return {"jpeg": "fast" if fast else "whole", **{f"{name} s": value for name, value in middle.items()}, **shares}


def enough(encoder: Encoder) -> tuple[int, int]:
    """The width and height that `--fast-jpeg` decodes at least."""
    height, width = encoder.image_size
    return FAST_TIMES * width, FAST_TIMES * height


def pixel_rows(bundle: Path, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Grey levels between the two ways of decoding, and cosines of the embeddings."""
    with Encoder.open(bundle, "fp32", "cpu") as encoder:
        whole, fast = (
            [decode_image(path, str(path), at_least=at_least) for path in files] for at_least in (None, enough(encoder))
        )
        # One level of the model's input.
        step = encoder.preprocessor.levels[:, 1] - encoder.preprocessor.levels[:, 0]
        moved = np.abs(encoder.preprocessor(whole) - encoder.preprocessor(fast)) / step[:, None, None]
        cosines = (encoder.encode_images(whole) * encoder.encode_images(fast)).sum(axis=1)
    return [
        {
            "photos": len(files),
            "mean grey levels": rounded(moved.mean()),
            "largest": round(float(moved.max())),
            "share over 1": rounded((moved > 1.5).mean()),  # noqa: PLR2004  between one level and two
            "lowest cosine": round(float(cosines.min()), 6),
        }
    ]


if __name__ == "__main__":
    main()
