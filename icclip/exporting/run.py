"""Export a checkpoint to a bundle through the chosen target."""

from __future__ import annotations

from icclip.config import ExportConfig
from icclip.console import Reporter
from icclip.errors import UnknownNameError
from icclip.exporting.request import ExportRequest, ExportResult
from icclip.models.allocator import keep_freed_memory
from icclip.plugins.registry import Registry
from icclip.runs.claim import claim_beside, claimed


def export(config: ExportConfig, registry: Registry, reporter: Reporter) -> ExportResult:
    """Export a checkpoint, and measure the result on a real split.

    Encoders that differ from the checkpoint are returned, too, as `<name>.failed` for the report; call `verdict` on
    the result.

    Raises:
        UsageError: something that the user can correct.
        GateError: a graph does not compute what PyTorch computes; nothing is kept.
    """
    keep_freed_memory()
    target = registry.export_target(config.target)
    for precision in config.precisions:
        if precision not in target.precisions:
            raise UnknownNameError("precision", precision, target.precisions, f"of the target {target.name!r}")
    with claimed(config.output_dir, claim_beside(config.output_dir), reporter.note):
        result: ExportResult = target.export(ExportRequest(config=config, registry=registry, reporter=reporter))
    return result
