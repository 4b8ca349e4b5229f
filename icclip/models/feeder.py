"""Turn images and texts into the inputs of a model, without the model itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from icclip.data.lengths import CutCaptions
from icclip.models.pixels import Pixels, axes
from icclip.models.quiet import quiet_transformers
from icclip.models.tokens import Tokens, padded, without_padding
from icclip.models.trunk import CaptionFeatures, is_features
from icclip.plugins.specs import TextPolicy

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Feeder:
    """The one place where images and texts become model inputs, for training, evaluation and export alike.

    It holds no weights, so it is what worker processes and collators are given.
    """

    processor: Any
    """A transformers ProcessorMixin with `image_processor` and `tokenizer`."""
    text_policy: TextPolicy
    """How the checkpoint expects its text: padding, length, case, attention mask."""
    pixels: Pixels | None = None
    """If set, image inputs are uint8 and the vision tower normalises them itself (`Pixels.normalise_in`)."""
    tokens: Tokens | None = None
    """Token ids of texts that were tokenized in advance."""
    caption_features: CaptionFeatures | None = None
    """What a frozen text tower makes of texts that it encoded in advance."""

    def with_tokens(self, texts: Sequence[str]) -> Self:
        """A copy that tokenizes these texts now and looks them up later. The inputs stay the same."""
        return dataclasses.replace(self, tokens=Tokens(texts, self._token_ids))

    def image_inputs(self, images: Sequence[Image | np.ndarray]) -> dict[str, Tensor]:
        """Turn RGB images of any size into the vision tower's inputs: `pixel_values` float32 [b, 3, h, w], ...

        With `pixels`, `pixel_values` are uint8, and an image may also be a row of a PixelCache. Where the
        vision tower is frozen, an image may be its pooled features [d]: `pixel_values` are then these, float32 [b, d].
        """
        if is_features(images):
            return {"pixel_values": torch.from_numpy(np.stack([np.asarray(image) for image in images]))}
        if self.pixels is not None:
            return {"pixel_values": self.pixels.resized(images)}
        processor = self.processor.image_processor
        return dict(processor(images=list(images), return_tensors="pt", **axes(processor, images)))

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Turn texts into the text tower's inputs: `input_ids` int64 [b, length], and others if the policy needs them.

        If the tower is frozen and has encoded these texts before, `input_ids` are its pooled features, float32 [b, d].
        """
        features = self.caption_features
        if features is not None and all(text in features for text in texts):
            return {"input_ids": torch.from_numpy(np.stack([features[text] for text in texts]))}
        policy, known = self.text_policy, self.tokens
        if known is not None and all(text in known for text in texts):
            return padded([known[text] for text in texts], self.processor.tokenizer, policy)
        tokens = self._tokenize(texts, padding=policy.padding, return_tensors="pt")
        return {name: tokens[name] for name in policy.inputs}

    def without_padding(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows of a larger batch, with no more padding of their texts than they need themselves."""
        return without_padding(inputs, self.processor.tokenizer, self.text_policy)

    def length(self, text: str) -> int:
        """How long a text is beside others: in tokens where it was tokenized in advance, otherwise in characters."""
        return len(self.tokens[text]) if self.tokens is not None and text in self.tokens else len(text)

    def cut_captions(self, texts: Sequence[str]) -> CutCaptions:
        """Which texts are longer than the text tower can read."""
        return CutCaptions.among(texts, self.text_policy.max_length, self._lengths)

    def save(self, directory: Path) -> None:
        """Write the image processor and the tokenizer, as transformers lays them out.

        The saved tokenizer gives transformers only the inputs that the text tower reads. SigLIP was trained without
        a mask, for example, and a mask would change its embeddings.
        """
        tokenizer, names = self.processor.tokenizer, list(self.text_policy.inputs)
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
        with quiet_transformers():
            self.processor.save_pretrained(directory)
            # transformers 5 puts this into processor_config.json, where nothing but transformers looks.
            self.processor.image_processor.save_pretrained(directory)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenize(texts, padding=False)["input_ids"]
        return ids

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Token counts before cutting, without the tokenizer's own warnings about long texts."""
        ids = self.processor.tokenizer(self._cased(texts), return_attention_mask=False, verbose=False)["input_ids"]
        return [len(own) for own in ids]

    def _cased(self, texts: Sequence[str]) -> list[str]:
        return [text.lower() for text in texts] if self.text_policy.lowercase else list(texts)

    def _tokenize(self, texts: Sequence[str], **options: Any) -> Any:
        policy = self.text_policy
        return self.processor.tokenizer(
            self._cased(texts),
            max_length=policy.max_length,
            truncation=True,
            return_attention_mask=policy.attention_mask,
            return_token_type_ids=policy.token_types,
            **options,
        )
