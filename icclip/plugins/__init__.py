"""What plugins are made of: the specs they return, the hooks they implement, and the mark on an implementation."""

from icclip.config import LossFamily
from icclip.plugins.hooks import hookimpl
from icclip.plugins.specs import (
    BackendSpec,
    DatasetSpec,
    Encoder,
    ExportTargetSpec,
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
