"""The configuration of `icclip blend`, completed with the model that the run began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icclip.config import BlendConfig, overlaid
from icclip.evaluating.request import eval_config, evaluation_data, step_zero
from icclip.plugins.registry import Registry


def blend_config(registry: Registry, said: Mapping[str, Any]) -> BlendConfig:
    """Build the complete configuration.

    Args:
        registry: knows presets and datasets.
        said: fields of BlendConfig, nested, as `icclip.evaluating.request.eval_config` takes them; `other` is
            the name of a model; without it, the model that the run began with is used. `zero_shot` is what the user
            wrote after `--zero-shot-dataset`.

    Raises:
        UsageError: the model that the run began with or the data is unknown, or an option is wrong.
    """
    encoder, other, alphas = said["encoder"], said.get("other"), said.get("alphas")
    model = step_zero(registry, str(encoder["checkpoint"]), "--with") if other is None else {"name": other}
    trust = {"trust_remote_code": encoder.get("trust_remote_code")}
    values = {**overlaid(said), "other": overlaid(model, trust), "data": None}
    if alphas is None or len(alphas) > 1 or said.get("data", {}).get("name") is not None:
        asked = {name: said[name] for name in ("encoder", "data", "eval_bs") if name in said}
        measured = eval_config(registry, asked)
        values |= {"encoder": measured.encoder, "data": measured.data, "eval_bs": measured.eval_bs}
    if (classes := said.get("zero_shot")) is not None:
        values["zero_shot"] = evaluation_data(registry, str(encoder["checkpoint"]), {"name": classes})
    return BlendConfig.from_mapping(values)
