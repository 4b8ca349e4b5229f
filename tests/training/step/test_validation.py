from __future__ import annotations

import numpy as np
import pytest

from icclip.config import DatasetConfig
from icclip.data.gallery import Gallery, relevance_protocol
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.relevance import Relevance
from icclip.training.step.guards import has_given_up
from icclip.training.step.validation import Validation

ONE_HOT = np.eye(10, dtype=np.float32)[np.arange(200) % 10]
CAPTIONS = CaptionMap.from_lists([[f"class {image % 10}"] for image in range(200)])


def measured(protocol, embeddings=ONE_HOT):
    validation = Validation([], Relevance.of(CAPTIONS, protocol), (), None, "cpu")
    return validation._measure([(embeddings, embeddings)])


def test_what_chooses_the_checkpoint_follows_the_relevance():
    assert measured("text")["rsum"] == 600
    assert measured("pair")["rsum"] == 0


def test_a_run_that_learns_class_names_is_not_stopped_and_one_that_collapses_is():
    noise = np.random.default_rng(0).standard_normal((200, 10)).astype(np.float32)
    start, better, collapsed = (measured("text", rows) for rows in (ONE_HOT + 3 * noise, ONE_HOT, ONE_HOT * 0 + 1))
    assert not has_given_up({0: start, 1: better}, patience=1)
    assert has_given_up({0: start, 1: collapsed}, patience=1)


@pytest.mark.parametrize(
    ("dataset", "asked", "protocol"),
    [("flickr8k", None, "pair"), ("flickr30k", None, "pair"), ("shapes", None, "text"),
     ("flickr8k", "text", "text"), ("shapes", "pair", "pair")],
)  # fmt: skip
def test_the_dataset_says_what_is_right_unless_the_user_does(dataset, asked, protocol):
    config = DatasetConfig(name=dataset, relevance=asked)
    assert relevance_protocol(Registry(load_plugins=frozenset()), config) == protocol
    gallery = Gallery([], CAPTIONS, "", protocol)
    assert gallery.relevance("pair").is_pairs
