"""What this CPU multiplies integers with."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from icclip.runtime import cpu
from icclip.runtime.cpu import WITHOUT_VNNI, cpu_flags, int8_note, integer_kind


def test_flags_are_those_of_the_first_processor(tmp_path):
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: other\n")
    assert cpu_flags(facts) == {"fpu", "avx2"}
    facts.write_text("processor\t: 0\nBogoMIPS\t: 50\nFeatures\t: fp asimddp\n")
    assert cpu_flags(facts) == {"fp", "asimddp"}
    assert cpu_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("flags", "kind", "said"),
    [
        ("avx2 avx512bw avx512_vnni amx_int8", "amx", False),
        ("avx2 avx512bw avx512_vnni", "vnni", False),
        ("avx2 avx_vnni", "vnni", False),
        ("avx2 avx512bw", "avx512", True),
        ("sse2 avx avx2", "avx2", True),
        ("fp asimd asimddp i8mm", "arm i8mm", False),
        ("fp asimd asimddp", "arm dot product", False),
    ],
)
def test_the_best_instructions_for_integers_decide(flags, kind, said):
    assert integer_kind(flags.split()) == kind
    assert int8_note(flags.split()) == (WITHOUT_VNNI if said else None)


def test_where_the_system_does_not_tell_the_machine_is_named_and_nothing_said(monkeypatch):
    monkeypatch.setattr(cpu, "cpu_flags", frozenset)
    assert integer_kind() == platform.machine()
    assert int8_note() is None


def test_weights_of_seven_bits_cannot_saturate():
    """Why nothing but speed is lost: kernels without VNNI add two products of 8 bits in 16 bits."""
    largest = 2 * 255 * 64
    assert largest <= np.iinfo(np.int16).max < 2 * 255 * 127
