"""Tiny copies of the two Flickr layouts, as the hub has them."""

from __future__ import annotations

import io

from datasets import Dataset, Features, Image, Value
from datasets import Sequence as ListFeature
from PIL import Image as PilImage

IMAGE = Image()
SPLIT_COLUMN = ["train", "val", "train", "test", "train", "val", "test", "train"]


def jpeg(shade):
    """A small grey JPEG."""
    buffer = io.BytesIO()
    PilImage.new("RGB", (12, 8), (shade, shade, shade)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_flickr8k(folder):
    """`data/SPLIT-00000-of-00001.parquet` with caption_0 ... caption_4."""
    features = Features({"image": IMAGE} | {f"caption_{i}": Value("string") for i in range(5)})
    (folder / "data").mkdir(parents=True)
    for split, rows in (("train", 6), ("validation", 2), ("test", 3)):
        columns = {"image": [{"bytes": jpeg(row * 9), "path": f"{split}{row}.jpg"} for row in range(rows)]}
        columns |= {f"caption_{i}": [f"{split} image {row} told {i}" for row in range(rows)] for i in range(5)}
        table = Dataset.from_dict(columns, features=features)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def write_flickr30k(folder, content=jpeg):
    """One split `test`, whose column `split` tells the real one; `content(row)` gives an image's bytes."""
    rows = range(len(SPLIT_COLUMN))
    features = Features(
        {
            "image": IMAGE,
            "caption": ListFeature(Value("string")),
            "sentids": ListFeature(Value("string")),
            "split": Value("string"),
            "img_id": Value("string"),
            "filename": Value("string"),
        }
    )
    columns = {
        "image": [{"bytes": content(row), "path": f"{row}.jpg"} for row in rows],
        "caption": [[f"photo {row} told {i}" for i in range(5)] for row in rows],
        "sentids": [[str(5 * row + i) for i in range(5)] for row in rows],
        "split": SPLIT_COLUMN,
        "img_id": [str(row) for row in rows],
        "filename": [f"{row}.jpg" for row in rows],
    }
    (folder / "TEST" / "test").mkdir(parents=True)
    Dataset.from_dict(columns, features=features).to_parquet(folder / "TEST" / "test" / "0000.parquet")
