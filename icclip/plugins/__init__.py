"""Everything that plugin authors import: the specs that plugins return, and the decorator that marks a hook."""

from icclip.config import LossFamily
from icclip.plugins.hooks import hookimpl
from icclip.plugins.specs import (
    BackendSpec,
    DatasetSpec,
    Encoder,
    ExportTargetSpec,
    IndexTargetSpec,
    IndexWrite,
    MetricSpec,
    OpenRequest,
    Preset,
    Spec,
    TextPolicy,
    TowerLayout,
    largest_list,
    numbered_blocks,
)

__all__ = [
    "BackendSpec",
    "DatasetSpec",
    "Encoder",
    "ExportTargetSpec",
    "IndexTargetSpec",
    "IndexWrite",
    "LossFamily",
    "MetricSpec",
    "OpenRequest",
    "Preset",
    "Spec",
    "TextPolicy",
    "TowerLayout",
    "hookimpl",
    "largest_list",
    "numbered_blocks",
]
