"""The gate against sabotage: every mutant of tests/support/mutants.py is caught, every honest export passes."""

from __future__ import annotations

import dataclasses
import json

import pytest
from support.mutants import HONEST, MUTANTS, TAMPERED, caught_by_hash, check_names, copy_of, gate
from support.subjects import FAMILIES, subject

from icclip.bundles.manifest import check_files, read_manifest


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """(family, seed) -> a trained checkpoint with its bundle, made when first asked for."""
    made = {}

    def get(family, seed=0):
        if (family, seed) not in made:
            made[family, seed] = subject(family, tmp_path_factory.mktemp(family) / "bundle", seed)
        return made[family, seed]

    return get


@pytest.mark.parametrize(
    ("family", "mutant"),
    [pytest.param(family, m, id=f"{family}-{m.name}") for family in FAMILIES for m in MUTANTS if family in m.families],
)
def test_mutant_is_caught(subjects, tmp_path, family, mutant):
    own = subjects(family)
    bundle = copy_of(own, tmp_path)
    mutant.damage(own, subjects(family, 1), bundle)
    # The hashes are right: only the gate can see it.
    check_files(bundle, read_manifest(bundle))
    # Whatever the split holds: on `shapes` nothing is resized, cropped, cut or lower-cased.
    for data in ("scenes", "shapes"):
        result = gate(own, bundle, mutant.limits, mutant.encoder, data)
        assert not result.passed, data
        assert len(result.failures) == len(check_names(result)) > 0


@pytest.mark.parametrize("export", HONEST, ids=[one.name for one in HONEST])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_honest_export_passes(subjects, tmp_path, family, seed, export):
    own = subjects(family, seed)
    bundle = copy_of(own, tmp_path)
    export.damage(own, own, bundle)
    for data in ("scenes", "shapes"):
        result = gate(own, bundle, export.limits, data=data)
        assert result.passed, (data, result.failures)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_probes_the_plain_split_hides_what_it_does_not_exercise(subjects, tmp_path, family):
    own = subjects(family)
    blind = dataclasses.replace(own.references["shapes"], probes=None)
    own = dataclasses.replace(own, references={"shapes": blind})
    bundle = copy_of(own, tmp_path)
    next(one for one in MUTANTS if one.name == "images: Lanczos").damage(own, own, bundle)
    assert gate(own, bundle, data="shapes").passed


def test_a_failure_names_the_probes_and_the_record_says_what_was_exercised(subjects, tmp_path):
    own = subjects("clip")
    bundle = copy_of(own, tmp_path)
    next(one for one in MUTANTS if one.name == "texts: Unicode normalisation lost").damage(own, own, bundle)
    result = gate(own, bundle, data="shapes")
    (line,) = [line for line in result.failures if line.startswith("probes.tokens")]
    assert line.endswith("needs at least 1, at the probe 'accents, decomposed'")
    probes = json.loads(json.dumps(result.measured["probes"]))
    assert not probes["texts"]["accents, decomposed"]["same_tokens"]
    assert probes["texts"]["accents, composed"]["same_tokens"]
    assert probes["images"]["one to three"]["grey_levels"] == 0
    assert min(probes["exercised"].values()) > 0


@pytest.mark.parametrize("name", TAMPERED)
def test_hashes_see_what_was_changed_after_sealing(subjects, tmp_path, name):
    bundle = copy_of(subjects("clip"), tmp_path)
    assert not caught_by_hash(bundle)
    TAMPERED[name](bundle)
    assert caught_by_hash(bundle)


def test_there_are_enough_kinds_of_mutants():
    assert len({mutant.name for mutant in MUTANTS}) + len(TAMPERED) >= 22
