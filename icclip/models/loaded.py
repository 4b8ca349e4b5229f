"""A dual encoder in torch together with what it takes to feed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from icclip.models.pixels import Pixels
from icclip.models.tokens import Tokens, padded
from icclip.plugins.specs import BackendSpec, TextPolicy

if TYPE_CHECKING:
    import numpy as np
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
    pixels: Pixels | None = None
    """Where there is one, images become uint8 here and floats in the vision tower."""
    tokens: Tokens | None = None
    """Of texts that were tokenized before."""

    def ready_for(self, texts: Sequence[str]) -> Self:
        """The same for training on these texts: they are tokenized now, and pixels normalised where the model is.

        The model's inputs stay what they were, but for the type in which pixels arrive.
        """
        tokens = Tokens(texts, self._token_ids)
        pixels = Pixels.of(self.processor.image_processor) if hasattr(self.model, "vision_model") else None
        if pixels is not None:
            pixels.normalise_in(self.model.vision_model)
        return dataclasses.replace(self, pixels=pixels, tokens=tokens)

    @cached_property
    def text_policy(self) -> TextPolicy:
        """How this checkpoint wants its text."""
        return self.backend.text_policy(self.model.config, self.processor.tokenizer)

    def image_inputs(self, images: Sequence[Image | np.ndarray]) -> dict[str, Tensor]:
        """RGB images of any size -> the vision tower's inputs: `pixel_values` float32 [b, 3, h, w], ...

        Where there are `pixels`, these are uint8, and images may also be rows of a PixelCache.
        """
        if self.pixels is not None:
            return {"pixel_values": self.pixels.resized(images)}
        return dict(self.processor.image_processor(images=list(images), return_tensors="pt"))

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts -> the text tower's inputs: `input_ids` int64 [b, length], a mask where the policy has one."""
        policy, known = self.text_policy, self.tokens
        if known is not None and all(text in known for text in texts):
            return padded([known[text] for text in texts], self.processor.tokenizer, policy)
        tokens = self._tokenize(texts, padding=policy.padding, return_tensors="pt")
        wanted = ("input_ids", "attention_mask") if policy.attention_mask else ("input_ids",)
        return {name: tokens[name] for name in wanted}

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenize(texts, padding=False)["input_ids"]
        return ids

    def _tokenize(self, texts: Sequence[str], **options: Any) -> Any:
        policy = self.text_policy
        return self.processor.tokenizer(
            [text.lower() for text in texts] if policy.lowercase else list(texts),
            max_length=policy.max_length,
            truncation=True,
            return_attention_mask=policy.attention_mask,
            **options,
        )

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
