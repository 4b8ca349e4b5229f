"""SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025): sigmoid loss, text pooled at its last position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.models.features import pooled
from icclip.plugins.specs import BackendSpec, Preset, TextPolicy, TowerLayout, numbered_blocks

if TYPE_CHECKING:
    from icclip.config import ModelConfig
    from icclip.models.loaded import LoadedModel

TINY_BATCH = 64
"""The preset's default batch size, from which its bias starts."""
TINY_LENGTH = 32
"""The length that every text is padded to; 99 of 100 captions of Flickr8k are shorter."""
TINY_PREPROCESSING = {
    "image_processor_type": "SiglipImageProcessor",
    "processor_class": "SiglipProcessor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def text_policy(config: Any, tokenizer: Any) -> TextPolicy:
    """The text policy of SigLIP: always padded to the full length, without a mask, as in pretraining.

    Texts were lower-cased in training. SigLIP's own tokenizer does that; the Gemma tokenizer that
    SigLIP 2 borrowed does not, and mixed case then costs several points of recall.
    """
    return TextPolicy(
        padding="max_length",
        max_length=config.text_config.max_position_embeddings,
        lowercase=tokenizer.tokenize("A") != tokenizer.tokenize("a"),
    )


def load(config: ModelConfig) -> LoadedModel:
    """Load a checkpoint from a local directory or a hub id. Raises CheckpointError."""
    from icclip.models.opening import load_pretrained

    return load_pretrained(config, BACKEND)


def resize(model: Any, processor: Any, side: int) -> Any:
    """Make the model for images of another size. Raises UsageError if its patches do not fill them."""
    from icclip.models.resizing import resize_patches

    positions = "vision_model.embeddings.position_embedding.weight"
    return resize_patches(model, processor, side, config_name="vision_config", positions=positions)


def build_tiny(config: ModelConfig, captions: Sequence[str]) -> LoadedModel:
    """Build an untrained SigLIP; its weights depend on `config.seed`, its tokenizer on `captions`.

    Raises:
        UsageError: `config.image_resize` is not a multiple of the patch size.
        CheckpointError: the tokenizer that `config` names cannot be used.
    """
    from torch.nn import init
    from transformers import SiglipConfig, SiglipModel

    from icclip.models import presets
    from icclip.models.loaded import LoadedModel
    from icclip.models.quiet import quiet_transformers

    side = presets.preset_side(config)
    preprocessing = presets.PREPROCESSING | TINY_PREPROCESSING | {"size": {"height": side, "width": side}}
    processor = presets.preset_processor(config, captions, preprocessing, TINY_LENGTH)
    with quiet_transformers():
        model_config = SiglipConfig(
            text_config=presets.TEXT | presets.vocabulary_fields(processor.tokenizer, TINY_LENGTH),
            vision_config=presets.VISION | {"image_size": side, "patch_size": presets.PATCH},
        )
    model = presets.seeded(SiglipModel, model_config, config)
    # Section 3.2 of the SigLIP paper (Zhai et al. 2023): nearly all pairs are negatives, and the first
    # steps must not be spent on learning just that. transformers starts both at zero. The paper's bias
    # of -10 is the log-odds of a pair among its 32 Ki; a preset meets one in 64, and from -10 its
    # positives' gradients would be drowned for the first epochs.
    init.constant_(model.logit_scale, math.log(10))
    init.constant_(model.logit_bias, -math.log(TINY_BATCH - 1))
    return LoadedModel.of(model, processor, BACKEND, config.name)


BACKEND = BackendSpec(
    name="siglip",
    summary="SigLIP and SigLIP 2: sigmoid loss",
    model_types=("siglip", "siglip2"),
    loss="sigmoid",
    load=load,
    text_policy=text_policy,
    unwrap=pooled,
    vision=TowerLayout(
        module="vision_model",
        parameters=("vision_model.",),
        blocks=numbered_blocks(r"vision_model\.encoder\.layers\.\d+"),
        config="vision_config",
        graph_input="pixel_values",
        graph_output="pooler_output",
    ),
    text=TowerLayout(
        module="text_model",
        parameters=("text_model.",),
        blocks=numbered_blocks(r"text_model\.encoder\.layers\.\d+"),
        config="text_config",
        graph_input="input_ids",
        graph_output="pooler_output",
    ),
    resize=resize,
    presets=(
        Preset(
            name="siglip-tiny",
            summary="a SigLIP of 2 M parameters for 64-pixel images, trained from scratch",
            build=build_tiny,
            defaults={"lr": 1e-3, "weight_decay": 0.1, "warmup_ratio": 0.1, "epochs": 10, "train_bs": TINY_BATCH},
        ),
    ),
)


@hookimpl
def icclip_model_backends() -> list[BackendSpec]:
    """Return the backend of SigLIP and SigLIP 2."""
    return [BACKEND]
