"""What plugins are made of: the specs they return, the hooks they implement, and the mark on an implementation."""

from icclip.plugins.hooks import hookimpl
from icclip.plugins.specs import (
    BackendSpec,
    DatasetSpec,
    Encoder,
    ExportTargetSpec,
    LossFamily,
    MetricSpec,
    OpenRequest,
    Preset,
    Spec,
    TextPolicy,
    TowerLayout,
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
    "numbered_blocks",
]
