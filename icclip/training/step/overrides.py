"""The private methods of transformers.Trainer that icclip replaces, each with the reason.

transformers may change them in any release. A test compares this table with the methods that are
marked and with the Trainer that is installed, so a change is noticed where it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])

CHECKED_WITH = ("4.57.6", "5.24.0")
"""The versions of transformers whose methods were read, and under which the trainer's tests ran."""

OVERRIDDEN: Mapping[str, str] = {
    "_get_train_sampler": "the order depends on the seed and the epoch alone",
    "_get_output_dir": "checkpoints are written into a staging directory",
    "_save": "a model with another family's loss is written as its own family's",
    "_save_checkpoint": "a checkpoint appears under its name only when it is complete",
    "_save_optimizer_and_scheduler": "the state of a sharded optimizer is saved whole",
    "_load_optimizer_and_scheduler": "the state is loaded on the CPU, and sharded if the model is",
    "_load_from_checkpoint": "adapted or averaged weights are resumed to the bit",
    "_load_best_model": "the best checkpoint holds a plain, whole model",
    "_maybe_log_save_evaluate": "a run stops before it saves weights that are not finite",
    "_move_model_to_device": "a model that is to be sharded fits on no single device",
    "_wrap_model": "a sharded model exchanges its own gradients, without DistributedDataParallel",
}
"""Method -> why it is replaced."""

CALLED = ("_get_learning_rate", "_prepare_inputs")
"""Private methods that are called, but not replaced."""

_MARK = "__overrides_private__"


def overrides_private(method: Method) -> Method:
    """Mark a method that replaces a private one of transformers.Trainer; it must be listed in OVERRIDDEN."""
    setattr(method, _MARK, True)
    return method


def is_marked(method: object) -> bool:
    """Whether `overrides_private` has marked it."""
    return getattr(method, _MARK, False)
