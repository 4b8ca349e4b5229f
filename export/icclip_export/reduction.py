"""Make reduced precisions from a bundle's float32 graphs, with stricter limits until they pass the gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icclip.bundles.manifest import Tower
from icclip.bundles.parity_record import PrecisionParity, Thresholds, TowerSearch
from icclip.console import Reporter
from icclip_export.gate.calibration import Calibration
from icclip_export.precisions import graph_name
from icclip_export.precisions import precision as find_precision

if TYPE_CHECKING:
    from icclip_export.precisions.search import Found

FIRST_BAR = 0.5
"""Fraction of the thresholds' distance from 1 that the search allows, because the split that decides has worse inputs."""
STRICTER = 0.25
"""Fraction of the rejected error that the next attempt allows."""
ATTEMPTS = 3


@dataclass(frozen=True)
class Reducer:
    """Makes the graphs of a precision from those of float32 in `directory`."""

    directory: Path
    calibrated: Mapping[Tower, Calibration]
    reporter: Reporter

    def reduce(self, precision: str, limits: Thresholds, bar: float = FIRST_BAR) -> dict[Tower, Found]:
        """Make both towers, and return the nodes that stayed in float32."""
        return {tower: self._tower(tower, precision, limits, bar) for tower in self.calibrated}

    def _tower(self, tower: Tower, precision: str, limits: Thresholds, bar: float) -> Found:
        from icclip_export.precisions.conversion import convert

        own = self.calibrated[tower]
        source, target = (self.directory / graph_name(tower, name) for name in ("fp32", precision))
        recipe = find_precision(precision).recipe
        assert recipe is not None, "only a precision with a recipe is made from another"
        found = convert(recipe, source, target, io=own.io, inputs=own.inputs, score=own.score(limits, bar))
        stay = f"{len(found.kept)} nodes stay in fp32" if found.kept else "every node"
        self.reporter.note(f"{precision} {tower}: {stay}, {found.measure.detail} ({found.evaluations} tried)")
        return found

    def reduce_until_passed(
        self,
        precision: str,
        limits: Thresholds,
        check: Callable[[], PrecisionParity],
        attempts: int = ATTEMPTS,
    ) -> PrecisionParity:
        """Reduce and let the gate `check`; if it fails, reduce less. Returns the last result and how it was reached."""
        bar, tried = FIRST_BAR, dict.fromkeys(self.calibrated, 0)
        for attempt in range(1, attempts + 1):
            found = self.reduce(precision, limits, bar)
            tried = {tower: tried[tower] + one.evaluations for tower, one in found.items()}
            result = check()
            if result.passed or attempt == attempts:
                break
            self.reporter.note(f"{precision} did not pass: searching again with stricter limits")
            bar = STRICTER * min(one.measure.error for one in found.values())
        search: dict[str, TowerSearch] = {
            tower: TowerSearch(kept=one.kept, tried=tried[tower]) for tower, one in found.items()
        }
        return dataclasses.replace(result, attempts=attempt, search=search)
