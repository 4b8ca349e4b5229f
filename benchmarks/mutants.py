"""How many broken bundles the gate and the hashes catch, and how many honest exports pass.

    python -m benchmarks.mutants          prints the table and writes mutants.json beside this file

Small encoders of both families are trained for seconds, exported, and broken in every way of
tests/support/mutants.py, each gated on drawn shapes, drawn scenes, generated photographs and, where ICCLIP_TEST_DATA names
a folder that holds it, Flickr8k. Honest checkpoints with the quirks of published ones (benchmarks/support/honest.py) are
exported by the command itself.

    python -m benchmarks.mutants --data NAME    gated on that data alone, into the result that is there; NAME is also
                                                `exported`: the honest checkpoints
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("tests", ".", "plugins", "export")]

from support.mutants import HONEST, MUTANTS, TAMPERED, Mutant, caught_by_hash, copy_of, describe, gate  # noqa: E402  the path comes first
from support.subjects import DATA, FAMILIES, Subject, subject  # noqa: E402

from benchmarks.support.honest import directories  # noqa: E402

Row = dict[str, str | bool]
EXPORTED = "shapes, by icclip export"
FLICKR_IMAGES = 60


def main() -> None:
    """Print and write the table."""
    warnings.simplefilter("ignore")  # The tracer has much to say.
    _with_flickr()
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", choices=[*DATA, "exported"])
    asked = parser.parse_args().data
    target = Path(__file__).with_suffix(".json")
    rows: list[Row] = []
    if asked is not None:
        named = EXPORTED if asked == "exported" else asked
        rows = [row for row in json.loads(target.read_text(encoding="utf-8"))["rows"] if row["data"] != named]
    if asked != "exported":
        on = list(DATA) if asked is None else [asked]
        rows += [row for family in FAMILIES for row in _family(family, on) if asked in (None, row["data"])]
    if asked in (None, "exported"):
        rows += _exported()
    broken, honest = ([row for row in rows if row["honest"] is kind] for kind in (False, True))
    for row in rows:
        print(f"{'ok' if row['right'] else 'WRONG':6}{row['family']:8}{row['data']:12}{row['name']:42}{row['verdict']}")
    caught, passed = (sum(bool(row["right"]) for row in group) for group in (broken, honest))
    print(f"\ncaught {caught} of {len(broken)}; honest exports passed {passed} of {len(honest)}")
    by_data = {
        data: _count([row for row in rows if row["data"] == data])
        for data in dict.fromkeys(row["data"] for row in rows)
    }
    for data, counts in by_data.items():
        print(f"on {data}: {counts}")
    summary = {"caught": caught, "broken": len(broken), "passed": passed, "honest": len(honest), "data": by_data}
    summary |= {"kinds": len({row["name"] for row in broken}), "rows": rows}
    target.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    sys.exit(caught < len(broken) or passed < len(honest))


def _with_flickr() -> None:
    """Photographs with their captions, as another gate dataset."""
    folder = Path(os.environ.get("ICCLIP_TEST_DATA", ROOT.parent / "shared")) / "data/flickr8k"
    if folder.is_dir():
        DATA["flickr8k"] = lambda: _flickr(folder)


def _flickr(folder: Path) -> tuple[list[Any], list[list[str]]]:
    from icclip.config import DatasetConfig
    from icclip.console import Reporter
    from icclip.data.gallery import load_gallery
    from icclip.plugins.registry import Registry

    config = DatasetConfig(name="flickr8k", path=str(folder))
    gallery = load_gallery(Registry(load_plugins=frozenset()), config, "test", Reporter(silent=True))
    captions, offsets = gallery.captions.texts, gallery.captions.offsets
    rows = range(FLICKR_IMAGES)
    return [gallery.images[row] for row in rows], [list(captions[offsets[row] : offsets[row + 1]]) for row in rows]


def _exported() -> Iterator[Row]:
    """Honest checkpoints of every family through `icclip export`, gated on `shapes`; untrained, so without recalls."""
    from icclip.cli import main as icclip

    loose = [f"--threshold={name}=1" for name in ("drop_r1", "drop_r5", "drop_r10")]
    loose += [f"--threshold={name}=0" for name in ("top10_overlap", "centred_min_cosine", "centred_mean_cosine")]
    with tempfile.TemporaryDirectory() as name:
        for quirk, directory in directories(Path(name)):
            arguments = [
                str(directory),
                "-o",
                f"{directory}-bundle",
                "--dataset",
                "shapes",
                "--sample",
                "32",
                "--provider",
                "cpu",
            ]
            try:
                icclip(["export", *arguments, *loose, "--precision", "fp32", "--precision", "int8", "--device", "cpu"])
                code = 0
            except SystemExit as exit_:
                code = exit_.code if isinstance(exit_.code, int) else 1
            verdict = "passed" if code == 0 else f"exit code {code}"
            yield _row(quirk.family, quirk.name, verdict, data=EXPORTED, honest=True, right=code == 0)


def _count(rows: list[Row]) -> str:
    broken, honest = ([row for row in rows if row["honest"] is kind] for kind in (False, True))
    caught, passed = (sum(bool(row["right"]) for row in group) for group in (broken, honest))
    return f"caught {caught} of {len(broken)}, honest exports passed {passed} of {len(honest)}"


def _family(family: str, on: list[str]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        own, other = (subject(family, Path(name) / str(seed), seed) for seed in (0, 1))
        for one in HONEST:
            for data in on:
                # Made for the data that it is gated on, as an export is.
                proven = dataclasses.replace(own, references={"scenes": own.references[data]})
                yield from _gated(proven, other, one, {data: "scenes"}, honest=True)
        for one in (one for one in MUTANTS if family in one.families):
            yield from _gated(own, other, one, {data: data for data in on}, honest=False)
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
