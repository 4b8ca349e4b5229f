"""Where bundles go, and what is never written over."""

from __future__ import annotations

import json

import pytest

from icclip.errors import UsageError
from icclip_export.destination import check_destination, check_space, failed_name, needed_bytes


def bundle(path):
    path.mkdir()
    (path / "icclip.json").write_text(json.dumps({"kind": "bundle", "format": 1}))
    return path


def test_a_new_or_an_empty_directory_will_do(tmp_path):
    check_destination(tmp_path / "new", overwrite=False)
    check_destination(tmp_path, overwrite=False)


def test_a_bundle_is_replaced_only_when_asked(tmp_path):
    there = bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="holds a bundle: choose another --output-dir, or give --overwrite"):
        check_destination(there, overwrite=False)
    check_destination(there, overwrite=True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config": {}}'])
def test_nothing_but_a_bundle_is_ever_replaced(tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "icclip.json").write_text(content)
    with pytest.raises(UsageError, match="already exists and is not a bundle"):
        check_destination(tmp_path / "run", overwrite=True)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="already exists and is not a bundle"):
        check_destination(tmp_path / "file", overwrite=True)


def test_space_is_asked_for_before_any_work(tmp_path):
    needed = needed_bytes(1_000_000, ("fp32", "int8"))
    assert needed == 1.5 * 5_000_000
    assert needed_bytes(1_000_000, ("int8",)) == needed
    check_space(tmp_path / "not" / "yet" / "there", needed, free=needed)
    with pytest.raises(UsageError, match=r"needs about 8 MB and its disk has 7 MB free"):
        check_space(tmp_path, needed, free=7_400_000)
    check_space(tmp_path / "real", 1)


def test_a_failed_bundle_lies_beside_where_it_would_have_been(tmp_path):
    assert failed_name(tmp_path / "b") == tmp_path / "b.failed"
