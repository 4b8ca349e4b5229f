"""Small sources on the disk, one for each dataset that comes with icclip and reads a path."""

from __future__ import annotations

import json

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


SOURCES = {
    "flickr8k": write_flickr8k,
    "flickr30k": write_flickr30k,
    "hub": write_flickr8k,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "folder": write_folder,
    "shapes": None,
}
