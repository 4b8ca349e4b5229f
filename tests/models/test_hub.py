"""Models from a hub: the real client against a server on loopback, in processes of their own."""

from __future__ import annotations

import shutil

import pytest

OPEN = """
import sys
from icclip.config import ModelConfig
from icclip.errors import IcclipError
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
try:
    loaded = open_model(Registry(load_plugins=frozenset()), ModelConfig(name=sys.argv[1], revision=(sys.argv + [None])[2]))
except IcclipError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(loaded.source, sum(p.double().sum().item() for p in loaded.model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["siglip-tiny"], indirect=True)
def test_a_model_of_the_hub_is_the_one_on_the_disk_and_is_cached(hub, trained, tmp_path):
    repository = hub.repository("models", "somebody/siglip")
    shutil.copytree(trained.directory, repository, dirs_exist_ok=True)
    (repository / "pytorch_model.bin").write_bytes(b"never fetched")
    total = sum(p.double().sum().item() for p in trained.loaded.model.parameters())

    online = hub.run("-c", OPEN, "somebody/siglip", home=tmp_path)
    assert (online.stdout, online.stderr) == (f"somebody/siglip {total}\n", "")
    assert not [request for request in hub.requests if "pytorch_model.bin" in request]

    asked = len(hub.requests)
    offline = hub.run("-c", OPEN, "somebody/siglip", home=tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout == online.stdout
    assert len(hub.requests) == asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["somebody/absent"], "somebody/absent is neither a directory nor on the hub"),
        (["somebody/there", "v9"], "somebody/there has no revision 'v9' on the hub"),
    ],
)
def test_a_model_that_the_hub_does_not_have(hub, tmp_path, asked, expected):
    (hub.repository("models", "somebody/there") / "config.json").write_text("{}")
    result = hub.run("-c", OPEN, *asked, home=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"CheckpointError: {expected}")
    assert result.stderr.count("\n") == 1
