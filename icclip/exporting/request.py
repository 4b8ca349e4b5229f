"""What an export target is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icclip.bundles.parity_record import ParityRecord
from icclip.config import ExportConfig, merged
from icclip.console import Reporter
from icclip.errors import GateError, UnknownNameError, UsageError
from icclip.evaluating.request import eval_config
from icclip.plugins.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """For `ExportTargetSpec.export`."""

    config: ExportConfig
    registry: Registry
    reporter: Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What `ExportTargetSpec.export` returns: a bundle, and whether it may be called one."""

    bundle: Path
    """Where it is: where it was asked for, or `<name>.failed`."""
    parity: ParityRecord
    sizes: Mapping[str, int]
    """Bytes of both encoders, by precision."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "bundle": str(self.bundle),
            "passed": self.parity.passed,
            "bytes": dict(self.sizes),
            "parity": self.parity.to_mapping(),
        }

    def raise_if_failed(self) -> None:
        """Raises GateError naming every precision that failed, and its first failure."""
        if not self.parity.passed:
            raise GateError(f"{'; '.join(self.parity.failures)}; the bundle is kept as {self.bundle}")


def export(config: ExportConfig, registry: Registry, reporter: Reporter) -> ExportResult:
    """Export a checkpoint, and measure the result on a real split.

    Encoders that do not give what the checkpoint gives are returned too, for the report, as
    `<name>.failed`: call `raise_if_failed` on the result.

    Raises:
        UsageError: anything the user can mend.
        GateError: a graph is not what torch computes; nothing is kept.
    """
    target = registry.export_target(config.target)
    for precision in config.precisions:
        if precision not in target.precisions:
            raise UnknownNameError("precision", precision, target.precisions, f"of the target {target.name!r}")
    result: ExportResult = target.export(ExportRequest(config=config, registry=registry, reporter=reporter))
    return result


def thresholds_from(pairs: Iterable[str]) -> dict[str, float]:
    """`NAME=VALUE` -> numbers by name. Raises UsageError."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name.strip().replace("-", "_")] = float(value)
        except ValueError as error:
            shown = value if equals else "nothing"
            raise UsageError(f"--threshold {pair}: expected NAME=NUMBER, got {shown} for the number") from error
    return found


def export_config(
    registry: Registry,
    checkpoint: str,
    dataset: str | None,
    data_options: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    thresholds: Iterable[str] = (),
) -> ExportConfig:
    """The whole request; the data is the run's own unless another is named, as `icclip eval` has it.

    Args:
        registry: knows the datasets.
        checkpoint: what the user gave.
        dataset: as on the command line, or None for the run's own.
        data_options: fields of DatasetConfig; None means not said.
        options: fields of ExportConfig; None means not said.
        thresholds: `NAME=NUMBER`.

    Raises:
        UsageError: no dataset is known, or an option is wrong.
    """
    data = eval_config(registry, checkpoint, dataset, data_options, {}).data
    own = {"checkpoint": checkpoint, "data": data, "thresholds": thresholds_from(thresholds)}
    return ExportConfig.from_mapping({**merged(options), **own})
