"""Small sources on the disk, one for each dataset that comes with icclip and reads a path."""

from __future__ import annotations

import json

from datasets import Dataset, Features, Image, Value
from support import formats
from support.flickr import jpeg, write_flickr8k, write_flickr30k

ROWS = [{"image": f"{i}.jpg", "caption": f"number {i}"} for i in range(6)]


def write_images(folder):
    folder.mkdir()
    for i in range(len(ROWS)):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))


def write_jsonl(folder):
    write_images(folder)
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))


def write_csv(folder):
    write_images(folder)
    (folder / "train.csv").write_text("image,caption\n" + "\n".join(",".join(row.values()) for row in ROWS))


def write_folder(folder):
    write_images(folder)
    for row in ROWS:
        (folder / row["image"]).with_suffix(".txt").write_text(row["caption"])


def write_json(folder):
    write_images(folder)
    (folder / "train.json").write_text(json.dumps(ROWS))


def write_saved(folder):
    images = [{"bytes": jpeg(i), "path": None} for i in range(len(ROWS))]
    columns = {"image": images, "caption": [row["caption"] for row in ROWS]}
    Dataset.from_dict(columns, features=Features({"image": Image(), "caption": Value("string")})).save_to_disk(folder)


SOURCES = {
    "flickr8k": write_flickr8k,
    "flickr30k": write_flickr30k,
    "hub": write_flickr8k,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "folder": write_folder,
    "json": write_json,
    "token": formats.token,
    "karpathy": formats.karpathy,
    "coco": formats.coco,
    "parquet": write_saved,
    "webdataset": formats.img2dataset,
    "classes": formats.classes,
    "shapes": None,
}
