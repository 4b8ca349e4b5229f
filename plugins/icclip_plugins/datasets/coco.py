"""COCO's captions (Chen et al. 2015): `captions_train2017.json` with `images` and `annotations`, and folders of images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files
from icclip_plugins.datasets.reading import read_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from datasets import DatasetDict

    from icclip.config import DatasetConfig

SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""The end of a file's name after `captions_` -> the name of our split."""
HEAD = 1 << 16


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `coco`."""
    summary = "COCO's captions_*.json, or the directory that holds them and the images"
    return [
        DatasetSpec(
            name="coco",
            summary=summary,
            load=load,
            takes_path=True,
            recognises=recognises,
            caption_ids=caption_ids,
        )
    ]


def caption_ids(config: DatasetConfig) -> dict[str, tuple[str, int]]:
    """The ids of the annotations, as ECCV Caption and CxC name captions.

    Raises:
        DataError: as `load`.
    """
    found: dict[str, tuple[str, int]] = {}
    counts = Counter[str]()
    for file in _files_of(caption_files.given_path(config, "DIRECTORY")):
        for item, key in _annotated(file, ""):
            for number in range(len(item.captions)):
                found.setdefault(key, (item.image, counts[item.image] + number))
            counts[item.image] += len(item.captions)
    return found


def load(config: DatasetConfig) -> DatasetDict:
    """Load one file, or every `captions_*.json` of a directory or of its folder `annotations`.

    Images are looked up in the directory, in `images`, and in the folder named like the file (`train2017` for
    `captions_train2017.json`); `--image-root` names another folder.

    Raises:
        DataError: there is no such file, the file has another layout, or an image is missing.
    """
    path = caption_files.given_path(config, "DIRECTORY")
    files = _files_of(path)
    root = path if path.is_dir() else path.parent.parent if path.parent.name == "annotations" else path.parent
    folders = [root, root / "images", *(folder for file in files for folder in _image_folders(root, file))]
    if config.image_root is not None:
        given = Path(config.image_root).expanduser()
        folders = [given, *(given / file.stem.removeprefix("captions_") for file in files)]
    caption_files.door_of(config, folders)
    splits = {file: _split(file) if path.is_dir() else "train" for file in files}
    items = (item for file in files for item, _ in _annotated(file, splits[file]))
    return caption_files.splits_of(config, folders, items)


def recognises(path: Path) -> bool:
    """Whether it is a file that begins like COCO's files, or a directory with `captions_*.json`."""
    if path.is_dir():
        return bool(_files(path))
    return path.suffix.lower() == ".json" and path.is_file() and _begins_like_coco(path)


def _begins_like_coco(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD).lstrip(b"\xef\xbb\xbf \r\n\t")
    return (
        head.startswith(b"{")
        and b'"sentences"' not in head
        and any(name in head for name in (b'"images"', b'"annotations"', b'"licenses"'))
    )


def _files_of(path: Path) -> list[Path]:
    files = _files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no captions_*.json in it or in its folder annotations")
    return files


def _files(path: Path) -> list[Path]:
    found = [*path.glob("captions_*.json"), *(path / "annotations").glob("captions_*.json")]
    return sorted(file for file in found if _split(file))


def _split(file: Path) -> str:
    rest = file.stem.removeprefix("captions_")
    return next((split for name, split in SPLITS.items() if rest.startswith(name)), "")


def _image_folders(root: Path, file: Path) -> list[Path]:
    name = file.stem.removeprefix("captions_")
    return [root / name, root / "images" / name]


def _annotated(file: Path, split: str) -> Iterator[tuple[caption_files.Item, str]]:
    """Each annotation as an item, and its id."""
    content = read_object(file)
    names = dict(_image(image, f"{file}, images[{i}]") for i, image in enumerate(_list(content, "images", file)))
    for number, annotation in enumerate(_list(content, "annotations", file)):
        where = f"{file}, annotations[{number}]"
        if not isinstance(annotation, dict) or "image_id" not in annotation or "caption" not in annotation:
            raise DataError(f"{where}: expected an object with image_id and caption; give a file of captions")
        image = annotation["image_id"]
        if not isinstance(image, int | str) or image not in names:
            raise DataError(f"{where}: no image has the id {image!r}")
        captions = caption_files.usable_captions([annotation["caption"]], where)
        yield caption_files.Item(where, split, names[image], captions), str(annotation.get("id", ""))


def _list(content: Mapping[str, Any], name: str, file: Path) -> list[Any]:
    value = content.get(name)
    if not isinstance(value, list):
        raise DataError(f"{file}: has no list called {name}: this is not the layout of COCO's captions")
    return value


def _image(image: Any, where: str) -> tuple[int | str, str]:
    if not isinstance(image, dict):
        raise DataError(f"{where}: expected an object with id and file_name")
    key, name = image.get("id"), image.get("file_name")
    if not isinstance(key, int | str) or not isinstance(name, str) or not name:
        raise DataError(f"{where}: expected an object with id and file_name")
    return key, name
