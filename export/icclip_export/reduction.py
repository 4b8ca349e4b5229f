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
from icclip.files import staging_directory
from icclip_export.gate.calibration import Calibration
from icclip_export.precisions import graph_name
from icclip_export.precisions import precision as find_precision

if TYPE_CHECKING:
    from icclip_export.precisions.conversion import Conversion
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

    def reduce_until_passed(
        self,
        precision: str,
        limits: Thresholds,
        check: Callable[[], PrecisionParity],
        attempts: int = ATTEMPTS,
    ) -> PrecisionParity:
        """Reduce and let the gate `check`; if it fails, reduce less. Returns the last result and how it was reached.

        Only a tower that the failure is about is made again, each of them `attempts` times in all: the other one would lose
        nodes for nothing.
        """
        # Beside the bundle, which the gate reads meanwhile.
        with staging_directory(self.directory) as folder:
            conversions = {tower: self._conversion(tower, precision, limits, folder) for tower in self.calibrated}
            found = {tower: self._search(precision, tower, one, FIRST_BAR) for tower, one in conversions.items()}
            searches = dict.fromkeys(conversions, 1)
            result = check()
            attempt = 1
            while not result.passed:
                blamed = to_blame(result, {tower: one.measure.error for tower, one in found.items()})
                again = [tower for tower in blamed if searches[tower] < attempts]
                if not again:
                    break
                attempt += 1
                names = " and ".join(f"the {tower} tower" for tower in again)
                self.reporter.note(f"{precision} did not pass: searching {names} again with stricter limits")
                for tower in again:
                    searches[tower] += 1
                    bar = STRICTER * found[tower].measure.error
                    found[tower] = self._search(precision, tower, conversions[tower], bar)
                result = check()
        search: dict[str, TowerSearch] = {
            tower: TowerSearch(kept=one.kept, tried=conversions[tower].tried) for tower, one in found.items()
        }
        return dataclasses.replace(result, attempts=attempt, search=search)

    def _conversion(self, tower: Tower, precision: str, limits: Thresholds, folder: Path) -> Conversion:
        from icclip_export.precisions.conversion import Conversion

        own = self.calibrated[tower]
        source, target = (self.directory / graph_name(tower, name) for name in ("fp32", precision))
        recipe = find_precision(precision).recipe
        assert recipe is not None, "only a precision with a recipe is made from another"
        return Conversion(recipe, source, target, io=own.io, inputs=own.inputs, score=own.score(limits), folder=folder)

    def _search(self, precision: str, tower: Tower, conversion: Conversion, bar: float) -> Found:
        found = conversion.search(bar)
        stay = f"{len(found.kept)} nodes stay in fp32" if found.kept else "every node"
        self.reporter.note(f"{precision} {tower}: {stay}, {found.measure.detail} ({found.evaluations} tried)")
        return found


def to_blame(result: PrecisionParity, errors: Mapping[Tower, float]) -> list[Tower]:
    """The towers whose own numbers failed, or else the one that is further from torch.

    Args:
        result: of the gate, which did not pass.
        errors: the distance of each tower from torch.
    """
    failed = [
        check["name"].removeprefix("probes.") for check in result.measured.get("checks", ()) if not check["passed"]
    ]
    own = [tower for tower in errors if any(name.startswith(f"{tower}.") for name in failed)]
    return own or [max(errors, key=lambda tower: errors[tower])]
