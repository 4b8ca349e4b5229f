"""A dual encoder in torch, with the feeder that makes its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from icclip.config import LossFamily
from icclip.models.feeder import Feeder
from icclip.models.objective import attach_bias, storable, trained_loss
from icclip.models.pixels import Pixels
from icclip.models.quiet import quiet_transformers
from icclip.plugins.specs import BackendSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, its feeder and the backend that knows its family.

    The one place where a model's outputs become features: training, evaluation and export all go
    through here and through the feeder, so they cannot disagree.
    """

    model: Any
    """A transformers PreTrainedModel with `get_image_features` and `get_text_features`."""
    feeder: Feeder
    """Makes the model's inputs from images and texts."""
    backend: BackendSpec
    source: str
    """Where the model came from, for headers and records."""
    loss: LossFamily
    """The loss that it was last trained with, or is being trained with; usually that of its family."""

    @classmethod
    def of(cls, model: Any, processor: Any, backend: BackendSpec, source: str) -> Self:
        """Wrap a transformers model and its processor; the backend tells how the model expects its text."""
        policy = backend.text_policy(model.config, processor.tokenizer)
        attach_bias(model)
        return cls(model, Feeder(processor, policy), backend, source, trained_loss(model.config, backend.loss))

    def ready_for(self, texts: Sequence[str]) -> Self:
        """Prepare the model to train on these texts: they are tokenized now, and pixels are normalised in the model.

        The features stay the same; only the type in which pixels reach the model changes.
        """
        feeder = self.feeder.with_tokens(texts)
        pixels = Pixels.of(feeder.processor.image_processor)
        if pixels is not None:
            pixels.normalise_in(self.model.get_submodule(self.backend.vision.module))
        return dataclasses.replace(self, feeder=dataclasses.replace(feeder, pixels=pixels))

    def image_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Projected embeddings [b, dim], not normalised; `inputs` as `Feeder.image_inputs` makes them."""
        features: Tensor = self.backend.unwrap(self.model.get_image_features(**inputs))
        return features

    def text_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Projected embeddings [b, dim], not normalised; `inputs` as `Feeder.text_inputs` makes them."""
        features: Tensor = self.backend.unwrap(self.model.get_text_features(**inputs))
        return features

    def save(self, directory: Path) -> None:
        """Write weights (safetensors), config and the whole processor, as transformers lays them out."""
        weights = storable(self.model, self.model.state_dict())
        with quiet_transformers():
            self.model.save_pretrained(directory, state_dict=weights)
        self.feeder.save(directory)

    def describe(self) -> dict[str, Any]:
        """What a result records about the model, as plain values for JSON."""
        return {
            "source": self.source,
            "backend": self.backend.name,
            "model_type": self.model.config.model_type,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "image_processor": type(self.feeder.processor.image_processor).__name__,
            "tokenizer": type(self.feeder.processor.tokenizer).__name__,
        }
