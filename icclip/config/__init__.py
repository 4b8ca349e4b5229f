"""Configurations: frozen dataclasses that are checked as a whole and converted from and to TOML and JSON.

    TrainConfig
    ├── model: ModelConfig
    ├── data: DatasetConfig
    ├── gentle: GentleConfig
    └── lora: LoraConfig
    AssembleConfig, QuickstartConfig
    EvalConfig, ExportConfig, BlendConfig, EmbedConfig, VerifyConfig
    ├── encoder: EncoderConfig
    └── data: DatasetConfig
    PushConfig
    CompareConfig, InspectConfig, ReportConfig
    └── data: DatasetConfig

`icclip.config.declare` explains how a field becomes an option.
"""

from icclip.config.assembling import AssembleConfig
from icclip.config.base import Config, overlaid, read_toml
from icclip.config.blending import BlendConfig
from icclip.config.comparing import CompareConfig
from icclip.config.data import MAX_VAL_FRACTION, DatasetConfig, OnBadImage, RelevanceProtocol
from icclip.config.embedding import EmbedConfig
from icclip.config.encoder import EncoderConfig, Precision, Provider
from icclip.config.evaluating import EvalConfig
from icclip.config.exporting import ExportConfig
from icclip.config.gentle import GentleConfig, LoraConfig, Tower
from icclip.config.indexing import AddConfig, IndexConfig, InfoConfig, ItemsConfig, RemoveConfig
from icclip.config.inspecting import InspectConfig
from icclip.config.model import ModelConfig
from icclip.config.presenting import PlotConfig, ReportConfig
from icclip.config.publishing import PushConfig
from icclip.config.quickstart import QuickstartConfig
from icclip.config.searching import SearchConfig
from icclip.config.serving import ServeConfig
from icclip.config.training import (
    MAX_DISTANCE,
    Augmentation,
    CacheMode,
    CaptionPolicy,
    DuplicatePolicy,
    LossFamily,
    TrainConfig,
)
from icclip.config.verifying import VerifyConfig

__all__ = [
    "MAX_DISTANCE",
    "MAX_VAL_FRACTION",
    "AddConfig",
    "AssembleConfig",
    "Augmentation",
    "BlendConfig",
    "CacheMode",
    "CaptionPolicy",
    "CompareConfig",
    "Config",
    "DatasetConfig",
    "DuplicatePolicy",
    "EmbedConfig",
    "EncoderConfig",
    "EvalConfig",
    "ExportConfig",
    "GentleConfig",
    "IndexConfig",
    "InfoConfig",
    "InspectConfig",
    "ItemsConfig",
    "LoraConfig",
    "LossFamily",
    "ModelConfig",
    "OnBadImage",
    "PlotConfig",
    "Precision",
    "Provider",
    "PushConfig",
    "QuickstartConfig",
    "RelevanceProtocol",
    "RemoveConfig",
    "ReportConfig",
    "SearchConfig",
    "ServeConfig",
    "Tower",
    "TrainConfig",
    "VerifyConfig",
    "overlaid",
    "read_toml",
]
