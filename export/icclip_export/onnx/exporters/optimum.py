"""Export through optimum-onnx, which traces with the older of torch's two exporters.

optimum's own configurations export either one graph that needs both inputs, or towers without their
projection. This one takes any tower.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.errors import MissingExtraError, UsageError
from icclip.extras import EXPORT_OPTIMUM
from icclip_export.onnx.exporters.value import Exporter, installed

if TYPE_CHECKING:
    from icclip_export.onnx.towers import TowerExport

PACKAGE = "optimum-onnx"


def write(tower: TowerExport, path: Path, opset: int) -> None:
    """See `Exporter.write`."""
    from optimum.exporters.onnx import export_models

    export_models({path.stem: (tower.module, _configuration(tower))}, path.parent, opset=opset, dtype="fp32")


def _configuration(tower: TowerExport) -> Any:
    """What optimum asks about a tower: its input, its output, and the example that the graph is traced with."""
    from optimum.exporters.onnx.base import OnnxConfig
    from optimum.exporters.onnx.model_patcher import ModelPatcher
    from optimum.utils import NormalizedConfig

    class TowerOnnxConfig(OnnxConfig):  # type: ignore[misc]  # optimum ships no type information
        NORMALIZED_CONFIG_CLASS = NormalizedConfig
        _MODEL_PATCHER = ModelPatcher

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {tower.io.input: dict(tower.axes)}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {tower.io.output: {0: tower.axes[0]}}

        def generate_dummy_inputs(self, framework: str = "pt", **_shapes: Any) -> dict[str, Any]:
            return {tower.io.input: tower.example if framework == "pt" else tower.example.numpy()}

    return TowerOnnxConfig(tower.module.config)


def obstacle() -> UsageError | None:
    """Why it cannot be used: it is not installed, or not made for the installed transformers."""
    if installed(PACKAGE) is None:
        return MissingExtraError("--exporter optimum", [PACKAGE], EXPORT_OPTIMUM)
    wanted, found = _wanted_transformers(), importlib.metadata.version("transformers")
    if _fits(wanted, found):
        return None
    return UsageError(
        f"--exporter optimum: {PACKAGE} {installed(PACKAGE)} is made for transformers{wanted}, and {found} is installed: "
        f"use --exporter torch, or {EXPORT_OPTIMUM}"
    )


def _wanted_transformers() -> str:
    """The versions of transformers that the installed optimum-onnx asks for, such as `>=4.36,<4.58`."""
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in importlib.metadata.requires(PACKAGE) or ()]
    return next((str(one.specifier) for one in asked if one.name == "transformers" and one.marker is None), "")


def _fits(wanted: str, found: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(found, prereleases=True)


EXPORTER = Exporter(name="optimum", package=PACKAGE, write=write, obstacle=obstacle)
