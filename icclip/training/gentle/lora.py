"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv:2106.09685), inserted and removed with peft.

The model stays a transformers model: adapters sit inside its linear layers, and they are merged into
the weights that are measured and saved.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from icclip.config import LoraConfig
from icclip.errors import UnknownNameError
from icclip.training.gentle.layers import TowerPosition

ADAPTER = re.compile(r"\.lora_\w+\.")
WRAPPED = ".base_layer."
"""Parts of the names of an adapter's parameters, and of the layer that it wraps."""


def add_adapters(model: nn.Module, where: Mapping[str, TowerPosition], config: LoraConfig, seed: int) -> None:
    """Wrap the linear layers of the blocks in adapters; apart from these, only the temperature trains.

    Frozen layers get no adapter. The initial weights depend on `seed` alone, and the outputs do not change.

    Raises:
        UnknownNameError: the model has no layer of a name in `config.targets`.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    assert config.rank is not None, "adapters are asked for by their rank"
    adapted = PeftConfig(
        r=config.rank,
        lora_alpha=2 * config.rank if config.alpha is None else config.alpha,  # type: ignore[arg-type] # it multiplies
        lora_dropout=config.dropout,
        target_modules=_targets(model, where, config.targets),
    )
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    shared = {name for name, position in where.items() if position.tower is None and name in training}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(adapted, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in shared or ADAPTER.search(name) is not None


def _targets(model: nn.Module, where: Mapping[str, TowerPosition], wanted: tuple[str, ...]) -> list[str]:
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and where[f"{name}.weight"].in_block
    ]
    leaves = {name.rpartition(".")[2] for name in linear}
    for leaf in wanted:
        if leaf not in leaves:
            raise UnknownNameError("layer to adapt", leaf, leaves)
    return [name for name in linear if not wanted or name.rpartition(".")[2] in wanted]


@contextlib.contextmanager
def adapters_merged(model: nn.Module) -> Iterator[None]:
    """Within the block the adapters are merged into the weights; afterwards the weights are as before, to the bit."""
    layers = list(_adapted(model).values())
    before = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.merge()
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, before, strict=True):
                layer.unmerge()
                # Subtracting what was added would not restore every bit.
                layer.get_base_layer().weight.copy_(weight)


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state under the names it has without adapters; for use within `adapters_merged`."""
    return {name.replace(WRAPPED, "."): t for name, t in model.state_dict().items() if not ADAPTER.search(name)}


def remove_adapters(model: nn.Module) -> None:
    """Remove the adapters without merging them."""
    for name, layer in _adapted(model).items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())


def _adapted(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
