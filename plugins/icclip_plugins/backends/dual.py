"""Two towers that were pretrained apart (a transformers VisionTextDualEncoderModel), as `icclip assemble` makes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.errors import CheckpointError
from icclip.models.features import pooled
from icclip.plugins.specs import BackendSpec, TextPolicy, TowerLayout, largest_list

if TYPE_CHECKING:
    from icclip.config import ModelConfig
    from icclip.models.loaded import LoadedModel


def text_policy(config: Any, tokenizer: Any) -> TextPolicy:
    """The text policy: padding to the longest text, with an attention mask, and token types if the tokenizer makes them.

    Sentence encoders look at every position, so padding that is not masked changes the embedding.
    """
    positions = getattr(config.text_config, "max_position_embeddings", None) or tokenizer.model_max_length
    return TextPolicy(
        padding="longest",
        max_length=int(min(tokenizer.model_max_length, positions)),
        attention_mask=True,
        token_types="token_type_ids" in tokenizer.model_input_names,
    )


def load(config: ModelConfig) -> LoadedModel:
    """Load a checkpoint from a local directory or a hub id. Raises CheckpointError."""
    from icclip.models.opening import load_pretrained

    loaded = load_pretrained(config, BACKEND)
    for layout in (BACKEND.vision, BACKEND.text):
        loaded.model.get_submodule(layout.module).register_forward_pre_hook(_without_unknown, with_kwargs=True)
    check_longest_text(loaded)
    return loaded


def _without_unknown(tower: Any, args: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Drop arguments that a tower does not know; the joint model asks every tower for attentions."""
    known = inspect.signature(tower.forward).parameters
    whatever = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    return args, {name: value for name, value in options.items() if whatever or name in known or value is not None}


def check_longest_text(loaded: LoadedModel) -> None:
    """Check that the text tower can take texts as long as the tokenizer allows.

    RoBERTa and its relatives take fewer tokens than they have positions.

    Raises:
        CheckpointError: it cannot.
    """
    import torch

    length = loaded.feeder.text_policy.max_length
    try:
        with torch.inference_mode():
            loaded.text_features(loaded.feeder.text_inputs(["a " * length]))
    except (IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{loaded.source}: the tokenizer cuts texts at {length} tokens, and the text tower takes fewer: "
            "set a smaller model_max_length in tokenizer_config.json"
        ) from error


BACKEND = BackendSpec(
    name="dual",
    summary="two pretrained towers: softmax contrastive loss",
    model_types=("vision-text-dual-encoder",),
    loss="softmax",
    load=load,
    text_policy=text_policy,
    unwrap=pooled,
    vision=TowerLayout(
        module="vision_model",
        parameters=("vision_model.", "visual_projection."),
        projection=("visual_projection.",),
        # The projection starts out random, so a frozen tower is only useful if its projection trains.
        freezes_projection=False,
        blocks=largest_list("vision_model"),
        config="vision_config",
        graph_input="pixel_values",
        graph_output="image_embeds",
    ),
    text=TowerLayout(
        module="text_model",
        parameters=("text_model.", "text_projection."),
        projection=("text_projection.",),
        freezes_projection=False,
        blocks=largest_list("text_model"),
        config="text_config",
        graph_input="input_ids",
        graph_output="text_embeds",
    ),
)


@hookimpl
def icclip_model_backends() -> list[BackendSpec]:
    """Return the backend of two pretrained towers."""
    return [BACKEND]
