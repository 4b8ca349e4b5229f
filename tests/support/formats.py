"""Twelve captioned images in the layout of each public tool, written by hand as those tools write them."""

from __future__ import annotations

import base64
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from support.flickr import jpeg

COUNT = 12
NAMES = [f"{i:02}.jpg" for i in range(COUNT)]
CAPTIONS = [[f"number {i} first", f"number {i}, second"] for i in range(COUNT)]
SPLITS = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
SHARDS = 3
ROWS = list(zip(NAMES, CAPTIONS, SPLITS, strict=True))


def images(folder, names=NAMES):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(i * 20))


def table(separator, name, header="filepath{0}title{0}split"):
    """A table as open_clip, Excel and psql write it."""

    def write(folder):
        images(folder)
        lines = [header.format(separator)]
        for image, captions, split in ROWS:
            lines += [separator.join((image, f'"{caption}"', split)) for caption in captions]
        (folder / name).write_bytes("\r\n".join(lines).encode("utf-8-sig"))
        return folder / name

    return write


def pandas_lists(folder):
    """`DataFrame.to_csv` with its index and a column of lists."""
    images(folder)
    lines = [",Image,Caption,split"] + [f'{i},{n},"{c!r}",{s}' for i, (n, c, s) in enumerate(ROWS)]
    (folder / "frame.csv").write_text("\n".join(lines))
    return folder / "frame.csv"


def json_lists(folder):
    images(folder)
    lines = ["image,captions,split"]
    lines += ['{},"{}",{}'.format(n, json.dumps(c).replace('"', '""'), s) for n, c, s in ROWS]
    (folder / "lists.csv").write_text("\n".join(lines))
    return folder / "lists.csv"


def array(folder):
    images(folder)
    rows = [{"image": n, "captions": [{"raw": text} for text in c], "split": s} for n, c, s in ROWS]
    (folder / "all.json").write_text(json.dumps(rows, indent=1))
    return folder / "all.json"


def token(folder):
    images(folder / "Flicker8k_Dataset")
    lines = [f"{n}#{i}\t{text}" for n, captions, _ in ROWS for i, text in enumerate(captions)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines))
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        (folder / f"Flickr_8k.{name}Images.txt").write_text("\n".join(n for n, _, s in ROWS if s == split))
    return folder / "Flickr8k.token.txt"


def karpathy(folder):
    images(folder / "images")
    listed = [
        {"filename": n, "split": "restval" if n == NAMES[0] else s, "imgid": i, "sentids": [2 * i, 2 * i + 1],
         "sentences": [{"raw": text, "tokens": text.split(), "imgid": i, "sentid": 2 * i} for text in c]}
        for i, (n, c, s) in enumerate(ROWS)
    ]  # fmt: skip
    (folder / "dataset_it.json").write_text(json.dumps({"images": listed, "dataset": "it"}))
    return folder / "dataset_it.json"


def coco(folder):
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val", "test"):
        own = [(i, n, c) for i, (n, c, s) in enumerate(ROWS) if s == split]
        images(folder / "scratch")
        (folder / f"{split}2017").mkdir()
        for _, n, _ in own:
            (folder / "scratch" / n).rename(folder / f"{split}2017" / n)
        content = {
            "info": {"year": 2017}, "licenses": [],
            "images": [{"id": 1000 + i, "file_name": n, "height": 8, "width": 12} for i, n, _ in own],
            "annotations": [
                {"id": 1000 * i + k, "image_id": 1000 + i, "caption": text} for i, _, c in own for k, text in enumerate(c)
            ],
        }  # fmt: skip
        (folder / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(content))
    return folder


def struct(folder):
    return _parquet(folder, [{"bytes": jpeg(i * 20), "path": n} for i, n in enumerate(NAMES)])


def binary(folder):
    return _parquet(folder, [jpeg(i * 20) for i in range(COUNT)])


def base64_text(folder):
    return _parquet(folder, [base64.b64encode(jpeg(i * 20)).decode() for i in range(COUNT)])


def paths(folder):
    images(folder)
    return _parquet(folder, NAMES)


def _parquet(folder, cells):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": cells, "caption": CAPTIONS, "split": SPLITS}), folder / "it.parquet")
    return folder / "it.parquet"


def arrow(folder):
    table = pq.read_table(struct(folder))
    with pa.OSFile(str(folder / "it.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return folder / "it.arrow"


def shard(path, **members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            add(tar, name.replace("_", "."), content)
    return path


def many_shards(folder, shards, each=4):
    folder.mkdir(parents=True)
    for number in range(shards):
        members = {}
        for i in range(each):
            members |= {f"{number}{i}_jpg": jpeg(i), f"{number}{i}_txt": f"{number} {i}".encode()}
        shard(folder / f"{number:03}.tar", **members)
    return folder


def img2dataset(folder, *, json_only=False):
    """Shards as img2dataset's WebDatasetSampleWriter lays them out: key.jpg, key.txt, key.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(("train", "val", "test")):
        with tarfile.open(folder / f"{split}-{number:05}.tar", "w") as tar:
            for i, (_, captions, own) in enumerate(ROWS):
                if own == split:
                    about = {
                        "caption": captions if json_only else captions[0],
                        "url": "x",
                        "key": f"{i:09}",
                        "status": "success",
                    }
                    members = {"jpg": jpeg(i * 20), "json": json.dumps(about).encode()}
                    members |= {} if json_only else {"txt": captions[0].encode()}
                    for suffix, content in members.items():
                        add(tar, f"{i:09}.{suffix}", content)
    return folder


def json_shards(folder):
    return img2dataset(folder, json_only=True)


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def classes(folder):
    for i, (n, _, split) in enumerate(ROWS):
        images(folder / {"train": "train", "val": "val", "test": "test"}[split] / f"class_{i % 3}", [n])
    return folder


FORMATS = {
    "open_clip's tsv": ("csv", table("\t", "it.tsv")),
    "Excel's semicolons": ("csv", table(";", "it.csv", "Image{0}Caption{0}Split".replace("Split", "split"))),
    "vertical bars and spaces": ("csv", table("| ", "it.csv", "image_name{0}comment{0}split")),
    "pandas, index and lists": ("csv", pandas_lists),
    "lists as JSON": ("csv", json_lists),
    "json array": ("json", array),
    "Flickr8k.token.txt": ("token", token),
    "karpathy": ("karpathy", karpathy),
    "coco": ("coco", coco),
    "parquet, struct": ("parquet", struct),
    "parquet, bytes": ("parquet", binary),
    "parquet, base64": ("parquet", base64_text),
    "parquet, paths": ("parquet", paths),
    "arrow": ("parquet", arrow),
    "img2dataset": ("webdataset", img2dataset),
    "webdataset, json": ("webdataset", json_shards),
    "class folders": ("classes", classes),
}
ONE_CAPTION = {"img2dataset"}
