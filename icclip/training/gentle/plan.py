"""Which weights of a model train, how fast, and which weights are measured and saved.

A checkpoint always holds a plain model, with adapters merged and averages in place. If these differ
from the weights in training, it holds those as well, so that a resumed run continues to the bit.
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
from icclip.training.gentle.evaluation_mode import keep_in_evaluation
from icclip.training.gentle.freezing import freeze
from icclip.training.gentle.layers import tower_positions
from icclip.training.gentle.lora import adapters_merged, add_adapters, remove_adapters
from icclip.training.gentle.rates import learning_rates, split_by_rate

if TYPE_CHECKING:
    from torch import Tensor, nn

IN_TRAINING = "weights_in_training.safetensors"
AVERAGE = "weight_average.safetensors"

Gathered = Callable[[], AbstractContextManager["nn.Module"]]
"""A context within which a sharded model is whole."""


@dataclass(frozen=True, slots=True)
class Gentle:
    """A model prepared for a run."""

    model: nn.Module
    rates: Mapping[str, float]
    """Parameter's name -> peak learning rate."""
    adapted: bool = False
    """Whether the model has adapters."""
    average: WeightAverage | None = None

    @classmethod
    def prepare(cls, loaded: LoadedModel, config: TrainConfig) -> Gentle:
        """Freeze, adapt and average the model in place, as `config` says.

        Raises:
            UsageError: a tower has fewer blocks than should be frozen, or lacks the layers that should be adapted, or the
                model lacks the statistics that should be kept.
        """
        model, adapted = loaded.model, config.lora.rank is not None
        freeze(model, tower_positions(model, loaded.backend), config.gentle, loaded.backend)
        if adapted:
            add_adapters(model, tower_positions(model, loaded.backend), config.lora, config.seed)
        keep_in_evaluation(model, loaded.backend, freeze_bn_stats=config.gentle.freeze_bn_stats)
        return cls(
            model,
            learning_rates(config, tower_positions(model, loaded.backend)),
            adapted,
            None if config.gentle.ema is None else WeightAverage(model, config.gentle.ema),
        )

    @property
    def saves_other_weights(self) -> bool:
        """Whether the weights that are measured and saved differ from those in training."""
        return self.adapted or self.average is not None

    @property
    def summary(self) -> str:
        """How many parameters train: `0.20 M of 4.01 M parameters, adapters`."""
        counts = [sum(p.numel() for p in self.model.parameters() if p.requires_grad or held) for held in (False, True)]
        kinds = ["adapters"] * self.adapted + ["saved averaged"] * (self.average is not None)
        return ", ".join([" of ".join(f"{count / 1e6:,.2f} M" for count in counts) + " parameters", *kinds])

    def set_rates(self, optimizer: Any) -> None:
        """Give each parameter of a new optimizer its own learning rate."""
        if len(set(self.rates.values())) > 1:
            own = {parameter: self.rates[name] for name, parameter in self.model.named_parameters()}
            optimizer.param_groups[:] = split_by_rate(optimizer.param_groups, own)

    @contextlib.contextmanager
    def as_saved(self, gathered: Gathered | None = None) -> Iterator[nn.Module]:
        """Within the block there is the model to measure and save; afterwards the model in training is as before, to the bit.

        Args:
            gathered: gives the whole model if it is sharded; None: the model itself is changed meanwhile.
        """
        with contextlib.ExitStack() as stack:
            if self.average is not None:
                stack.enter_context(self.average.in_place())
            model = stack.enter_context(gathered()) if gathered else self.model
            if self.adapted:
                stack.enter_context(adapters_merged(model))
            yield model

    def finish(self) -> None:
        """Make the model plain again, so that it can load the weights of a checkpoint."""
        if self.adapted:
            remove_adapters(self.model)

    # Resuming

    def save(self, checkpoint: Path, whole: Callable[[Tensor], Tensor] | None = None, *, writer: bool = True) -> None:
        """Write the weights in training, if they differ from the model that the checkpoint holds.

        Args:
            checkpoint: the directory.
            whole: puts a tensor of a sharded model together; all processes must then call this.
            writer: whether this process writes; the others only help to gather.
        """
        files: dict[str, Mapping[str, Tensor]] = {}
        if self.saves_other_weights:
            files[IN_TRAINING] = self.model.state_dict()
        if self.average is not None:
            files[AVERAGE] = self.average.values
        for name, weights in files.items():
            # safetensors requires this.
            state = {key: (whole(t) if whole else t).detach().contiguous() for key, t in weights.items()}
            if writer:
                save_file(state, checkpoint / name)

    def load(self, checkpoint: Path) -> None:
        """Load the weights in training and, if there is one, their average."""
        self.model.load_state_dict(load_file(checkpoint / IN_TRAINING))
        if self.average is not None:
            self.average.values = load_file(checkpoint / AVERAGE)
