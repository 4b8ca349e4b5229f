"""What a zero-shot measurement is asked for, and which model it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icclip.config import EncoderConfig, EvalConfig, ModelConfig, overlaid
from icclip.console import Reporter
from icclip.encoders import open_encoder, open_in_torch
from icclip.errors import UsageError
from icclip.evaluating.request import eval_config, local_path, step_zero
from icclip.plugins.registry import Registry
from icclip.runs.directory import RunDirectory

if TYPE_CHECKING:
    from icclip.plugins.specs import Encoder

BASE = "base"
"""What stands for the model that a run began with."""
OF_CAPTIONS = {
    "template": "give prompts with --templates FILE",
    "relevance": "each image has one class",
    "qrels": "each image has one class",
}
"""Options of a dataset that say nothing about classes, and why."""


def zero_shot_config(registry: Registry, said: Mapping[str, Any]) -> EvalConfig:
    """Build the complete configuration.

    Args:
        registry: knows the datasets.
        said: fields of EvalConfig, nested, as `icclip.evaluating.request.eval_config` takes them.

    Raises:
        UsageError: no dataset is named or recorded, or an option is wrong.
    """
    for name, why in OF_CAPTIONS.items():
        if said.get("data", {}).get(name) is not None:
            raise UsageError(f"--{name} is about captions: leave it out with --zero-shot ({why})")
    return eval_config(registry, said)


@dataclass(frozen=True, slots=True)
class Opponent:
    """The model that another one is compared with."""

    name: str
    base: bool
    """Whether it is what the other model was trained from, so that a loss is called forgetting."""
    open: Callable[[Reporter], Encoder]


def opponent(registry: Registry, config: EvalConfig, run: RunDirectory) -> Opponent | None:
    """The model of `--against`; None if there is none.

    Raises:
        UsageError: the run does not say what it began with.
    """
    if config.against is None:
        return None
    if config.against != BASE:
        began = run.config.get("model")
        known = isinstance(began, Mapping) and began.get("name") == config.against
        return Opponent(config.against, known, lambda reporter: _named(registry, config, reporter))
    trust = {"trust_remote_code": config.encoder.trust_remote_code or None}
    model = ModelConfig.from_mapping(overlaid(step_zero(registry, config.checkpoint, "--against"), trust))
    return Opponent(model.name, True, lambda reporter: open_in_torch(registry, model, config.encoder, reporter))


def _named(registry: Registry, config: EvalConfig, reporter: Reporter) -> Encoder:
    """The model that was named; where both are bundles, or both are not, it runs with the same options."""
    assert config.against is not None
    encoder = config.encoder
    exported = [
        registry.target_of(local_path(name), reporter.warn) is not None for name in (config.checkpoint, config.against)
    ]
    if exported[0] == exported[1]:
        return open_encoder(registry, dataclasses.replace(encoder, checkpoint=config.against, revision=None), reporter)
    plain = EncoderConfig(
        checkpoint=config.against, workers=encoder.workers, trust_remote_code=encoder.trust_remote_code
    )
    return open_encoder(registry, plain, reporter)
