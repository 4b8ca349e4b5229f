"""jsonl, csv and folder: files that name images."""

from __future__ import annotations

import json

import pytest
from support.flickr import jpeg

from icclip.config import DatasetConfig
from icclip.data.split import SplitImages
from icclip.errors import DataError
from icclip.plugins.registry import Registry


@pytest.fixture
def root(tmp_path):
    """A folder with images a.jpg, b.jpg, c.jpg; what lies beside it is outside."""
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    for shade, name in enumerate(("a.jpg", "b.jpg", "sub/c.jpg", "../outside.jpg")):
        (folder / name).write_bytes(jpeg(shade))
    return folder


def load(name, path, **options):
    return Registry(load_plugins=frozenset()).dataset(name).load(DatasetConfig(name=name, path=str(path), **options))


def captions(splits):
    return {name: split["captions"][:] for name, split in splits.items()}


def write_lines(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def refused(name, path, message, **options):
    with pytest.raises(DataError) as caught:
        load(name, path, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value) == message or message in str(caught.value), str(caught.value)


# jsonl


@pytest.mark.parametrize("image", ["image", "image_path", "filepath", "path", "file_name"])
@pytest.mark.parametrize("caption", ["text", "caption", "captions", "prompt"])
def test_every_alias(root, image, caption):
    manifest = write_lines(root / "m.jsonl", {image: "a.jpg", caption: "an a", "unrelated": 3})
    splits = load("jsonl", manifest)
    assert captions(splits) == {"train": [["an a"]]}
    assert SplitImages(splits["train"])[0].size == (12, 8)


def test_repeated_images_become_one_with_all_their_captions(root):
    manifest = write_lines(
        root / "m.jsonl",
        {"image": "b.jpg", "caption": "first"},
        {"image": "a.jpg", "captions": ["x", "y"]},
        "",
        {"image": "b.jpg", "caption": "second"},
    )
    assert captions(load("jsonl", manifest)) == {"train": [["first", "second"], ["x", "y"]]}


def test_named_columns(root):
    manifest = write_lines(root / "m.jsonl", {"foto": "a.jpg", "wort": "ein A", "image": "no", "text": "no"})
    assert captions(load("jsonl", manifest, image_column="foto", caption_column="wort")) == {"train": [["ein A"]]}


def test_numbered_captions(root):
    manifest = write_lines(
        root / "m.jsonl", {"image": "a.jpg", "caption_1": "one", "caption_0": "zero", "caption_2": None}
    )
    assert captions(load("jsonl", manifest)) == {"train": [["zero", "one"]]}


def test_the_column_split_is_honoured(root):
    manifest = write_lines(
        root / "m.jsonl",
        {"image": "a.jpg", "text": "a", "split": "train"},
        {"image": "b.jpg", "text": "b", "split": "val"},
        {"image": "sub/c.jpg", "text": "c", "split": "test"},
    )
    assert captions(load("jsonl", manifest)) == {"train": [["a"]], "validation": [["b"]], "test": [["c"]]}


def test_a_directory_with_a_manifest_per_split(root):
    write_lines(root / "train.jsonl", {"image": "a.jpg", "text": "a"})
    write_lines(root / "dev.jsonl", {"image": "sub/c.jpg", "text": "c"})
    assert captions(load("jsonl", root)) == {"train": [["a"]], "validation": [["c"]]}


def test_two_manifests_for_one_split(root):
    write_lines(root / "val.jsonl")
    write_lines(root / "validation.jsonl")
    refused("jsonl", root, f"{root}: both validation.jsonl and val.jsonl are validation; remove one")


def test_an_absolute_path_below_the_root_is_fine(root):
    manifest = write_lines(root / "m.jsonl", {"image": str(root / "a.jpg"), "text": "a"})
    assert captions(load("jsonl", manifest)) == {"train": [["a"]]}


def test_a_byte_order_mark_and_unicode_line_separators(root):
    line = json.dumps({"image": "a.jpg", "text": "one\u2028line"}, ensure_ascii=False)
    (root / "m.jsonl").write_text(line, encoding="utf-8-sig")
    assert captions(load("jsonl", root / "m.jsonl")) == {"train": [["one\u2028line"]]}


@pytest.mark.parametrize("way", ["relative", "absolute", "link"])
def test_paths_that_leave_the_root_are_refused_unless_allowed(root, way):
    (root / "link.jpg").symlink_to(root / "../outside.jpg")
    name = {"relative": "../outside.jpg", "absolute": str(root.parent / "outside.jpg"), "link": "link.jpg"}[way]
    manifest = write_lines(root / "m.jsonl", {"image": name, "text": "a"})
    refused("jsonl", manifest, f"{manifest}:1: {name} lies outside {root}; move it there or pass --allow-outside-root")
    splits = load("jsonl", manifest, allow_outside_root=True)
    assert SplitImages(splits["train"])[0].getpixel((0, 0)) == (3, 3, 3)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"image": "a.jpg", "text"', ":2: not valid JSON: "),
        ("[1]", ':2: expected an object such as {"image": ..., "caption": ...}'),
        ({"text": "a"}, ":2: no image column among text; name it with --image-column"),
        ({"image": "a.jpg", "label": 3}, ":2: no caption column among image, label; name it with --caption-column"),
        ({"image": "a.jpg", "text": None}, ":2: the image has no caption; add one or remove the line"),
        ({"image": "a.jpg", "captions": []}, ":2: the image has no caption; add one or remove the line"),
        ({"image": "a.jpg", "text": "  "}, ":2: a caption is empty; fill it in or remove it"),
        ({"image": "a.jpg", "text": 7}, ":2: a caption is 7: expected text or a list of texts"),
        ({"image": 7, "text": "a"}, ":2: the image is 7: expected a path"),
        ({"image": "", "text": "a"}, ":2: the image is '': expected a path"),
        ({"image": "absent.jpg", "text": "a"}, ":2: there is no file "),
        (
            {"image": "a.jpg", "text": "a", "split": "holdout"},
            ":2: split 'holdout': use one of train, validation, test",
        ),
        (
            {"image": "a.jpg", "text": "a", "split": ["train"]},
            ":2: split ['train']: use one of train, validation, test",
        ),
        (
            {"image": "https://example.org/a.jpg", "text": "a"},
            ":2: https://example.org/a.jpg: pass --download to fetch images from the network, or give a path",
        ),
    ],
)
def test_bad_lines_are_named_by_their_number(root, line, problem):
    manifest = write_lines(root / "m.jsonl", {"image": "a.jpg", "text": "a"}, line)
    refused("jsonl", manifest, f"{manifest}{problem}")


def test_a_column_that_is_not_there(root):
    manifest = write_lines(root / "m.jsonl", {"image": "a.jpg", "text": "a"})
    refused(
        "jsonl",
        manifest,
        f"{manifest}:1: --image-column x: no such column; the columns are image, text",
        image_column="x",
    )
    refused("jsonl", manifest, f"{manifest}:1: --caption-column x: no such column", caption_column="x")


def test_sources_that_cannot_be_read(root):
    refused("jsonl", root / "absent.jsonl", f"{root / 'absent.jsonl'}: there is no such file or directory")
    refused("jsonl", root, f"{root}: no train.jsonl, validation.jsonl, test.jsonl in it")
    refused("jsonl", write_lines(root / "m.jsonl"), f"jsonl@{root / 'm.jsonl'}: has no rows")
    (root / "m.jsonl").write_bytes(b'{"image": "a.jpg"}\n\xff')
    refused("jsonl", root / "m.jsonl", f"{root / 'm.jsonl'}:2: not UTF-8: save it in that encoding")
    (root / "train.jsonl").mkdir()
    refused("jsonl", root, f"cannot read the caption file: {root / 'train.jsonl'} is a directory, not a file")


@pytest.mark.parametrize(("name", "example"), [("jsonl", "PATH.jsonl"), ("csv", "PATH.csv"), ("folder", "FOLDER")])
def test_a_name_without_its_path(name, example):
    with pytest.raises(DataError, match=f"^dataset '{name}' needs a path: write {name}@{example}$"):
        Registry(load_plugins=frozenset()).dataset(name).load(DatasetConfig(name=name))


# csv


def test_csv_with_quotes_commas_and_line_breaks(root):
    (root / "m.csv").write_text(
        'image,caption,split\na.jpg,"one, ""two""",train\na.jpg,"three\nfour",train\nb.jpg,b,test\n'
    )
    assert captions(load("csv", root / "m.csv")) == {"train": [['one, "two"', "three\nfour"]], "test": [["b"]]}


def test_csv_per_split(root):
    (root / "train.csv").write_text("path,text\na.jpg,a\n")
    (root / "test.csv").write_text("path,text\nb.jpg,b\n")
    assert captions(load("csv", root)) == {"train": [["a"]], "test": [["b"]]}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.jpg", ":3: the number of fields differs from the header's (2)"),
        ("a.jpg,b,c", ":3: the number of fields differs from the header's (2)"),
        ('a.jpg,"b', ":3: not valid CSV: "),
        ('a.jpg,"b\nb.jpg,c', ":3: not valid CSV: "),
        ("a.jpg,", ":3: a caption is empty; fill it in or remove it"),
        ("absent.jpg,x", ":3: there is no file "),
    ],
)
def test_bad_csv_lines(root, line, problem):
    (root / "m.csv").write_text(f"image,caption\na.jpg,a\n{line}\n")
    refused("csv", root / "m.csv", f"{root / 'm.csv'}{problem}")


# folder


def test_text_files_beside_the_images(root):
    for name, text in (("a", "one\n\ntwo\n"), ("b", "b"), ("sub/c", "c")):
        (root / f"{name}.txt").write_text(text)
    assert captions(load("folder", root)) == {"train": [["one", "two"], ["b"], ["c"]]}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_of_an_imagefolder(root, kind):
    rows = ["file_name,text", "sub/c.jpg,c", "a.jpg,a"]
    lines = rows if kind == "csv" else [{"file_name": "sub/c.jpg", "text": "c"}, {"file_name": "a.jpg", "text": "a"}]
    write_lines(root / f"metadata.{kind}", *lines)
    assert captions(load("folder", root)) == {"train": [["c"], ["a"]]}


def test_a_sub_folder_per_split(root):
    for split in ("train", "valid", "test"):
        (root / split).mkdir()
        (root / split / f"{split}.png").write_bytes(jpeg(1))
    (root / "train" / "train.txt").write_text("a")
    write_lines(root / "valid" / "metadata.jsonl", {"file_name": "valid.png", "text": "b"})
    (root / "test" / "metadata.csv").write_text("file_name,text\ntest.png,c\n")
    splits = load("folder", root)
    assert captions(splits) == {"train": [["a"]], "validation": [["b"]], "test": [["c"]]}
    assert all(SplitImages(split)[0].size == (12, 8) for split in splits.values())


def test_metadata_of_a_sub_folder_may_not_leave_the_root(root):
    (root / "train").mkdir()
    metadata = write_lines(root / "train" / "metadata.jsonl", {"file_name": "../../outside.jpg", "text": "b"})
    refused("folder", root, f"{metadata}:1: train/../../outside.jpg lies outside {root}")


def test_metadata_with_a_split_column(root):
    write_lines(root / "metadata.jsonl", {"file_name": "a.jpg", "text": "a", "split": "dev"})
    assert captions(load("folder", root)) == {"validation": [["a"]]}


def test_folders_that_cannot_be_read(root, tmp_path):
    refused("folder", root, f"{root / 'a.jpg'}: has no caption: put one into a.txt beside it, or into metadata.jsonl")
    for name in ("b", "sub/c", "a"):
        (root / f"{name}.txt").write_text("\n")
    refused("folder", root, f"{root / 'a.txt'}: the image has no caption; add one or remove the line")
    refused("folder", root / "a.jpg", f"{root / 'a.jpg'}: not a folder")
    (tmp_path / "empty").mkdir()
    refused("folder", tmp_path / "empty", f"{tmp_path / 'empty'}: has no images (.avif, .bmp, ")
