"""Local copies in the hub's layouts, and any local parquet directory."""

from __future__ import annotations

import pytest
from datasets import Dataset, Features, Image, Value
from datasets import Sequence as ListFeature
from support.flickr import jpeg, write_flickr8k, write_flickr30k

from icclip.config import DatasetConfig
from icclip.data.split import SplitImages, caption_map
from icclip.errors import DataError
from icclip.plugins.registry import Registry


def load(name, path, **options):
    return Registry(load_plugins=frozenset()).dataset(name).load(DatasetConfig(name=name, path=str(path), **options))


def write_parquet(folder, columns, features, split="train"):
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=Features(features)).to_parquet(folder / f"{split}.parquet")
    return folder


def one_row(folder, **others):
    """A row with an image, and text columns by name."""
    columns = {"image": [{"bytes": jpeg(0), "path": None}]} | {name: [value] for name, value in others.items()}
    types = {
        name: ListFeature(Value("string")) if isinstance(v, list) else Value("string") for name, v in others.items()
    }
    return write_parquet(folder, columns, {"image": Image()} | types)


def test_flickr8k(tmp_path):
    write_flickr8k(tmp_path / "copy")
    splits = load("flickr8k", tmp_path / "copy")
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 2, "test": 3}
    assert caption_map(splits["test"]).texts[5:10] == tuple(f"test image 1 told {i}" for i in range(5))
    assert SplitImages(splits["test"])[1].getpixel((0, 0)) == (9, 9, 9)


def test_flickr30k_is_divided_by_its_column(tmp_path):
    write_flickr30k(tmp_path / "copy")
    splits = load("flickr30k", tmp_path / "copy")
    shown = {name: [image.getpixel((0, 0))[0] for image in SplitImages(split)] for name, split in splits.items()}
    assert shown == {"train": [0, 2, 4, 7], "validation": [1, 5], "test": [3, 6]}
    assert splits["validation"]["captions"][1] == [f"photo 5 told {i}" for i in range(5)]


def test_flickr30k_is_divided_without_decoding_an_image(tmp_path):
    # No image of this copy can be decoded, so nothing did.
    write_flickr30k(tmp_path / "copy", content=lambda row: b"")
    splits = load("flickr30k", tmp_path / "copy")
    assert {name: len(split) for name, split in splits.items()} == {"train": 4, "validation": 2, "test": 2}
    with pytest.raises(DataError, match=r"0 bytes"):
        SplitImages(splits["test"])[0]


def test_flickr30k_streams_are_divided_without_decoding_an_image(tmp_path):
    write_flickr30k(tmp_path / "copy", content=lambda row: b"")
    splits = load("flickr30k", tmp_path / "copy", streaming=True)
    assert [row["captions"][0] for row in splits["test"]] == ["photo 3 told 0", "photo 6 told 0"]


def test_flickr8k_streams(tmp_path):
    write_flickr8k(tmp_path / "copy")
    first = next(iter(load("flickr8k", tmp_path / "copy", streaming=True)["train"]))
    assert first["image"]["bytes"] == jpeg(0)
    assert first["captions"] == [f"train image 0 told {i}" for i in range(5)]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"text": "a"}, ["a"]),
        ({"caption": ["a", "b"]}, ["a", "b"]),
        ({"caption_1": "one", "caption_0": "zero", "caption_10": "ten"}, ["zero", "one", "ten"]),
        ({"label": "x", "captions": ["a"], "prompt": "p"}, ["a"]),
    ],
)
def test_caption_columns_are_found(tmp_path, others, expected):
    assert load("hub", one_row(tmp_path / "copy", **others))["train"][0]["captions"] == expected


def test_columns_can_be_named(tmp_path):
    columns = {"left": [{"bytes": jpeg(1), "path": None}], "right": [{"bytes": jpeg(2), "path": None}], "wort": ["ein"]}
    folder = write_parquet(tmp_path / "copy", columns, {"left": Image(), "right": Image(), "wort": Value("string")})
    split = load("hub", folder, image_column="right", caption_column="wort")["train"]
    assert split.column_names == ["image", "captions"]
    assert SplitImages(split)[0].getpixel((0, 0)) == (2, 2, 2)


def test_an_image_column_of_any_name_is_found(tmp_path):
    columns = {"jpg": [{"bytes": jpeg(1), "path": None}], "text": ["a"]}
    folder = write_parquet(tmp_path / "copy", columns, {"jpg": Image(), "text": Value("string")})
    assert len(load("hub", folder)["train"]) == 1


def test_images_stored_as_bytes_by_other_writers_are_found(tmp_path):
    cells = {"bytes": Value("binary"), "path": Value("string")}
    columns = {"image": [{"bytes": jpeg(4), "path": "a.jpg"}], "text": ["a"]}
    folder = write_parquet(tmp_path / "copy", columns, {"image": cells, "text": Value("string")})
    assert SplitImages(load("hub", folder)["train"])[0].getpixel((0, 0)) == (4, 4, 4)
    streamed = next(iter(load("hub", folder, streaming=True)["train"]))
    assert streamed == {"image": {"bytes": jpeg(4), "path": "a.jpg"}, "captions": ["a"]}


def test_a_validation_split_alone(tmp_path):
    columns = {"image": [{"bytes": jpeg(1), "path": None}], "text": ["a"]}
    folder = write_parquet(tmp_path / "copy", columns, {"image": Image(), "text": Value("string")}, split="validation")
    assert list(load("hub", folder)) == ["validation"]


def refused(name, folder, message, **options):
    with pytest.raises(DataError) as caught:
        load(name, folder, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_columns_list_those_there_are(tmp_path):
    folder = one_row(tmp_path / "copy", words="a")
    refused("hub", folder, "split 'train': no caption column among image, words; name it with --caption-column")
    refused(
        "hub",
        folder,
        "split 'train': --caption-column x: no such column; the columns are image, words",
        caption_column="x",
    )
    refused("hub", folder, "split 'train': --image-column y: no such column", image_column="y", caption_column="words")
    refused(
        "hub",
        folder,
        f"split 'train', row 0: there is no file {folder / 'a'}",
        image_column="words",
        caption_column="words",
    )
    text = write_parquet(tmp_path / "text", {"text": ["a"]}, {"text": Value("string")})
    refused("hub", text, "split 'train': no image column among text; name it with --image-column")


def test_another_layout_under_a_flickr_name(tmp_path):
    folder = one_row(tmp_path / "copy", text="a")
    refused(
        "flickr8k",
        folder,
        "split 'train': no column caption_0, caption_1, caption_2, caption_3, caption_4; the columns are image, text",
    )
    refused("flickr30k", folder, f"{folder}: the hub's layout has one split, test; this has train")
    write_flickr8k(tmp_path / "eight")
    refused("flickr30k", tmp_path / "eight", "no column caption, split; the columns are image, caption_0")


def test_sources_that_cannot_be_opened(tmp_path):
    refused("flickr8k", tmp_path / "absent", "absent: no such directory; give a directory of parquet files or a hub id")
    (tmp_path / "file.txt").write_text("x")
    refused("hub", tmp_path / "file.txt", "file.txt: no such directory; give a directory of parquet files")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"no parquet")
    refused("hub", tmp_path / "broken", "broken: cannot be read as a dataset: ")
    (tmp_path / "none").mkdir()
    refused("hub", tmp_path / "none", "none: cannot be read as a dataset: ")


def test_hub_without_an_id():
    with pytest.raises(
        DataError, match=r"^dataset 'hub' needs an id or a directory: write hub@owner/name or hub@PATH$"
    ):
        Registry(load_plugins=frozenset()).dataset("hub").load(DatasetConfig(name="hub"))


@pytest.mark.parametrize("name", ["train.pkl", "data/train.pt", "x.pickle"])
def test_pickled_data_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x80\x04.")
    refused("hub", tmp_path, f"{tmp_path / name}: pickled data is never loaded; convert it to parquet")


def test_no_network_is_told_from_the_hubs_answer(tmp_path):
    with pytest.raises(
        DataError, match=r"the hub cannot be reached and it is not in the cache; give a local copy as flickr8k@PATH"
    ):
        Registry(load_plugins=frozenset()).dataset("flickr8k").load(DatasetConfig(name="flickr8k"))
