"""SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025): sigmoid loss, text pooled at its last position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.models.features import pooled
from icclip.plugins.specs import BackendSpec, Preset, TextPolicy

if TYPE_CHECKING:
    from icclip.config import ModelConfig
    from icclip.models.loaded import LoadedModel


def text_policy(config: Any, tokenizer: Any) -> TextPolicy:
    """Padding to the full length, always: the models were trained on it, without a mask.

    Texts were lower-cased in training. SigLIP's own tokenizer does that; the Gemma tokenizer that
    SigLIP 2 borrowed does not, and mixed case then costs several points of recall.
    """
    return TextPolicy(
        padding="max_length",
        max_length=config.text_config.max_position_embeddings,
        lowercase=tokenizer.tokenize("A") != tokenizer.tokenize("a"),
    )


def load(config: ModelConfig) -> LoadedModel:
    """A checkpoint from a local directory or a hub id. Raises CheckpointError."""
    from icclip.models.opening import load_pretrained

    return load_pretrained(config, BACKEND)


def build_tiny(config: ModelConfig, captions: Sequence[str]) -> LoadedModel:
    """The preset's untrained model."""
    from icclip.models.presets import siglip_tiny

    return siglip_tiny(config, captions, BACKEND)


BACKEND = BackendSpec(
    name="siglip",
    summary="SigLIP and SigLIP 2: sigmoid loss",
    model_types=("siglip", "siglip2"),
    loss="sigmoid",
    load=load,
    text_policy=text_policy,
    unwrap=pooled,
    image_output="pooler_output",
    text_output="pooler_output",
    presets=(
        Preset(
            name="siglip-tiny",
            summary="a SigLIP of 2 M parameters for 64-pixel images, trained from scratch",
            build=build_tiny,
            defaults={"lr": 1e-3, "weight_decay": 0.1, "warmup_ratio": 0.1, "epochs": 10, "train_bs": 64},
        ),
    ),
)


@hookimpl
def icclip_model_backends() -> list[BackendSpec]:
    """SigLIP and SigLIP 2."""
    return [BACKEND]
