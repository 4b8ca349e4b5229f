from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from icclip.data.captions import CaptionMap
from icclip.errors import CheckpointError, DataError, GateError, UnknownNameError, UsageError
from icclip.report.parity_table import parity_tables
from icclip.runtime.parity_record import ParityRecord
from icclip_export import parity
from icclip_export.parity import Check, Compared, number, recall_tolerance, run_gate
from icclip_export.thresholds import DEFAULTS, thresholds_for

N = 40
CAPTIONS = CaptionMap.from_lists([[f"caption of {i}", f"another of {i}, longer"] for i in range(N)])
IMAGES = [Image.new("RGB", (4, 4), (i, 2 * i, 3 * i)) for i in range(N)]
RNG = np.random.default_rng(0)
OF_IMAGE = RNG.normal(size=(N, 16)).astype(np.float32)
OF_TEXT = {text: OF_IMAGE[i // 2] + RNG.normal(size=16).astype(np.float32) / 3 for i, text in enumerate(CAPTIONS.texts)}


class Fake:
    """An encoder that looks its embeddings up; `damage` changes those of some rows."""

    description = "fake"
    choice = SimpleNamespace(provider="cpu")

    def __init__(self, damage=lambda rows: rows, ran="CPUExecutionProvider"):
        self.damage, self.ran = damage, ran

    def session(self, tower):
        return SimpleNamespace(session=SimpleNamespace(get_providers=lambda: [self.ran]))

    def encode_images(self, images, *, batch_size=32):
        rows = np.stack([OF_IMAGE[image.getpixel((0, 0))[0]] for image in images])
        return _unit(self.damage(rows))

    def encode_texts(self, texts, *, batch_size=32):
        return _unit(np.stack([OF_TEXT.get(text, OF_IMAGE[0]) for text in texts]))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _turn_third(rows):
    turned = rows.copy()
    if len(rows) > 3:
        turned[3] = -turned[3]
    return turned


def _gate(candidate, precision="fp32", **options):
    return run_gate(
        Fake(), lambda _: candidate, IMAGES, CAPTIONS,
        precisions=[precision], thresholds={precision: thresholds_for(precision)}, **options,
    )  # fmt: skip


def test_the_same_encoder_passes_and_is_recorded():
    record = _gate(Fake(), dataset="shapes", split="test")
    assert (record.n_images, record.n_texts, record.smoke, record.dataset) == (N, 2 * N, True, "shapes")
    result = record.results[0]
    assert (result.passed, result.failures, result.provider) == (True, (), "cpu")
    assert result.metrics == record.reference
    assert result.thresholds == DEFAULTS["fp32"]
    as_json = json.loads(json.dumps(record.to_mapping()))
    assert ParityRecord.from_mapping(as_json).to_mapping() == as_json
    parity.raise_if_failed(record)


def test_a_failure_names_tower_input_and_distance():
    record = _gate(Fake(_turn_third))
    lines = record.results[0].failures
    assert lines[0].startswith("vision.cosine is -1, needs at least 0.999999, at image 3; ")
    assert not any(line.startswith("text.") for line in lines)
    with pytest.raises(GateError, match=r"^fp32 on cpu: vision.cosine is -1, .* more, see parity.json\)$"):
        parity.raise_if_failed(record)


def test_rows_of_a_sample_are_those_of_the_split():
    record = _gate(Fake(_turn_third), sample=10, seed=1)
    rows = Compared.of(IMAGES, CAPTIONS, 10, 1).rows
    assert record.n_images == 10
    assert f"at image {rows[3]};" in record.results[0].failures[0]


def test_text_is_named_by_caption_and_image():
    data = Compared.of(IMAGES, CAPTIONS, 10, 1)
    assert data.text_name(7) == f"caption 1 of image {data.rows[3]} 'another of {data.rows[3]}, longer'"


def test_a_provider_that_did_not_run_fails():
    failures = _gate(Fake(ran="CPUExecutionProvider"), provider="cuda").results[0].failures
    assert "CPUExecutionProvider instead of CUDAExecutionProvider" in failures[0]


def test_a_bundle_that_does_not_run_fails_with_its_own_words():
    def broken(rows):
        raise CheckpointError("the graph is broken")

    result = _gate(Fake(broken)).results[0]
    assert (result.passed, result.failures) == (False, ("does not run: the graph is broken",))


def test_embeddings_of_another_width_fail():
    class Narrow(Fake):
        def encode_texts(self, texts, *, batch_size=32):
            return super().encode_texts(texts)[:, :8]

    assert "8 values, the checkpoint's 16" in _gate(Narrow()).results[0].failures[0]


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="holds no image"):
        Compared.of([], CaptionMap.from_lists([]), 10, 0)


def test_nan_keeps_to_no_limit():
    assert not Check("a", float("nan"), 0.5, at_least=True).passed
    assert not Check("a", float("nan"), 0.5, at_least=False).passed


def test_recall_may_move_by_the_table_or_one_query():
    assert recall_tolerance(0.01, 1000, 50, smoke=False) == pytest.approx(0.01, abs=1e-8)
    assert recall_tolerance(0.001, 200, 0, smoke=False) == pytest.approx(1 / 200, abs=1e-8)


def test_in_a_smoke_test_recall_may_move_by_chance():
    # Four of 100 queries changed: 2.576 x 2 of them may have gone the same way.
    assert recall_tolerance(0.001, 100, 4, smoke=True) == pytest.approx(0.05152, abs=1e-8)


def test_numbers_keep_the_digits_that_count():
    assert [number(v) for v in (0.9999987, 1.0, 3.2e-5, -0.25, 0.0)] == ["0.9999987", "1", "3.2e-05", "-0.25", "0"]


def test_thresholds_can_be_loosened_tightened_and_left_out():
    row = thresholds_for("int8", {"min_cosine": 0.9, "top10_overlap": None})
    assert row == replace(DEFAULTS["int8"], min_cosine=0.9, top10_overlap=None)


@pytest.mark.parametrize(
    ("precision", "overrides", "error", "message"),
    [
        ("int7", {}, UnknownNameError, "unknown precision 'int7'; did you mean 'int8'"),
        ("int8", {"min_cosin": 0.9}, UnknownNameError, "unknown threshold 'min_cosin'; did you mean 'min_cosine'"),
        ("int8", {"min_cosine": 1.5}, UsageError, "threshold min_cosine is 1.5: give a number from 0 to 1"),
        ("int8", {"drop_r1": None}, UsageError, "threshold drop_r1 cannot be left out"),
    ],
)
def test_bad_thresholds_are_refused(precision, overrides, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(")):
        thresholds_for(precision, overrides)


def test_each_row_is_looser_than_the_one_before():
    rows = [DEFAULTS[name] for name in ("fp32", "fp16", "int8")]
    assert [r.min_cosine for r in rows] == sorted((r.min_cosine for r in rows), reverse=True)
    assert [r.drop_r1 for r in rows] == sorted(r.drop_r1 for r in rows)


@pytest.mark.parametrize("candidate", [Fake(), Fake(_turn_third), Fake(lambda rows: rows * np.nan)])
def test_the_table_fits_80_columns(candidate, capsys):
    console = Console(width=80)
    for table in parity_tables(_gate(candidate)):
        console.print(table)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "fp32 on cpu" in text
    assert "smoke" in text


def test_the_table_marks_what_failed(capsys):
    for table in parity_tables(_gate(Fake(_turn_third))):
        Console(width=80).print(table)
    text = capsys.readouterr().out
    assert "failed" in text
    assert "at image 3" in text
