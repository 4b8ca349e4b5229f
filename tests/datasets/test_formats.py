"""Every format: recognised by its path, read back as it was written, trained and evaluated through the command line."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.flickr import jpeg
from support.formats import (
    CAPTIONS,
    FORMATS,
    NAMES,
    ONE_CAPTION,
    ROWS,
    array,
    coco,
    images,
    img2dataset,
    karpathy,
    many_shards,
    shard,
)

from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.gallery import load_gallery
from icclip.data.loading import dataset_config, load_splits
from icclip.data.split import SplitImages
from icclip.errors import DataError
from icclip.plugins.registry import Registry
from icclip.retrieval.judgements import read_relevance

REGISTRY = Registry(load_plugins=frozenset())
OURS = {"train": "train", "val": "validation", "test": "test"}


def load(name, path, **options):
    return REGISTRY.dataset(name).load(DatasetConfig(name=name, path=str(path), **options))


def refused(name, path, *parts, **options):
    with pytest.raises(DataError) as caught:
        load(name, path, **options)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def expected_captions(form, split):
    own = [(i, c) for i, (_, c, s) in enumerate(ROWS) if OURS[s] == split]
    if form == "class folders":
        return sorted([f"class {i % 3}"] for i, _ in own)
    return sorted(c[:1] if form in ONE_CAPTION else c for _, c in own)


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_what_was_written_is_read_back(form, tmp_path):
    name, write = FORMATS[form]
    config = dataset_config(REGISTRY, str(write(tmp_path / "it")))
    assert config.name == name
    splits = load_splits(REGISTRY, config, Reporter(silent=True))
    assert list(splits) == ["train", "validation", "test"]
    for split, rows in splits.items():
        assert sorted(rows["captions"][:]) == expected_captions(form, split)
        for row, image in enumerate(SplitImages(rows)):
            shade = image.getpixel((0, 0))[0]
            number = shade // 20
            assert abs(shade - number * 20) <= 1
            if form != "class folders":
                assert rows[row]["captions"][0] == CAPTIONS[number][0]


@pytest.mark.slow
@pytest.mark.parametrize("form", sorted(FORMATS))
def test_trained_for_a_step_and_evaluated_through_the_command_line(form, tmp_path, icclip):
    _, write = FORMATS[form]
    path, run = write(tmp_path / "it"), tmp_path / "run"
    options = ["--device", "cpu", "--workers", 0, "--report-to", "none", "--train-bs", 3, "--max-steps", 1]
    made = icclip("train", "-m", "clip-tiny", "-d", path, "-o", run, *options, "--guard", "off")
    assert made.code == 0, made.err
    measured = icclip("eval", run, "--json", "--device", "cpu")
    assert measured.code == 0, measured.err
    assert json.loads(measured.out)["n_images"] == 3


def test_what_separates_the_fields_is_said(tmp_path, capsys):
    load("csv", FORMATS["Excel's semicolons"][1](tmp_path / "it"))
    assert "it.csv: the fields are separated by semicolons" in capsys.readouterr().err


def test_a_template_around_the_name_of_a_class(tmp_path):
    path = FORMATS["class folders"][1](tmp_path / "it")
    splits = load("classes", path, template="a photo of a {}")
    assert {text for own in splits["test"]["captions"][:] for text in own} == {
        f"a photo of a class {i}" for i in range(3)
    }


def test_images_elsewhere(tmp_path):
    path = karpathy(tmp_path / "it")
    (tmp_path / "it" / "images").rename(tmp_path / "photos")
    refused("karpathy", path, "images[0]: there is no file ")
    assert len(load("karpathy", path, image_root=str(tmp_path / "photos"))["test"]) == 3
    refused("karpathy", path, "--image-root /nowhere: there is no such directory", image_root="/nowhere")


def test_a_folder_that_is_a_link_needs_leave_or_is_the_image_root(tmp_path):
    path = karpathy(tmp_path / "it")
    (tmp_path / "it" / "images").rename(tmp_path / "photos")
    (tmp_path / "it" / "images").symlink_to(tmp_path / "photos")
    refused("karpathy", path, "lies outside", "--allow-outside-root")
    assert len(load("karpathy", path, allow_outside_root=True)["test"]) == 3
    assert len(load("karpathy", path, image_root=str(tmp_path / "it" / "images"))["test"]) == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", ": expected an array of objects"),
        ('[\n {"image": "00.jpg", "caption": "a"},\n 3]', ":3: expected an object such as"),
        ('[\n {"image": "a"', ":2: not valid JSON"),
        (
            '[{"image": "00.jpg", "caption": "a"}\n {"image": "a"}]',
            ":1: not valid JSON: expected ',' or ']' after this object",
        ),
        ('[\n\n{"image": "00.jpg", "caption": {"other": 1}}]', ":3: a caption is {'other': 1}: expected text"),
    ],
)
def test_mistakes_in_a_json_array(tmp_path, text, problem):
    images(tmp_path)
    (tmp_path / "a.json").write_text(text)
    refused("json", tmp_path / "a.json", f"{tmp_path / 'a.json'}{problem}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.pop("annotations"), "has no list called annotations"),
        (lambda c: c.pop("images"), "has no list called images"),
        (lambda c: c["images"].append(3), "images[3]: expected an object with id and file_name"),
        (lambda c: c["annotations"].append({"id": 1}), "annotations[6]: expected an object with image_id and caption"),
        (lambda c: c["annotations"].append({"image_id": 7, "caption": "a"}), "annotations[6]: no image has the id 7"),
        (lambda c: c["annotations"].append({"image_id": 1009, "caption": " "}), "annotations[6]: a caption is empty"),
    ],
)
def test_mistakes_in_cocos_file(tmp_path, change, problem):
    file = coco(tmp_path / "it") / "annotations" / "captions_test2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    refused("coco", tmp_path / "it", f"{file}", problem)


def test_judgements_name_cocos_captions_by_the_ids_of_their_annotations(tmp_path):
    config = dataset_config(REGISTRY, str(coco(tmp_path)))
    ids = REGISTRY.dataset("coco").caption_ids(config)
    gallery = load_gallery(REGISTRY, config, "test", Reporter(silent=True))
    (tmp_path / "eccv.json").write_text(json.dumps({"9": ["9001", "10001"], "10": ["9000"], "11": ["11001"]}))
    relevance = read_relevance(tmp_path / "eccv.json", gallery.captions, gallery.image_names, ids)
    assert [relevance.texts_of(image).tolist() for image in range(3)] == [[1, 3], [0], [5]]


def test_a_single_file_of_coco(tmp_path):
    file = coco(tmp_path / "it") / "annotations" / "captions_val2017.json"
    assert dataset_config(REGISTRY, str(file)).name == "coco"
    assert len(load("coco", file)["train"]) == 3
    assert len(load("coco", file, image_root=str(tmp_path / "it" / "val2017"))["train"]) == 3
    refused("coco", tmp_path, "no captions_*.json in it")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"images": 3}, "has no list called images"),
        ({"images": [3]}, "images[0]: expected an object with filename"),
        ({"images": [{"filename": "00.jpg"}]}, "images[0]: has no list called sentences"),
        ({"images": [{"filename": "00.jpg", "split": "x", "sentences": []}]}, "images[0]: split 'x': use one of"),
        ({"images": [{"filename": "00.jpg", "sentences": []}]}, "images[0]: the image has no caption"),
    ],
)
def test_mistakes_in_karpathys_file(tmp_path, content, problem):
    images(tmp_path)
    (tmp_path / "dataset_a.json").write_text(json.dumps(content))
    refused("karpathy", tmp_path / "dataset_a.json", problem)
    refused("karpathy", tmp_path, problem)
    (tmp_path / "dataset_b.json").write_text("{}")
    refused("karpathy", tmp_path, "2 files called dataset_*.json; name the one to read")


def test_mistakes_in_a_token_file(tmp_path):
    images(tmp_path)
    (tmp_path / "results.token").write_text("00.jpg#0\ta\n00.jpg b\n")
    refused("token", tmp_path / "results.token", "results.token:2: expected image.jpg#0, a tab and a caption")


def test_mistakes_in_a_table(tmp_path):
    images(tmp_path)
    (tmp_path / "a.csv").write_text("image,caption,caption\n00.jpg,a,b\n")
    refused("csv", tmp_path / "a.csv", "a.csv:1: two columns are called caption: rename one")


def test_a_header_that_is_none(tmp_path):
    (tmp_path / "a.csv").write_text("[" * 200_000)
    refused("csv", tmp_path / "a.csv", "a.csv:1: the header is not that of a table: field larger than field limit")


def test_a_caption_in_brackets_is_a_caption(tmp_path):
    images(tmp_path)
    (tmp_path / "a.csv").write_text("image,caption\n00.jpg,[sic] a dog [a]\n01.jpg,[1]\n02.jpg,[not a list]\n")
    texts = load("csv", tmp_path / "a.csv")["train"]["captions"][:]
    assert texts == [["[sic] a dog [a]"], ["[1]"], ["[not a list]"]]


def test_utf_16_and_the_line_that_names_the_separator_as_excel_saves_them(tmp_path):
    images(tmp_path)
    (tmp_path / "a.csv").write_bytes("sep=;\r\nimage;caption\r\n00.jpg;größer, \u2028höher\r\n".encode("utf-16"))
    assert load("csv", tmp_path / "a.csv")["train"]["captions"][:] == [["größer, \u2028höher"]]


def test_an_image_outside_any_class(tmp_path):
    path = FORMATS["class folders"][1](tmp_path / "it")
    images(path / "train", ["loose.jpg"])
    refused("classes", path, "loose.jpg: is not in a class folder")
    (tmp_path / "empty").mkdir()
    refused("classes", tmp_path / "empty", "has no images")
    refused("classes", path / "train" / "loose.jpg", "not a folder")


# webdataset


def test_a_glob_a_range_and_a_single_shard(tmp_path):
    folder = img2dataset(tmp_path / "it")
    for value, splits in ((f"{folder}/t*.tar", ["train", "test"]), (f"{folder}/train-{{00000..00000}}.tar", ["train"])):
        config = dataset_config(REGISTRY, value)
        assert config.name == "webdataset"
        assert sorted(load("webdataset", config.path)) == sorted(splits)
    assert dataset_config(REGISTRY, str(folder / "train-00000.tar")).name == "webdataset"
    refused("webdataset", f"{folder}/x*.tar", "no shards (.tar")


def test_a_folder_per_split(tmp_path):
    for split in ("train", "val"):
        img2dataset(tmp_path / split)
        for file in (tmp_path / split).glob("[tv]*.tar"):
            file.rename(file.with_name(f"{file.name[-9:]}"))
    splits = load("webdataset", tmp_path)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "validation": 12}


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"a_jpg": jpeg(0)}, "a.jpg: the image has no caption: no .txt and no .json"),
        ({"a_jpg": jpeg(0), "a_txt": b"\xff"}, "a.jpg: its text is not UTF-8"),
        ({"a_jpg": jpeg(0), "a_json": b"{"}, "a.jpg: its .json is not valid"),
        ({"a_jpg": jpeg(0), "a_json": b"[]"}, "a.jpg: its .json is not an object"),
        ({"a_jpg": jpeg(0), "a_json": b'{"caption": 3}'}, "a.jpg: a caption is 3"),
        ({"a_txt": b"a"}, "no sample has an image"),
        ({"a_jpg": jpeg(0), "a_txt": b"x" * (1 << 21)}, "is too large for a sample"),
    ],
)
def test_mistakes_in_a_shard(tmp_path, members, problem):
    refused("webdataset", shard(tmp_path / "a.tar", **members), problem)


def test_a_damaged_shard(tmp_path):
    path = img2dataset(tmp_path / "it") / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    refused("webdataset", path, "incomplete or damaged tar file")
    path.write_bytes(b"no tar" * 300)
    refused("webdataset", path, "incomplete or damaged tar file")


class Captions(torch.utils.data.IterableDataset):
    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        return (row["captions"][0] for row in self.stream)


@pytest.mark.parametrize(("shards", "workers"), [(1, 0), (1, 2), (3, 2), (5, 2)])
def test_shards_are_divided_among_workers_and_few_of_them_starve_nobody(tmp_path, shards, workers):
    folder = many_shards(tmp_path / "it", shards)
    stream = load("webdataset", folder, streaming=True)["train"]
    loader = torch.utils.data.DataLoader(
        Captions(stream), batch_size=None, num_workers=workers, timeout=60 * bool(workers)
    )
    assert sorted(loader) == sorted(f"{n} {i}" for n in range(shards) for i in range(4))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_shards_trains_and_its_memory_copy_is_evaluated(tmp_path, icclip, workers):
    folder, run = img2dataset(tmp_path / "it"), tmp_path / "run"
    options = ["--device", "cpu", "--workers", workers, "--report-to", "none", "--train-bs", 3, "--max-steps", 2]
    made = icclip("train", "-m", "clip-tiny", "-d", folder, "-o", run, *options, "--guard", "off", "--streaming")
    assert made.code == 0, made.err
    assert icclip("eval", run, "--device", "cpu").code == 0


# What a foreign dataset must not reach


def parquet(folder, cells, captions=None):
    folder.mkdir(exist_ok=True)
    captions = captions or [f"caption {i}" for i in range(len(cells))]
    pq.write_table(pa.table({"image": cells, "caption": captions}), folder / "train.parquet")
    return folder


@pytest.mark.parametrize("name", ["hub", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["absolute", "relative", "url", "file", "struct"])
def test_a_parquet_file_reads_neither_the_users_files_nor_the_network(tmp_path, name, streaming, kind):
    images(tmp_path, ["secret.jpg"])
    cell = {
        "absolute": str(tmp_path / "secret.jpg"),
        "relative": "../secret.jpg",
        "url": "http://127.0.0.1:9/a.jpg",
        "file": f"file://{tmp_path}/secret.jpg",
        "struct": {"bytes": None, "path": str(tmp_path / "secret.jpg")},
    }[kind]
    folder = parquet(tmp_path / "it", [cell])
    problem = {"url": "pass --download to fetch images", "file": "only http and https"}.get(
        kind, "pass --allow-outside-root"
    )
    path = folder if name == "hub" else folder / "train.parquet"
    if streaming:
        with pytest.raises(DataError, match=problem):
            list(load(name, path, streaming=True)["train"])
    else:
        refused(name, path, problem)


def test_null_cells(tmp_path):
    folder = parquet(tmp_path / "it", [{"bytes": jpeg(1), "path": "a"}, None, {"bytes": jpeg(2), "path": "b"}])
    refused("hub", folder, "split 'train', row 1: the image is null; remove the row, or pass --on-bad-image skip")
    config = DatasetConfig(name="hub", path=str(folder), on_bad_image="skip")
    split = REGISTRY.dataset("hub").load(config)["train"]
    assert len(split) == 3
    folder = parquet(tmp_path / "none", [{"bytes": jpeg(1), "path": "a"}] * 2, ["a", None])
    with pytest.raises(DataError, match="row 1: the image has no caption"):
        load_splits(REGISTRY, dataset_config(REGISTRY, str(folder)), Reporter(silent=True))


def test_base64_that_is_none(tmp_path):
    refused("hub", parquet(tmp_path / "it", ["/9j/" + "A" * 101]), "row 0: the image is not valid base64")


@pytest.mark.parametrize("card", ["---\nconfigs: [}\n---\n", "---\nconfigs: 3\n---\n", "---\ndataset_info: [1]\n---\n"])
def test_malformed_dataset_cards_are_one_line(tmp_path, card):
    folder = parquet(tmp_path / "it", [{"bytes": jpeg(1), "path": "a"}])
    (folder / "README.md").write_text(card)
    refused("hub", folder, f"{folder}: cannot be read as a dataset: ")


def test_a_damaged_parquet_file(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    refused("parquet", tmp_path / "a.parquet", "cannot be read as a dataset: ")


def test_every_file_has_the_hash_it_was_written_with(tmp_path):
    splits = load("parquet", FORMATS["arrow"][1](tmp_path / "it"))
    found = [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in splits["train"]]
    assert found == [hashlib.sha256(jpeg(i * 20)).hexdigest() for i in range(6)]


def test_a_json_array_names_its_images_once(tmp_path):
    assert load("json", array(tmp_path / "it"))["train"]["captions"][:] == CAPTIONS[:6]
    assert len(NAMES) == len(CAPTIONS)
