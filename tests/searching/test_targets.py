"""Vector databases: LanceDB for real, and a third party's plugin."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from icclip.errors import UsageError
from icclip.plugins import IndexTargetSpec
from icclip.plugins.registry import Registry
from icclip.runtime import Encoder
from icclip.testing import ConformanceError, check_index_target, check_plugin

pytest.importorskip("faiss")
EXAMPLE = Path(__file__).parents[2] / "examples/icclip-index-jsonl/icclip_index_jsonl.py"


def test_lancedb(clip, pictures, icclip, tmp_path):
    pytest.importorskip("lancedb")
    place = f"{tmp_path}/db?table=photos"
    outcome = icclip("index", clip, "--images", pictures, "--to", f"lancedb://{place}", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["items"] == 6
    target, encoder = Registry().index_target("lancedb"), Encoder.open(clip)
    vector = encoder.encode_images(pictures / "3.png")[0]
    (path, cosine), *_ = target.search(place, vector, 2, encoder.fingerprint)
    assert path == str(pictures / "3.png")
    assert cosine == pytest.approx(1, abs=1e-5)
    for address, fingerprint, message in (
        (place, "f" * 64, "was made by another encoder"),
        (f"{tmp_path}/db?table=none", encoder.fingerprint, "has no table 'none'"),
        (f"{tmp_path}/db?x=1", encoder.fingerprint, "write it as lancedb://DIRECTORY?table=NAME"),
    ):
        with pytest.raises(UsageError, match=message.replace("?", r"\?")):
            target.search(address, vector, 2, fingerprint)


def test_a_place_that_cannot_be_written_is_one_line(clip, pictures, icclip, tmp_path):
    pytest.importorskip("lancedb")
    (tmp_path / "file").write_text("")
    outcome = icclip("index", clip, "--images", pictures, "--to", f"lancedb://{tmp_path}/file/db")
    assert outcome.code == 2
    assert "cannot write to" in outcome.err


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("lancedb", "write it as NAME://ADDRESS"),
        ("pinecone://x", "unknown index target 'pinecone'"),
    ],
)
def test_targets_that_do_not_exist_are_one_line(clip, pictures, icclip, to, message):
    outcome = icclip("index", clip, "--images", pictures, "--to", to)
    assert outcome.code == 2
    assert message in outcome.err


def test_a_target_takes_no_kind(clip, pictures, icclip):
    outcome = icclip("index", clip, "--images", pictures, "--to", "lancedb://x", "--kind", "flat")
    assert outcome.code == 2
    assert "--to takes no --kind, --max-bytes or --min-recall: the database decides" in outcome.err


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    spec = importlib.util.spec_from_file_location("icclip_index_jsonl", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_conforms(example):
    assert {check.status for check in check_plugin("icclip_index_jsonl")} == {"ok"}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"write": lambda _: 3}, "write returned 3 for 50 items"),
        ({"search": lambda *_: []}, r"image 0 finds \[\] first"),
    ],
)
def test_the_kit_sees_what_is_wrong(example, broken, message, tmp_path):
    values = {"name": "jsonl", "summary": "lines", "write": example.write, "search": example.search, **broken}
    with pytest.raises(ConformanceError, match=message):
        check_index_target(IndexTargetSpec(**values), tmp_path / "x")


def test_the_kit_wants_another_encoder_refused(example, tmp_path):
    def careless(address, vector, k, _fingerprint):
        return example.search(address, vector, k, "a" * 64)

    spec = IndexTargetSpec(name="jsonl", summary="lines", write=example.write, search=careless)
    with pytest.raises(ConformanceError, match="does not raise UsageError"):
        check_index_target(spec, tmp_path / "x")
