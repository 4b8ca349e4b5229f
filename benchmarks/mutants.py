"""How many broken bundles the gate and the hashes catch, and how many honest exports pass.

    python -m benchmarks.mutants          prints the table and writes mutants.json beside this file

Small encoders of both families are trained for seconds, exported, and broken in every way of
tests/support/mutants.py.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("tests", ".", "plugins", "export")]

from support.mutants import HONEST, MUTANTS, TAMPERED, Mutant, caught_by_hash, copy_of, describe, gate  # noqa: E402  the path comes first
from support.subjects import DATA, FAMILIES, Subject, subject  # noqa: E402

Row = dict[str, str | bool]


def main() -> None:
    """Print and write the table."""
    warnings.simplefilter("ignore")  # The tracer has much to say.
    rows = [row for family in FAMILIES for row in _family(family)]
    broken, honest = ([row for row in rows if row["honest"] is kind] for kind in (False, True))
    for row in rows:
        print(f"{'ok' if row['right'] else 'WRONG':6}{row['family']:8}{row['data']:12}{row['name']:42}{row['verdict']}")
    caught, passed = (sum(bool(row["right"]) for row in group) for group in (broken, honest))
    print(f"\ncaught {caught} of {len(broken)}; honest exports passed {passed} of {len(honest)}")
    by_data = {data: _count([row for row in rows if row["data"] == data]) for data in (*DATA, "any")}
    for data, counts in by_data.items():
        print(f"on {data}: {counts}")
    summary = {"caught": caught, "broken": len(broken), "passed": passed, "honest": len(honest), "data": by_data}
    summary |= {"kinds": len({row["name"] for row in broken}), "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    sys.exit(caught < len(broken) or passed < len(honest))


def _count(rows: list[Row]) -> str:
    broken, honest = ([row for row in rows if row["honest"] is kind] for kind in (False, True))
    caught, passed = (sum(bool(row["right"]) for row in group) for group in (broken, honest))
    return f"caught {caught} of {len(broken)}, honest exports passed {passed} of {len(honest)}"


def _family(family: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        own, other = (subject(family, Path(name) / str(seed), seed) for seed in (0, 1))
        for one in HONEST:
            for data in DATA:
                # Made for the data that it is gated on, as an export is.
                on = dataclasses.replace(own, references={"scenes": own.references[data]})
                yield from _gated(on, other, one, {data: "scenes"}, honest=True)
        for one in (one for one in MUTANTS if family in one.families):
            yield from _gated(own, other, one, {data: data for data in DATA}, honest=False)
        yield from _tampered(own)


def _gated(own: Subject, other: Subject, one: Mutant, named: dict[str, str], *, honest: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        bundle = copy_of(own, Path(place))
        one.damage(own, other, bundle)
        results = {data: gate(own, bundle, one.limits, one.encoder, key) for data, key in named.items()}
    for data, result in results.items():
        right = result.passed is honest
        yield _row(own.family, one.name, describe(result), data=data, honest=honest, right=right)


def _tampered(own: Subject) -> Iterator[Row]:
    for name, damage in TAMPERED.items():
        with tempfile.TemporaryDirectory() as place:
            bundle = copy_of(own, Path(place))
            damage(bundle)
            caught = caught_by_hash(bundle)
        yield _row(own.family, name, "hash" if caught else "not seen", data="any", honest=False, right=caught)


def _row(family: str, name: str, verdict: str, *, data: str, honest: bool, right: bool) -> Row:
    return {"family": family, "name": name, "data": data, "verdict": verdict, "honest": honest, "right": right}


if __name__ == "__main__":
    main()
