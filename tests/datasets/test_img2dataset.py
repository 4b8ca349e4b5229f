"""Shards written by img2dataset's own writer, where that package is installed."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pyarrow as pa
import pytest
from support.flickr import jpeg
from support.formats import ROWS

from icclip.config import DatasetConfig
from icclip.data.loading import dataset_config
from icclip.plugins.registry import Registry

FIELDS = ("url", "caption", "key", "status", "error_message", "width", "height", "original_width", "original_height",
          "exif", "sha256")  # fmt: skip
"""What img2dataset 1.47 notes beside each image."""


@pytest.fixture(scope="module")
def writers():
    """Its module of writers, without the packages that its downloader needs."""
    package = find_spec("img2dataset")
    if package is None or not package.submodule_search_locations:
        pytest.skip("img2dataset is not installed")
    pytest.importorskip("webdataset")
    spec = spec_from_file_location("img2dataset_writer", Path(package.submodule_search_locations[0]) / "writer.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("streaming", [False, True])
def test_its_shards_are_read_with_every_image_and_caption(writers, tmp_path, streaming):
    schema = pa.schema([(name, pa.int32() if name.endswith(("width", "height")) else pa.string()) for name in FIELDS])
    shards = [writers.WebDatasetSampleWriter(n, str(tmp_path), True, 5, schema, "jpg") for n in range(2)]
    for i, (_, captions, _) in enumerate(ROWS):
        about = {"url": f"http://example.org/{i}", "caption": captions[0], "key": f"{i:09}", "status": "success"}
        sizes = {"width": 12, "height": 8, "original_width": 12, "original_height": 8}
        about = {**dict.fromkeys(FIELDS), **about, **sizes, "exif": "{}"}
        # One image of each shard could not be downloaded: it has a row in its table alone.
        shards[i % 2].write(jpeg(i * 20) if i > 1 else None, about["key"], about["caption"], about)
    for shard in shards:
        shard.close()
    # Tables of the same images lie beside the shards.
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".parquet", ".parquet", ".tar", ".tar"]
    assert dataset_config(Registry(), str(tmp_path)).name == "webdataset"
    config = DatasetConfig(name="webdataset", path=str(tmp_path), streaming=streaming)
    rows = list(Registry().dataset("webdataset").load(config)["train"])
    assert sorted(row["captions"][0] for row in rows) == sorted(captions[0] for _, captions, _ in ROWS[2:])
