"""A dual encoder in torch together with what it takes to feed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.specs import BackendSpec, TextPolicy

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class LoadedModel:
    """A model, its processor and the backend that knows their family.

    The one place where images and texts become model inputs and model outputs become features:
    training, evaluation and export all go through here, so they cannot disagree.
    """

    model: Any
    """A transformers PreTrainedModel with `get_image_features` and `get_text_features`."""
    processor: Any
    """A transformers ProcessorMixin with `image_processor` and `tokenizer`."""
    backend: BackendSpec
    source: str
    """Where it came from, for headers and records."""

    @cached_property
    def text_policy(self) -> TextPolicy:
        """How this checkpoint wants its text."""
        return self.backend.text_policy(self.model.config, self.processor.tokenizer)

    def image_inputs(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """RGB images of any size -> the vision tower's inputs: `pixel_values` float32 [b, 3, h, w], ..."""
        return dict(self.processor.image_processor(images=list(images), return_tensors="pt"))

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts -> the text tower's inputs: `input_ids` int64 [b, length], a mask where the policy has one."""
        policy = self.text_policy
        tokens = self.processor.tokenizer(
            [text.lower() for text in texts] if policy.lowercase else list(texts),
            padding=policy.padding,
            max_length=policy.max_length,
            truncation=True,
            return_attention_mask=policy.attention_mask,
            return_tensors="pt",
        )
        wanted = ("input_ids", "attention_mask") if policy.attention_mask else ("input_ids",)
        return {name: tokens[name] for name in wanted}

    def image_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Projected embeddings [b, dim], not normalised."""
        features: Tensor = self.backend.unwrap(self.model.get_image_features(**inputs))
        return features

    def text_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Projected embeddings [b, dim], not normalised."""
        features: Tensor = self.backend.unwrap(self.model.get_text_features(**inputs))
        return features

    def save(self, directory: Path) -> None:
        """Write weights (safetensors), config and the whole processor, as transformers lays them out."""
        from icclip.models.quiet import quiet_transformers

        with quiet_transformers():
            self.model.save_pretrained(directory)
        self.save_processor(directory)

    def save_processor(self, directory: Path) -> None:
        """Write the image processor and the tokenizer."""
        from icclip.models.quiet import quiet_transformers

        with quiet_transformers():
            self.processor.save_pretrained(directory)
            # transformers 5 puts this into processor_config.json, where nothing but transformers looks.
            self.processor.image_processor.save_pretrained(directory)

    def describe(self) -> dict[str, Any]:
        """What to record about it beside a result."""
        return {
            "source": self.source,
            "backend": self.backend.name,
            "model_type": self.model.config.model_type,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "image_processor": type(self.processor.image_processor).__name__,
            "tokenizer": type(self.processor.tokenizer).__name__,
        }
