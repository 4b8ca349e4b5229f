from __future__ import annotations

import sys

import numpy as np
import pytest
from support.formats import coco, karpathy

from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.gallery import Gallery, gallery_of, load_gallery
from icclip.data.loading import dataset_config, load_splits
from icclip.errors import DataError, MissingExtraError, UnknownNameError
from icclip.plugins.registry import Registry

QUIET = Reporter(silent=True)


@pytest.fixture(scope="module")
def registry():
    return Registry(load_plugins=frozenset())


def test_a_split_is_opened_by_what_the_user_wrote_or_by_its_config(registry):
    written = load_gallery(registry, "shapes", "validation", QUIET, options={"seed": 3})
    config = load_gallery(registry, DatasetConfig(name="shapes", seed=3), "validation", QUIET)
    assert written.label == config.label == "shapes, split validation"
    assert written.captions.texts == config.captions.texts
    assert len(written.images) == written.captions.n_images == 64
    assert written.fingerprint() == config.fingerprint()


def test_chosen_rows_keep_their_captions(registry):
    whole = load_gallery(registry, "shapes", "validation", QUIET)
    some = load_gallery(registry, "shapes", "validation", QUIET, rows=lambda total: np.array([total - 1, 2]))
    assert [len(some.images), some.captions.n_images] == [2, 2]
    for place, row in enumerate((63, 2)):
        assert some.images[place].tobytes() == whole.images[row].tobytes()
        own, all_ = some.captions, whole.captions
        expected = all_.texts[all_.offsets[row] : all_.offsets[row + 1]]
        assert own.texts[own.offsets[place] : own.offsets[place + 1]] == expected
    assert some.fingerprint() != whole.fingerprint()


def test_an_unknown_split_is_named_with_those_there_are(registry):
    with pytest.raises(UnknownNameError, match=r"unknown split 'val'; .*validation.*in shapes"):
        load_gallery(registry, "shapes", "val", QUIET)


def test_without_datasets_the_extra_is_named(registry, monkeypatch):
    monkeypatch.delitem(sys.modules, "icclip.data.loading", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"--dataset needs datasets, not installed here: pip install datasets"):
        load_gallery(registry, "shapes", "test", QUIET)


# Judgements -------------------------------------------------------------------------------------------

JUDGED = "06.jpg 0 07.jpg#0 1\n07.jpg 0 07.jpg#1 1\n09.jpg 0 10.jpg#1 1\n00.jpg 0 01.jpg#0 1\n"
"""Of two validation images, a test image and a training image."""


@pytest.fixture
def judged(registry, tmp_path):
    """A set with judgements of all of its splits, and its splits."""
    (tmp_path / "judged.txt").write_text(JUDGED)
    config = dataset_config(registry, str(karpathy(tmp_path / "it")), qrels=tmp_path / "judged.txt")
    return config, load_splits(registry, config, QUIET)


def test_one_file_judges_several_splits(registry, judged):
    config, splits = judged
    rights = {"validation": [[0, 2], [1, 3]], "test": [[0, 3]], "train": [[0, 2]]}
    for name, right in rights.items():
        gallery = gallery_of(registry, config, splits, name)
        assert gallery.judged.pairs.tolist() == right
        assert gallery.counted_as == gallery.relevance().protocol == "judged.txt"
        assert gallery.relevance("pair").protocol == gallery.relevances()[1].protocol == "pair"


def test_judgements_follow_the_images_that_are_chosen(registry, judged):
    config, _ = judged
    some = load_gallery(registry, config, "validation", QUIET, rows=lambda total: np.array([1, 0]))
    assert sorted(some.judged.pairs.tolist()) == [[0, 1], [1, 0]]
    assert [some.captions.texts[0], some.images[0].getpixel((0, 0))[0] // 20] == ["number 7 first", 7]


def test_a_split_that_nobody_judged(registry, judged, tmp_path):
    config, splits = judged
    (tmp_path / "judged.txt").write_text("06.jpg 0 07.jpg#0 1\n09.jpg 0 10.jpg#1 0\n")
    with pytest.raises(DataError, match=r"judged.txt has no right answers"):
        gallery_of(registry, config, splits, "test")
    gallery = gallery_of(registry, config, splits, "test", several=True)
    assert gallery.judged is None
    assert gallery.counted_as == "text"


@pytest.mark.parametrize("line", ["nowhere.jpg 0 07.jpg#0 1", "06.jpg 0 nowhere.jpg#0 1", "12 0 12#0 1"])
def test_a_name_that_no_split_has(registry, judged, tmp_path, line):
    config, splits = judged
    (tmp_path / "judged.txt").write_text(f"{JUDGED}{line}\n")
    with pytest.raises(DataError, match=r"judged.txt, line 5: the split has no image or text called"):
        gallery_of(registry, config, splits, "validation", several=True)


def test_captions_and_ids_of_other_splits_are_known(registry, tmp_path):
    (tmp_path / "judged.json").write_text(
        '{"06.jpg": ["number 7 first", "number 2 first"], "1009": ["10000"], "7": [7001]}'
    )
    config = dataset_config(registry, str(coco(tmp_path / "it")), qrels=tmp_path / "judged.json")
    gallery = gallery_of(registry, config, load_splits(registry, config, QUIET), "validation", several=True)
    assert gallery.judged.pairs.tolist() == [[0, 2], [1, 3]]


def test_a_stream_beside_the_split_may_hold_any_name(registry, judged, tmp_path):
    config, splits = judged
    (tmp_path / "judged.txt").write_text(f"{JUDGED}nowhere.jpg 0 07.jpg#0 1\n")
    streamed = {**splits, "train": splits["train"].to_iterable_dataset()}
    gallery = gallery_of(registry, config, streamed, "test", several=True)
    assert isinstance(gallery, Gallery)
    assert gallery.judged.pairs.tolist() == [[0, 3]]
