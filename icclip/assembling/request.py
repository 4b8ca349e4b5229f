"""The configuration of `icclip assemble`, built from the options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icclip.config import AssembleConfig, overlaid
from icclip.errors import UsageError


def assemble_config(options: Mapping[str, Any]) -> AssembleConfig:
    """Build the complete configuration.

    Args:
        options: fields of AssembleConfig; None means that the user did not give it.

    Raises:
        UsageError: an option is wrong, or something is already in the output directory.
    """
    config = AssembleConfig.from_mapping(overlaid(options))
    directory = config.output_dir
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} already exists: choose another --output-dir")
    return config
