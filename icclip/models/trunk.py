"""A tower's pooled output, which is what its projection takes: computed by itself, and given back to the model later.

Where a tower does not train, its pooled output for an image or a text is always the same. Given that
output in the place of pixels or token ids, the tower passes it on, and the model goes on from there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from icclip.config import Tower

if TYPE_CHECKING:
    from torch import nn

    from icclip.models.loaded import LoadedModel


class CaptionFeatures:
    """What a frozen text tower makes of captions, by caption.

    Args:
        parts: distinct captions, and a row float32 [d] for each of them.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[str], Sequence[np.ndarray]]]) -> None:
        self._rows = [rows for _, rows in parts]
        self._places = {text: (part, row) for part, (texts, _) in enumerate(parts) for row, text in enumerate(texts)}

    def __contains__(self, text: object) -> bool:
        return text in self._places

    def __getitem__(self, text: str) -> np.ndarray:
        """float32 [d]. Raises KeyError."""
        part, row = self._places[text]
        return self._rows[part][row]


@dataclass(frozen=True, slots=True)
class Trunk:
    """One of a model's towers, without the projection after it."""

    tower: Tower
    module: nn.Module
    argument: str
    """The name under which the tower takes its pixels or token ids."""
    encode: Callable[[Mapping[str, Tensor]], Tensor]
    """Inputs of the tower -> embeddings [b, dim] of the model."""

    @classmethod
    def of(cls, loaded: LoadedModel, tower: Tower) -> Trunk:
        """The tower of a model, found by its backend's layout."""
        layout = loaded.backend.vision if tower == "vision" else loaded.backend.text
        encode = loaded.image_features if tower == "vision" else loaded.text_features
        return cls(tower, loaded.model.get_submodule(layout.module), layout.graph_input, encode)

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The tower's pooled output, float32 [b, d], for what the feeder makes of images or texts."""
        found: list[Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            # Now: transformers 5 puts the projected embedding into the very same output afterwards.
            found.append(output.pooler_output)

        # The model calls its tower in its own way, which depends on the family.
        hook = self.module.register_forward_hook(keep)
        try:
            self.encode(inputs)
        finally:
            hook.remove()
        return found[0].float()

    def accept_features(self) -> None:
        """From now on the tower takes features [b, d] as well, and passes them on as its pooled output."""
        plain, argument = self.module.forward, self.argument

        @functools.wraps(plain)
        def forward(*args: Any, **options: Any) -> Any:
            given = options.get(argument, args[0] if args else None)
            return _passed_on(given) if is_features(given) else plain(*args, **options)

        self.module.forward = forward

    def passes_on(self, inputs: Mapping[str, Tensor]) -> bool:
        """Whether the model makes of the features what it makes of the inputs; after `accept_features`.

        A family may use more of its tower than the pooled output.
        """
        try:
            features = self.features(inputs)
            whole, passed = self.encode(inputs).float(), self.encode({self.argument: features}).float()
        # A family that does something else with its tower's output says so in a way of its own.
        except Exception:  # noqa: BLE001
            return False
        return torch.allclose(whole, passed, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def is_features(values: Any) -> bool:
    """Whether these are features: floats [b, d], or a sequence of rows [d]. Pixels have more axes, and ids are integers."""
    if isinstance(values, Tensor):
        return values.ndim == 2 and values.is_floating_point()  # noqa: PLR2004  rows and their values
    return (
        isinstance(values, Sequence) and len(values) > 0 and isinstance(values[0], np.ndarray) and values[0].ndim == 1
    )


def _passed_on(features: Any) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    # Some models take the pooled output by its place in the tuple, where what is None does not count.
    return BaseModelOutputWithPooling(last_hidden_state=features[:, None], pooler_output=features)
