"""The real libraries against a hub on loopback; nothing is replaced."""

from __future__ import annotations

import json

import pytest
from support.flickr import write_flickr8k, write_flickr30k

LOAD = """
import json, sys
from icclip.console import Reporter
from icclip.data.loading import dataset_config, load_splits
from icclip.data.split import SplitImages, caption_map
from icclip.errors import DataError
from icclip.plugins.registry import Registry

registry = Registry(load_plugins=frozenset())
options = json.loads(sys.argv[2])
try:
    splits = load_splits(registry, dataset_config(registry, sys.argv[1], **options), Reporter(silent=True))
except DataError as error:
    sys.exit(str(error))
if options.get("streaming"):
    found = {name: [row["captions"][0] for row in split] for name, split in splits.items()}
else:
    found = {
        name: [caption_map(split).texts[0], len(SplitImages(split)), SplitImages(split)[0].size]
        for name, split in splits.items()
    }
print(json.dumps(found))
"""


@pytest.fixture
def load(hub, tmp_path):
    def run(value, home=tmp_path, variables=None, **options):
        return hub.run("-c", LOAD, value, json.dumps(options), home=home, **(variables or {}))

    return run


def found(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_flickr8k_from_the_hub(hub, load):
    write_flickr8k(hub.repository("datasets", "jxie/flickr8k"))
    assert found(load("flickr8k")) == {
        "train": ["train image 0 told 0", 6, [12, 8]],
        "validation": ["validation image 0 told 0", 2, [12, 8]],
        "test": ["test image 0 told 0", 3, [12, 8]],
    }
    assert any("/resolve/" in request for request in hub.requests)


def test_flickr30k_from_its_parquet_revision(hub, load):
    write_flickr30k(hub.repository("datasets", "nlphuji/flickr30k", "refs/convert/parquet"))
    assert found(load("flickr30k")) == {
        "train": ["photo 0 told 0", 4, [12, 8]],
        "validation": ["photo 1 told 0", 2, [12, 8]],
        "test": ["photo 3 told 0", 2, [12, 8]],
    }


def test_any_dataset_by_its_id(hub, load):
    write_flickr8k(hub.repository("datasets", "someone/pictures"))
    assert found(load("someone/pictures"))["test"] == ["test image 0 told 0", 3, [12, 8]]


def test_streaming_from_the_hub(hub, load):
    write_flickr30k(hub.repository("datasets", "nlphuji/flickr30k", "refs/convert/parquet"))
    assert found(load("flickr30k", streaming=True)) == {
        "train": [f"photo {row} told 0" for row in (0, 2, 4, 7)],
        "validation": ["photo 1 told 0", "photo 5 told 0"],
        "test": ["photo 3 told 0", "photo 6 told 0"],
    }


def test_what_was_loaded_once_is_there_without_the_network(hub, load):
    write_flickr8k(hub.repository("datasets", "jxie/flickr8k"))
    online = found(load("flickr8k"))
    assert found(load("flickr8k", variables={"HF_HUB_OFFLINE": "1"})) == online


@pytest.mark.parametrize(
    ("name", "way_out"), [("flickr8k", "flickr8k@PATH"), ("flickr30k", "flickr30k@PATH"), ("a/b", "hub@PATH")]
)
def test_no_network_and_no_cache_names_the_way_out(load, name, way_out):
    result = load(name, variables={"HF_HUB_OFFLINE": "1"})
    assert result.stderr.splitlines()[-1].endswith(
        f"the hub cannot be reached and it is not in the cache; give a local copy as {way_out}"
    )


def test_a_dataset_that_the_hub_does_not_have(load):
    result = load("someone/nothing")
    assert "dataset someone/nothing: " in result.stderr
    assert "check the id and the revision, or give a local copy as hub@PATH" in result.stderr


def test_a_revision_that_the_dataset_does_not_have(hub, load):
    write_flickr8k(hub.repository("datasets", "jxie/flickr8k"))
    assert "check the id and the revision" in load("flickr8k", revision="nowhere").stderr
