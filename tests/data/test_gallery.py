from __future__ import annotations

import sys

import numpy as np
import pytest

from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.gallery import load_gallery
from icclip.errors import MissingExtraError, UnknownNameError
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
