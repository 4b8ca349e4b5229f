from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import pytest
from support.bundle_fixtures import bundles, tinies
from support.images import photo

__all__ = ["bundles", "tinies"]


def encoded(image, kind="PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def place(bundles, tmp_path_factory):
    """A bundle, twelve images, and an index of them. Never written to."""
    pytest.importorskip("faiss")
    from icclip.config.indexing import IndexConfig
    from icclip.console import Reporter
    from icclip.plugins.registry import Registry
    from icclip.searching.build import build_index

    root = tmp_path_factory.mktemp("service")
    (root / "images").mkdir()
    for i in range(12):
        photo(40 + 10 * i, 60, seed=i).save(root / f"images/{i}.png")
    config = IndexConfig.from_mapping(
        {
            "encoder": {"checkpoint": str(bundles["clip"])},
            "items": {"images": [str(root / "images")]},
            "output": str(root / "index"),
        }
    )
    build_index(config, Registry(load_plugins=frozenset()), Reporter(silent=True))
    return SimpleNamespace(bundle=bundles["clip"], images=root / "images", index=root / "index", root=root)


@pytest.fixture(scope="module")
def image():
    return encoded(photo(50, 60, seed=3))


@pytest.fixture(scope="module")
def serving(place):
    """Make a client of a service with these limits; it is closed after the module."""
    pytest.importorskip("fastapi")
    from contextlib import ExitStack

    from starlette.testclient import TestClient

    from icclip.config.serving import ServeConfig
    from icclip.console import Reporter
    from icclip.serving.app import application
    from icclip.serving.run import open_service

    with ExitStack() as stack:

        def make(*, key=None, index=True, **values):
            given = {
                "encoder": {"checkpoint": str(place.bundle)},
                "index": str(place.index) if index else None,
                **values,
            }
            service = open_service(ServeConfig.from_mapping(given), Reporter(silent=True))
            client = stack.enter_context(TestClient(application(service, key), raise_server_exceptions=False))
            client.service = service
            return client

        yield make


@pytest.fixture(scope="module")
def client(serving):
    return serving()
