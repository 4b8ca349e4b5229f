"""Run with `pytest` where icclip and this plugin are installed."""

from __future__ import annotations

import icclip_index_jsonl

from icclip.testing import check_plugin


def test_conformance() -> None:
    """The target keeps what icclip expects of one."""
    checks = check_plugin(icclip_index_jsonl)
    assert [check for check in checks if check.status == "skipped"] == []
