"""The layout of Karpathy's splits: `dataset_flickr8k.json`, `dataset_coco.json`, `dataset_rsicd.json`.

`images[]` has `filename`, sometimes `filepath`, `split` and `sentences[].raw`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files
from icclip_plugins.datasets.reading import read_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import DatasetDict

    from icclip.config import DatasetConfig

SPLITS = {**caption_files.SPLIT_ALIASES, "restval": "train"}
"""The names of splits; `restval` holds COCO's validation images that are usually trained on."""
HEAD = 1 << 16


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `karpathy`."""
    summary = "dataset_*.json as Karpathy's splits are laid out, or the directory that holds one"
    return [DatasetSpec(name="karpathy", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict:
    """Load the splits that the images' field `split` names.

    Images are looked up beside the file, below `images`, or in `--image-root`, including the folder that `filepath`
    names if there is one.

    Raises:
        DataError: there is no such file, the file has another layout, or an image is missing.
    """
    path = caption_files.given_path(config, "dataset_NAME.json")
    file = _file_in(path) if path.is_dir() else path
    return caption_files.splits_of(config, [file.parent, file.parent / "images"], _items(file))


def recognises(path: Path) -> bool:
    """Whether it is a .json file that begins with images and sentences, or a directory with one `dataset_*.json`."""
    if path.is_dir():
        return len([*path.glob("dataset_*.json")]) == 1
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(HEAD)
    return b'"images"' in head and (b'"sentences"' in head or b'"sentids"' in head)


def _file_in(path: Path) -> Path:
    found = sorted(path.glob("dataset_*.json"))
    if len(found) != 1:
        raise DataError(f"{path}: {len(found) or 'no'} files called dataset_*.json; name the one to read")
    return found[0]


def _items(file: Path) -> Iterator[caption_files.Item]:
    images = read_object(file).get("images")
    if not isinstance(images, list):
        raise DataError(f"{file}: has no list called images: this is not the layout of Karpathy's splits")
    for number, image in enumerate(images):
        yield _item(image, f"{file}, images[{number}]")


def _item(image: Any, where: str) -> caption_files.Item:
    if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
        raise DataError(f"{where}: expected an object with filename, split and sentences")
    sentences = image.get("sentences")
    if not isinstance(sentences, list):
        raise DataError(f"{where}: has no list called sentences")
    folder = image.get("filepath")
    name = f"{folder}/{image['filename']}" if isinstance(folder, str) and folder else image["filename"]
    split = caption_files.known_split(image.get("split", "train"), where, SPLITS)
    return caption_files.Item(where, split, name, caption_files.usable_captions(sentences, where))
