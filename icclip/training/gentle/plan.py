"""What of a model trains, how fast, and which weights of it are measured and saved.

A checkpoint is always a plain model: adapters merged, weights averaged, where there are any. Then it
also holds the weights in training, from which a resumed run goes on to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from icclip.config import TrainConfig
from icclip.models.loaded import LoadedModel
from icclip.training.gentle.averaging import WeightAverage
from icclip.training.gentle.freezing import freeze
from icclip.training.gentle.layers import places
from icclip.training.gentle.lora import add_adapters, merged, remove_adapters
from icclip.training.gentle.rates import learning_rates, split_by_rate

if TYPE_CHECKING:
    from torch import Tensor, nn

IN_TRAINING = "weights_in_training.safetensors"
AVERAGE = "weight_average.safetensors"

Gathered = Callable[[], AbstractContextManager["nn.Module"]]
"""While it lasts a divided model is whole."""


@dataclass(frozen=True, slots=True)
class Gentle:
    """A model prepared for a run."""

    model: nn.Module
    rates: Mapping[str, float]
    """Parameter's name -> highest learning rate."""
    adapted: bool = False
    """Whether there are adapters in the model."""
    average: WeightAverage | None = None

    @classmethod
    def prepare(cls, loaded: LoadedModel, config: TrainConfig) -> Gentle:
        """Freeze, adapt and average the model as `config` says; in place.

        Raises:
            UsageError: a tower has fewer blocks than are to be frozen, or not the layers to be adapted.
        """
        model, adapted = loaded.model, config.lora.rank is not None
        freeze(model, places(model, loaded.backend), config.gentle)
        if adapted:
            add_adapters(model, places(model, loaded.backend), config.lora, config.seed)
        return cls(
            model,
            learning_rates(config, places(model, loaded.backend)),
            adapted,
            None if config.gentle.ema is None else WeightAverage(model, config.gentle.ema),
        )

    @property
    def saves_other_weights(self) -> bool:
        """Whether what is measured and saved differs from what trains."""
        return self.adapted or self.average is not None

    @property
    def summary(self) -> str:
        """How much trains, and as what: `0.20 M of 4.01 M parameters, adapters`."""
        counts = [sum(p.numel() for p in self.model.parameters() if p.requires_grad or held) for held in (False, True)]
        kinds = ["adapters"] * self.adapted + ["saved averaged"] * (self.average is not None)
        return ", ".join([" of ".join(f"{count / 1e6:,.2f} M" for count in counts) + " parameters", *kinds])

    def set_rates(self, optimizer: Any) -> None:
        """Give each parameter of a new optimizer its rate. Where all have the same, there is nothing to do."""
        if len(set(self.rates.values())) > 1:
            own = {parameter: self.rates[name] for name, parameter in self.model.named_parameters()}
            optimizer.param_groups[:] = split_by_rate(optimizer.param_groups, own)

    @contextlib.contextmanager
    def as_saved(self, gathered: Gathered | None = None) -> Iterator[nn.Module]:
        """While it lasts there is the model to measure and save; after it the one in training is what it was, to the bit.

        Args:
            gathered: gives the whole model where it is divided. None: it is not, and is changed meanwhile.
        """
        with contextlib.ExitStack() as stack:
            if self.average is not None:
                stack.enter_context(self.average.in_place())
            model = stack.enter_context(gathered()) if gathered else self.model
            if self.adapted:
                stack.enter_context(merged(model))
            yield model

    def finish(self) -> None:
        """Make the model a plain one again, ready to take the weights of a checkpoint."""
        if self.adapted:
            remove_adapters(self.model)

    # Resuming

    def save(self, checkpoint: Path, whole: Callable[[Tensor], Tensor] | None = None, *, writer: bool = True) -> None:
        """Write what it takes to go on, where that is not the model that the checkpoint holds.

        Args:
            checkpoint: the directory.
            whole: puts a tensor together where the model is divided; all processes must save then.
            writer: whether this process writes; the others only help.
        """
        files: dict[str, Mapping[str, Tensor]] = {}
        if self.saves_other_weights:
            files[IN_TRAINING] = self.model.state_dict()
        if self.average is not None:
            files[AVERAGE] = self.average.values
        for name, weights in files.items():
            # As safetensors wants it.
            state = {key: (whole(t) if whole else t).detach().contiguous() for key, t in weights.items()}
            if writer:
                save_file(state, checkpoint / name)

    def load(self, checkpoint: Path) -> None:
        """Take up the weights in training, and their average."""
        self.model.load_state_dict(load_file(checkpoint / IN_TRAINING))
        if self.average is not None:
            self.average.values = load_file(checkpoint / AVERAGE)
