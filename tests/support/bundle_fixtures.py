"""Tiny bundles, built once."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def tinies():
    from support.bundles import tiny_clip, tiny_siglip

    return {"clip": tiny_clip(), "siglip": tiny_siglip()}


@pytest.fixture(scope="session")
def bundles(tinies, tmp_path_factory):
    """Family -> bundle. Never written to: `fresh` gives a copy."""
    from support.bundles import write_bundle

    root = tmp_path_factory.mktemp("bundles")
    for family, tiny in tinies.items():
        write_bundle(tiny, root / family)
    return {family: root / family for family in tinies}


@pytest.fixture(params=["clip", "siglip"])
def family(request):
    return request.param


@pytest.fixture
def tiny(tinies, family):
    return tinies[family]


@pytest.fixture
def bundle(bundles, family):
    return bundles[family]


@pytest.fixture
def fresh(bundles, tmp_path):
    """A copy of the CLIP bundle, elsewhere, to be broken."""
    return shutil.copytree(bundles["clip"], tmp_path / "moved")
