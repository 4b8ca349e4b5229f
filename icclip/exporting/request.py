"""What an export target is asked to do, and what it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.bundles.parity_record import ParityRecord
from icclip.config import ExportConfig, overlaid
from icclip.console import Reporter
from icclip.errors import GateError
from icclip.evaluating.request import evaluation_data
from icclip.plugins.registry import Registry

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What `ExportTargetSpec.export` is asked to do."""

    config: ExportConfig
    registry: Registry
    reporter: Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What `ExportTargetSpec.export` returns: a bundle, and whether it passed the gate."""

    bundle: Path
    """The bundle's directory: the requested one, or `<name>.failed`."""
    parity: ParityRecord
    sizes: Mapping[str, int]
    """The size of both encoders in bytes, by precision."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "bundle": str(self.bundle),
            "passed": self.parity.passed,
            "bytes": dict(self.sizes),
            "parity": self.parity.to_mapping(),
        }

    def renderables(self) -> Iterator[RenderableType]:
        """Tables of what the gate measured for each precision."""
        from icclip.report.parity_table import parity_tables

        return parity_tables(self.parity, self.sizes)

    def verdict(self) -> None:
        """Raise GateError if a precision failed; the message names each one and its first failure."""
        if not self.parity.passed:
            raise GateError(f"{'; '.join(self.parity.failures)}; the bundle is kept as {self.bundle}")


def export_config(registry: Registry, said: Mapping[str, Any]) -> ExportConfig:
    """Build the complete configuration; as in `icclip eval`, the data is the run's own unless another is named.

    Args:
        registry: knows the datasets.
        said: fields of ExportConfig, nested, as `icclip.evaluating.request.eval_config` takes them.

    Raises:
        UsageError: no dataset is known, or an option is wrong.
    """
    data = evaluation_data(
        registry, str(said["encoder"]["checkpoint"]), said.get("data", {}), said["encoder"].get("revision")
    )
    return ExportConfig.from_mapping({**overlaid(said), "data": data})
