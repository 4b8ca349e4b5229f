"""A plugin that tests use in place of the default ones."""

from __future__ import annotations

from icclip import hookimpl
from icclip.plugins.specs import DatasetSpec


@hookimpl
def icclip_datasets():
    return [DatasetSpec(name="a-dataset", summary="for tests", load=dict, requires=())]
