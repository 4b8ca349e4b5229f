"""The configuration of `icclip blend`, completed with the model that the run began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icclip.config import BlendConfig, overlaid
from icclip.errors import UsageError
from icclip.evaluating.request import eval_config
from icclip.plugins.registry import Registry
from icclip.runs.directory import RunDirectory


def blend_config(registry: Registry, said: Mapping[str, Any]) -> BlendConfig:
    """Build the complete configuration.

    Args:
        registry: knows presets and datasets.
        said: fields of BlendConfig, nested, as `icclip.evaluating.request.eval_config` takes them; `other` is
            the name of a model; without it, the model that the run began with is used.

    Raises:
        UsageError: the model that the run began with or the data is unknown, or an option is wrong.
    """
    encoder, other, alphas = said["encoder"], said.get("other"), said.get("alphas")
    model = step_zero(registry, str(encoder["checkpoint"])) if other is None else {"name": other}
    trust = {"trust_remote_code": encoder.get("trust_remote_code")}
    values = {**overlaid(said), "other": overlaid(model, trust), "data": None}
    if alphas is None or len(alphas) > 1 or said.get("data", {}).get("name") is not None:
        asked = {name: said[name] for name in ("encoder", "data", "eval_bs") if name in said}
        measured = eval_config(registry, asked)
        values |= {"encoder": measured.encoder, "data": measured.data, "eval_bs": measured.eval_bs}
    return BlendConfig.from_mapping(values)


def step_zero(registry: Registry, checkpoint: str) -> Mapping[str, Any]:
    """The model that a run began with, as its `icclip.json` names it: fields of ModelConfig.

    Raises:
        UsageError: the run does not record it, or began with random weights.
    """
    model = RunDirectory.open(checkpoint).config.get("model")
    if not isinstance(model, Mapping):
        raise UsageError(
            f"{checkpoint} does not record which model it was trained from: check the path, or give --with"
        )
    if registry.preset(model["name"]) is not None:
        raise UsageError(
            f"{checkpoint} was trained from scratch ({model['name']}), so there are no pretrained weights to blend it with: "
            "give another checkpoint with --with"
        )
    return model
