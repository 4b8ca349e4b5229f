from __future__ import annotations

import numpy as np
import pytest

from icclip.retrieval.bootstrap import Hits
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance
from icclip.runs.baseline import BASELINE, read_baseline, write_baseline


@pytest.fixture
def hits():
    captions = CaptionMap.from_lists([["a dog", f"own {row}"] for row in range(20)])
    rows = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    return Hits.of(rank(rows[:20], rows[20:], Relevance.of(captions, "text")))


def test_what_was_kept_is_read_again(hits, tmp_path):
    write_baseline(tmp_path, hits)
    again = read_baseline(tmp_path)
    assert again.same_split(hits)
    assert hits.shared.n_kinds == again.shared.n_kinds == 1
    assert np.array_equal(again.total(), hits.total())


@pytest.mark.parametrize("content", [None, b"", b"PK", b"nothing of the kind"])
def test_nothing_is_known_where_nothing_can_be_read(hits, tmp_path, content):
    write_baseline(tmp_path, hits)
    path = tmp_path / BASELINE
    path.unlink() if content is None else path.write_bytes(content)
    assert read_baseline(tmp_path) is None


def test_a_file_of_something_else_is_not_it(tmp_path):
    np.savez(tmp_path / BASELINE, own=np.array([object()]), owner=0)
    assert read_baseline(tmp_path) is None
