"""The experiment trackers that transformers logs to, and the packages that they need."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from icclip.errors import MissingExtraError, UnknownNameError

MODULES = {
    "azure_ml": ("azureml.core.run", "azureml-core"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "mlflow": ("mlflow", "mlflow"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
"""For each name of `--report-to`, the module that transformers' callback imports, and the package that provides it."""
ALTERNATIVES = {"tensorboard": ("tensorboardX",)}
OTHERS = {"dagshub": "mlflow"}
"""Further modules that a tracker needs."""


def check_trackers(names: Iterable[str]) -> None:
    """Check every name before any work is done. `all` and `none` have the same meaning as in transformers.

    Raises:
        UnknownNameError: transformers has no such tracker.
        MissingExtraError: the package that a tracker needs is not installed.
    """
    for name in names:
        if name in ("all", "none"):
            continue
        if name not in MODULES:
            raise UnknownNameError("tracker", name, MODULES, "of --report-to")
        for module, package in _needed(name):
            if not _installed(module):
                raise MissingExtraError(f"--report-to {name}", [package], f"pip install {package}")


def needed_modules(name: str) -> list[str]:
    """The modules without which the callback of a tracker cannot be made; none if there is a choice."""
    return [module for module, _ in _needed(name) if module not in ALTERNATIVES]


def _needed(name: str) -> list[tuple[str, str]]:
    return [MODULES[needed] for needed in (name, OTHERS.get(name)) if needed in MODULES]


def _installed(module: str) -> bool:
    try:
        return any(find_spec(name) is not None for name in (module, *ALTERNATIVES.get(module, ())))
    # The parent package is missing, or the module hides its spec.
    except (ImportError, ValueError):
        return False
