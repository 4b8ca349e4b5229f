"""Interpolate the weights of two models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from icclip.errors import CheckpointError
from icclip.models.loaded import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

PREPROCESSING = ("image_mean", "image_std", "size", "crop_size")


class Blend:
    """Two models of one architecture, and a model that becomes any mixture of them.

    Args:
        first: the model at alpha 0.
        second: the model at alpha 1; it is overwritten with the mixtures, which use its processor.

    Raises:
        CheckpointError: the models differ in more than their weights.
    """

    def __init__(self, first: LoadedModel, second: LoadedModel) -> None:
        check_alike(first, second)
        self.loaded = second
        self._first, self._second = (
            {name: tensor.detach().clone() for name, tensor in loaded.model.state_dict().items()}
            for loaded in (first, second)
        )

    def at(self, alpha: float) -> LoadedModel:
        """Set the model to the mixture and return it; it is the same LoadedModel each time."""
        # A bias that only the fine-tuned model has belongs to the loss that it was trained with.
        self.loaded.model.load_state_dict({**self._second, **interpolated(self._first, self._second, alpha)})
        return self.loaded


def interpolated(first: Mapping[str, Tensor], second: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Compute (1 - alpha) * first + alpha * second for every weight; at 0 and 1 the result is exact to the bit.

    Between a pretrained model and the model fine-tuned from it, this is WiSE-FT (Wortsman et al. 2022,
    arXiv:2109.01903, equation 1). Integer counters are taken from the second model.
    """
    return {
        name: torch.lerp(weight, second[name], alpha) if weight.is_floating_point() else second[name]
        for name, weight in first.items()
    }


def check_alike(first: LoadedModel, second: LoadedModel) -> None:
    """Check that a mixture of the two models is meaningful.

    Raises:
        CheckpointError: the families, shapes, tokens or preprocessing differ.
    """
    difference = _difference(first, second)
    if difference:
        raise CheckpointError(f"{first.source} and {second.source} cannot be blended: {difference}")


def _difference(first: LoadedModel, second: LoadedModel) -> str | None:
    kinds = [loaded.model.config.model_type for loaded in (first, second)]
    if kinds[0] != kinds[1]:
        return f"one is {kinds[0]}, the other {kinds[1]}"
    shapes = [{name: list(t.shape) for name, t in loaded.model.state_dict().items()} for loaded in (first, second)]
    if different := [name for name in shapes[0] if shapes[0][name] != shapes[1].get(name)]:
        name = different[0]
        return f"{name} is {shapes[0][name]} in one, {shapes[1].get(name, 'missing')} in the other"
    if first.feeder.processor.tokenizer.get_vocab() != second.feeder.processor.tokenizer.get_vocab():
        return "their tokenizers differ"
    processors = [loaded.feeder.processor.image_processor for loaded in (first, second)]
    for key in PREPROCESSING:
        if getattr(processors[0], key, None) != getattr(processors[1], key, None):
            return f"their image processors differ in {key}"
    return None
