"""The classic caption files of Flickr8k and Flickr30k: `image.jpg#0<tab>caption`, one caption per line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files
from icclip_plugins.datasets.reading import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasets import DatasetDict

    from icclip.config import DatasetConfig

LINE = re.compile(r"(?P<image>[^\t]+)#\d+\s*\t(?P<caption>.*)")
SUFFIXES = (".token", ".token.txt")
SPLIT_LISTS = {"train": "*.trainImages.txt", "validation": "*.devImages.txt", "test": "*.testImages.txt"}
"""The name of our split -> the list of images that may be beside the captions."""
FOLDERS = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images")


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `token`."""
    summary = "results.token or Flickr8k.token.txt: image.jpg#0, a tab and a caption a line"
    return [DatasetSpec(name="token", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict:
    """Load the splits that lists such as `*.trainImages.txt` beside the file give, or everything as `train` without them.

    Raises:
        DataError: a line has another layout, or an image is missing.
    """
    path = caption_files.given_path(config, "results.token")
    path = _file_in(path) if path.is_dir() else path
    folders = [path.parent, *(path.parent / name for name in FOLDERS)]
    return caption_files.splits_of(config, folders, _items(path, _split_lists(path.parent)))


def recognises(path: Path) -> bool:
    """Whether it is a file called `*.token` or `*.token.txt`, or a directory with one."""
    return len(_files(path)) == 1 if path.is_dir() else path.name.lower().endswith(SUFFIXES)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name.lower().endswith(SUFFIXES))


def _file_in(folder: Path) -> Path:
    found = _files(folder)
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found) or 'no'} files called *.token or *.token.txt; name the one to read")
    return found[0]


def _split_lists(folder: Path) -> dict[str, str]:
    """The split of each image; empty if the folder has no lists."""
    return {
        name.strip(): split
        for split, pattern in SPLIT_LISTS.items()
        for file in sorted(folder.glob(pattern))
        for name in read_text(file).splitlines()
    }


def _items(path: Path, splits: dict[str, str]) -> Iterator[caption_files.Item]:
    """The items of a file; if there are lists of splits, images that none of them names are left out, as is usual."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where, found = f"{path}:{number}", LINE.fullmatch(line.rstrip("\r"))
        if found is None:
            raise DataError(f"{where}: expected image.jpg#0, a tab and a caption")
        if not splits or found["image"] in splits:
            split = splits.get(found["image"], "train")
            yield caption_files.Item(
                where, split, found["image"], caption_files.usable_captions([found["caption"]], where)
            )
