"""CLIP (Radford et al. 2021): softmax contrastive loss, text pooled at its end-of-text token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.errors import CheckpointError
from icclip.models.features import pooled
from icclip.plugins.specs import BackendSpec, Preset, TextPolicy, TowerLayout, numbered_blocks

if TYPE_CHECKING:
    from icclip.config import ModelConfig
    from icclip.models.loaded import LoadedModel

TINY_LENGTH = 48
TINY_PREPROCESSING = {
    "image_processor_type": "CLIPImageProcessor",
    "processor_class": "CLIPProcessor",
    "do_center_crop": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

LEGACY_EOS = 2
"""Configs from before transformers 4.31 have this wrong id; the text is then pooled at its largest id."""


def text_policy(config: Any, _tokenizer: Any) -> TextPolicy:
    """The text policy of CLIP: padding may stop at the longest caption, and no mask is needed.

    Attention is causal and the pooled position is the first end-of-text token, so tokens after it
    have no effect.
    """
    return TextPolicy(padding="longest", max_length=config.text_config.max_position_embeddings)


def load(config: ModelConfig) -> LoadedModel:
    """Load a checkpoint from a local directory or a hub id. Raises CheckpointError."""
    from icclip.models.opening import load_pretrained

    loaded = load_pretrained(config, BACKEND)
    check_end_of_text(loaded)
    return loaded


def check_end_of_text(loaded: LoadedModel) -> None:
    """Check that texts have their end-of-text token where the model pools.

    Raises:
        CheckpointError: the tokenizer adds no such token, or another one than the model expects.
    """
    ids = loaded.feeder.text_inputs(["a"])["input_ids"][0].tolist()
    expected = loaded.model.config.text_config.eos_token_id
    end = loaded.feeder.processor.tokenizer.eos_token_id
    found = max(ids) == end if expected == LEGACY_EOS else end == expected
    if end not in ids or not found:
        raise CheckpointError(
            f"{loaded.source}: the model pools texts at the token {_name(expected)} and the tokenizer ends them with "
            f"{end if end in ids else 'none'}: they do not belong together"
        )


def _name(expected: int) -> str:
    return "with the largest id" if expected == LEGACY_EOS else str(expected)


def resize(model: Any, processor: Any, side: int) -> Any:
    """Make the model for images of another size. Raises UsageError if its patches do not fill them."""
    from icclip.models.resizing import resize_patches

    positions = "vision_model.embeddings.position_embedding.weight"
    return resize_patches(model, processor, side, config_name="vision_config", positions=positions)


def build_tiny(config: ModelConfig, captions: Sequence[str]) -> LoadedModel:
    """Build an untrained CLIP; its weights depend on `config.seed`, its tokenizer on `captions`.

    Raises:
        UsageError: `config.image_resize` is not a multiple of the patch size.
        CheckpointError: the tokenizer that `config` names cannot be used.
    """
    from transformers import CLIPConfig, CLIPModel

    from icclip.models import presets
    from icclip.models.loaded import LoadedModel
    from icclip.models.quiet import quiet_transformers

    side = presets.preset_side(config)
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    preprocessing = presets.PREPROCESSING | TINY_PREPROCESSING | size
    processor = presets.preset_processor(config, captions, preprocessing, TINY_LENGTH)
    with quiet_transformers():
        model_config = CLIPConfig(
            text_config=presets.TEXT | presets.vocabulary_fields(processor.tokenizer, TINY_LENGTH),
            vision_config=presets.VISION | {"image_size": side, "patch_size": presets.PATCH},
            projection_dim=presets.VISION["hidden_size"],
        )
    loaded = LoadedModel.of(presets.seeded(CLIPModel, model_config, config), processor, BACKEND, config.name)
    check_end_of_text(loaded)
    return loaded


BACKEND = BackendSpec(
    name="clip",
    summary="CLIP: softmax contrastive loss",
    model_types=("clip",),
    loss="softmax",
    load=load,
    text_policy=text_policy,
    unwrap=pooled,
    vision=TowerLayout(
        module="vision_model",
        parameters=("vision_model.", "visual_projection."),
        projection=("visual_projection.",),
        blocks=numbered_blocks(r"vision_model\.encoder\.layers\.\d+"),
        config="vision_config",
        graph_input="pixel_values",
        graph_output="image_embeds",
    ),
    text=TowerLayout(
        module="text_model",
        parameters=("text_model.", "text_projection."),
        projection=("text_projection.",),
        blocks=numbered_blocks(r"text_model\.encoder\.layers\.\d+"),
        config="text_config",
        graph_input="input_ids",
        graph_output="text_embeds",
    ),
    resize=resize,
    presets=(
        Preset(
            name="clip-tiny",
            summary="a CLIP of 2 M parameters for 64-pixel images, trained from scratch",
            build=build_tiny,
            defaults={"lr": 1.5e-3, "weight_decay": 0.1, "warmup_ratio": 0.1, "epochs": 10, "train_bs": 64},
        ),
    ),
)


@hookimpl
def icclip_model_backends() -> list[BackendSpec]:
    """Return the backend of CLIP."""
    return [BACKEND]
