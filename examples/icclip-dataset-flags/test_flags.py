"""Run with `pytest` where icclip[train] and this plugin are installed."""

from __future__ import annotations

import icclip_dataset_flags

from icclip.testing import check_plugin


def test_conformance() -> None:
    """The dataset keeps what icclip expects of one."""
    checks = check_plugin(icclip_dataset_flags)
    assert [check for check in checks if check.status == "skipped"] == []


def test_captions_name_the_colours_in_order() -> None:
    """What makes a caption tell one flag from another."""
    first, second = icclip_dataset_flags.captions(False, ("red", "white", "blue"))
    assert first == "a flag with horizontal stripes in red, white and blue"
    assert second == "horizontal: red white blue"
