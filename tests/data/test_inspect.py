"""`icclip data inspect`, on a set with every flaw."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from support.flickr import jpeg
from support.subjects import subject

from icclip.data.leakage import leakage_line
from icclip.errors import ConfigError
from icclip.inspecting import sheet
from icclip.inspecting import texts as inspecting_texts
from icclip.inspecting.texts import TextLengths, caption_findings
from icclip.plugins.registry import Registry


def picture(path, size=(20, 10), mode="RGB"):
    rng = np.random.default_rng(abs(hash(path.name)) % 1000)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(path)


@pytest.fixture
def flawed(tmp_path):
    """Two splits with a copied image, shared captions, odd sizes and modes, unreadable files, foreign characters.

    The table is as Excel writes it on Windows, and one of its folders is a link.
    """
    root = tmp_path / "set"
    root.mkdir()
    picture(root / "one.png", (1, 1))
    picture(root / "tall.png", (3, 4000))
    picture(root / "grey.png", mode="L")
    picture(root / "[red]x[-red].png")
    picture(root / "ä \u65e5\u672c.png")
    (root / "empty.jpg").write_bytes(b"")
    (root / "photos of 2024").mkdir()
    picture(root / "photos of 2024" / "b c.png")
    (root / "linked").symlink_to(root / "photos of 2024")
    (root / "a.avif").write_bytes(b"\0\0\0\x18ftypavif" + b"\0" * 40)
    (root / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    (root / "a.jpg").write_bytes(jpeg(7))
    (root / "copy.jpg").write_bytes(jpeg(7))
    rows = [
        ("one.png", "a dog", "train"), ("tall.png", "a dog", "train"), ("grey.png", "long " * 1000, "train"),
        ("[red]x[-red].png", "[bold]\x1b[31mred[/bold]", "train"), ("ä \u65e5\u672c.png", "\u65e5\u672c", "train"),
        ("empty.jpg", "empty", "train"), ("a.heic", "heic", "train"), ("missing.jpg", "missing", "train"),
        ("a.avif", "avif", "train"), ("photos of 2024\\b c.png", "by Windows", "train"), ("linked/b c.png", "linked", "train"),
        ("a.jpg", "a", "train"), ("copy.jpg", "a dog", "test"), ("copy.jpg", "other", "test"),
    ]  # fmt: skip
    lines = ["image;caption;split", *(";".join(row) for row in rows)]
    (root / "m.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    return root / "m.csv"


def test_what_is_found(flawed, icclip):
    outcome = icclip("data", "inspect", flawed, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    train, test = found["splits"]["train"], found["splits"]["test"]
    assert (train["images"], train["captions"], test["images"], test["captions"]) == (12, 12, 1, 2)
    assert (train["shared_captions"], train["captions_at_several_images"]) == (1, 2)
    assert test["captions_per_image"] == {"min": 2, "median": 2.0, "max": 2}
    assert train["width"] == {"min": 1, "median": 20.0, "max": 20}
    assert train["height"] == {"min": 1, "median": 10.0, "max": 4000}
    assert train["modes"] == {"RGB": 7, "L": 1}
    assert train["formats"] == {"PNG": 7, "JPEG": 1}
    assert train["characters"]["max"] == 5000
    assert train["unreadable"] == 4
    assert train["identical_images"] == 1
    empty, heic, missing, avif = train["unreadable_images"]
    assert "empty.jpg): the image is empty (0 bytes)" in empty
    assert "a.heic): a HEIC image, which needs a plugin: pip install pillow-heif" in heic
    assert "missing.jpg: No such file or directory" in missing
    assert "a.avif): " in avif
    assert "AVIF image" in avif
    assert found["leakage"] == [{"of": "test", "in": "train", "images": 1, "captions": 1}]
    assert found["picture"] is None


def test_what_is_shown_steers_no_terminal(flawed, tmp_path, icclip):
    outcome = icclip("data", "inspect", flawed, "--picture", tmp_path / "sheet.png")
    assert outcome.code == 0, outcome.err
    assert "\x1b" not in outcome.out + outcome.err
    assert "the fields are separated by semicolons" in outcome.err
    assert "leakage from train into test: 1 byte-identical image and 1 identical caption" in outcome.out
    assert outcome.out.count("unreadable: train row") == 4
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.width > 1000
        red = (np.asarray(drawn.convert("RGB")) == (0xC8, 0x35, 0x2B)).all(axis=2)
        assert red.any(), "an image that cannot be read is a red frame"


@pytest.mark.parametrize("size", [(1, 1), (3, 4000), (4000, 3), (300, 200)])
def test_an_image_of_any_proportions_can_be_seen_on_the_sheet(size):
    fitted = sheet._fitted(Image.new("RGB", size, "red"))
    assert max(fitted.size) == sheet.TILE
    assert min(fitted.size) >= sheet.THIN
    assert fitted.getpixel((0, 0)) == (255, 0, 0)


def test_a_picture_of_another_kind(flawed, icclip):
    outcome = icclip("data", "inspect", flawed, "--picture", "sheet.gif")
    assert outcome.code == 2
    assert "sheet.gif: give a name that ends in .png or .jpg" in outcome.err


def test_counts_by_hand():
    assert caption_findings([["a", "b"], ["a", "a"], ["ccc"]]) == {
        "images": 3,
        "captions": 5,
        "captions_per_image": {"min": 1, "median": 2.0, "max": 2},
        "distinct_captions": 3,
        "shared_captions": 1,
        "captions_at_several_images": 3,
        "characters": {"min": 1, "median": 1.0, "max": 3},
    }


def test_lengths_against_the_limit_of_a_model(tmp_path, monkeypatch):
    it = subject("clip", tmp_path / "bundle")
    monkeypatch.setattr(inspecting_texts, "AT_ONCE", 2)
    lengths = TextLengths(Registry(load_plugins=frozenset()), str(it.bundle))
    found = lengths.findings(["a", "a " * 300, "a red square"])
    assert found["limit"] == it.loaded.feeder.text_policy.max_length
    assert found["cut"] == 1
    assert found["cut_share"] == pytest.approx(1 / 3)
    assert found["tokens_lost_of_cut"] == found["tokens"]["max"] - found["limit"]
    it.loaded.model.save_pretrained(tmp_path / "model")
    it.tiny.tokenizer.save_pretrained(tmp_path / "model")
    it.tiny.image_processor.save_pretrained(tmp_path / "model")
    assert (
        TextLengths(Registry(load_plugins=frozenset()), str(tmp_path / "model")).findings(
            ["a", "a " * 300, "a red square"]
        )
        == found
    )


def test_a_template_without_a_place_for_the_name():
    from icclip.config import DatasetConfig

    with pytest.raises(ConfigError, match=r"template is 'a photo': write \{\} where the name of the class goes"):
        DatasetConfig.from_mapping({"name": "classes", "template": "a photo"})


@pytest.mark.parametrize(
    ("images", "captions", "said"),
    [(1, 0, "1 byte-identical image"), (0, 2, "2 identical captions"), (2, 1, "2 byte-identical images and 1 identical caption")],
)  # fmt: skip
def test_leakage_in_words(images, captions, said):
    assert (
        leakage_line({"in": "train", "images": images, "captions": captions}, "test")
        == f"leakage from train into test: {said}"
    )
