"""The experiment trackers that transformers logs to, and what each needs."""

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
"""Name for `--report-to` -> the module that transformers' callback imports, and the package that has it."""
ALTERNATIVES = {"tensorboard": ("tensorboardX",)}
OTHERS = {"dagshub": "mlflow"}
"""What a tracker needs besides."""


def check_trackers(names: Iterable[str]) -> None:
    """Look at every name before any work is done. `all` and `none` mean what they mean to transformers.

    Raises:
        UnknownNameError: transformers has no such tracker.
        MissingExtraError: the package that a tracker needs is not installed.
    """
    for name in names:
        if name in ("all", "none"):
            continue
        if name not in MODULES:
            raise UnknownNameError("tracker", name, MODULES, "of --report-to")
        for needed in filter(None, (name, OTHERS.get(name))):
            module, package = MODULES[needed]
            if not _installed(module):
                raise MissingExtraError(f"--report-to {name}", [package], f"pip install {package}")


def _installed(module: str) -> bool:
    try:
        return any(find_spec(name) is not None for name in (module, *ALTERNATIVES.get(module, ())))
    # A parent package that is not there, or a module that hides its spec.
    except (ImportError, ValueError):
        return False
