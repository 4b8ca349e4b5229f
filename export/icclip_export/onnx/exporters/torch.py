"""Export through `torch.onnx.export(dynamo=True)`, which translates a whole-program graph with onnxscript."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.errors import GateError, MissingExtraError, UsageError
from icclip.extras import EXPORT
from icclip_export.onnx.exporters.value import Exporter, installed
from icclip_export.onnx.graphs import INLINE_LIMIT

if TYPE_CHECKING:
    from icclip_export.onnx.towers import TowerExport


def write(tower: TowerExport, path: Path, opset: int, inline_limit: int = INLINE_LIMIT) -> None:
    """See `Exporter.write`; weights beyond `inline_limit` bytes go to `<name>_data` beside the graph."""
    import onnx_ir
    import torch

    with torch.no_grad():
        program = torch.onnx.export(
            tower.module,
            (tower.example,),
            dynamo=True,
            opset_version=opset,
            input_names=[tower.io.input],
            output_names=[tower.io.output],
            dynamic_shapes=(dict(tower.axes),),
            verbose=False,
        )
    assert program is not None, "with dynamo there is always a program"
    model = program.model
    _check_opset(model, opset)
    _forget_where(model)
    large = _weight_bytes(model) > inline_limit
    path.with_name(f"{path.name}_data").unlink(missing_ok=True)
    onnx_ir.save(model, path, external_data=f"{path.name}_data" if large else None)


def _weight_bytes(model: Any) -> int:
    return sum(weight.const_value.nbytes for weight in model.graph.initializers.values())


def _check_opset(model: Any, opset: int) -> None:
    """Raise GateError if onnxscript could not convert the graph to the wanted opset, which it only logs."""
    if model.opset_imports[""] != opset:
        raise GateError(
            f"the graph has opset {model.opset_imports['']}, and cannot be converted to {opset}: nothing was kept"
        )


def _forget_where(model: Any) -> None:
    """Remove the records of the source lines that each node came from, which name files of this machine."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)


def obstacle() -> UsageError | None:
    """Why it cannot be used: onnxscript is not installed."""
    if installed("onnxscript") is None:
        return MissingExtraError("--exporter torch", ["onnxscript"], EXPORT)
    return None


EXPORTER = Exporter(name="torch", package="onnxscript", write=write, obstacle=obstacle)
