from __future__ import annotations

import inspect

import pytest
from transformers import Trainer

from icclip.training.step.overrides import CALLED, OVERRIDDEN, is_marked
from icclip.training.step.trainer import ContrastiveTrainer

OURS = [cls for cls in ContrastiveTrainer.__mro__ if cls.__module__.startswith("icclip.")]


def test_every_replaced_private_method_is_marked_and_listed():
    own = {name: method for cls in OURS for name, method in vars(cls).items() if inspect.isfunction(method)}
    replaced = {name for name in own if name.startswith("_") and not name.endswith("__") and hasattr(Trainer, name)}
    marked = {name for name, method in own.items() if is_marked(method)}
    assert replaced == marked == set(OVERRIDDEN)


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
def test_the_installed_trainer_has_the_private_methods(name):
    assert callable(getattr(Trainer, name, None))


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_a_replacement_takes_what_transformers_passes(name):
    theirs, ours = (inspect.signature(getattr(cls, name)).parameters for cls in (Trainer, ContrastiveTrainer))
    takes_any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in ours.values())
    assert takes_any or list(ours) == list(theirs)
