"""Does a search find what somebody types? Words in a search box, and what the captions of the images found say.

    python -m benchmarks.search_hits --index INDEX

INDEX is `icclip index BUNDLE --dataset flickr8k@PATH --split test`, whose columns have the captions of each image. No query is
a caption. An image counts as right if, for each group of words of the query, one of its captions has a word that begins
with one of them; `by chance` is the share of such images in the whole index, times ten. Writes search_hits.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import parquet

from benchmarks.support.timing import environment, rounded, show, write

FIRST = 10
QUERIES: Mapping[str, Sequence[Sequence[str]]] = {
    "two dogs in snow": (("dog",), ("snow",)),
    "surfing a big wave": (("surf", "wave"),),
    "kids playing soccer": (("soccer",),),
    "someone climbing a rock face": (("climb",),),
    "a wet dog at the sea": (("dog",), ("beach", "ocean", "sea", "shore", "surf", "water", "wave")),
}
"""What is typed -> groups of the words that a right image's captions have."""


def main() -> None:
    """Search, count, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--index", required=True)
    options = parser.parse_args()
    items = parquet.read_table(Path(options.index) / "items.parquet", columns=["captions"]).to_pylist()
    rows = [counted(options.index, items, query) for query in QUERIES]
    show(rows)
    encoder = json.loads((Path(options.index) / "icclip.json").read_text(encoding="utf-8"))["encoder"]
    write(
        __file__,
        {"about": environment("icclip", "onnxruntime"), "images": len(items), "encoder": encoder, "rows": rows},
    )


def counted(index: str, items: Sequence[Mapping[str, Any]], query: str) -> dict[str, Any]:
    """A row."""
    command = [sys.executable, "-m", "icclip", "search", index, query, "-k", str(FIRST), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    hits = json.loads(done.stdout)["hits"]
    right = [is_right(hit["item"]["captions"], QUERIES[query]) for hit in hits]
    share = sum(is_right(item["captions"], QUERIES[query]) for item in items) / len(items)
    return {"query": query, "first right one": right.index(True) + 1 if any(right) else None, "right of ten": sum(right), "by chance": rounded(FIRST * share)}  # fmt: skip


def is_right(captions: Iterable[str], groups: Sequence[Sequence[str]]) -> bool:
    """Whether the captions together have a word of each group."""
    words = re.findall(r"[a-z]+", " ".join(captions).lower())
    return all(any(word.startswith(tuple(group)) for word in words) for group in groups)


if __name__ == "__main__":
    main()
