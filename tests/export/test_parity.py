from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from icclip.bundles.parity_record import ParityRecord, TowerSearch
from icclip.errors import CheckpointError, DataError, UnknownNameError, UsageError
from icclip.report.parity_table import parity_tables
from icclip.retrieval.captions import CaptionMap
from icclip.runtime.sessions import Session
from icclip_export.gate.checks import Requirement, number, recall_tolerance
from icclip_export.gate.comparison import Compared, Reference, Scoring
from icclip_export.gate.parity import check_precision, parity_record
from icclip_export.gate.thresholds import thresholds_for
from icclip_export.precisions import COMPUTED, NAMES
from icclip_export.precisions import precision as find_precision

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
    manifest = SimpleNamespace(loss="sigmoid", logit_scale=2.0, logit_bias=-10.0)

    def __init__(self, damage=lambda rows: rows, meant="cpu", ran="CPUExecutionProvider"):
        self.damage, self.meant, self.ran = damage, meant, ran

    def session(self, tower):
        return Session(SimpleNamespace(get_providers=lambda: [self.ran]), None, self.meant)

    def encode_images(self, images, *, batch_size=32):
        rows = np.stack([OF_IMAGE[image.getpixel((0, 0))[0]] for image in images])
        return np.concatenate(
            [_unit(self.damage(rows[start : start + batch_size])) for start in range(0, len(rows), batch_size)]
        )

    def encode_texts(self, texts, *, batch_size=32):
        return _unit(np.stack([OF_TEXT.get(text, OF_IMAGE[0]) for text in texts]))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _turn_third(rows):
    turned = rows.copy()
    if len(rows) > 3:
        turned[3] = -turned[3]
    return turned


def _gate(candidate, precision="fp32", *, provider=None, sample=N, seed=42):
    reference = Reference.of(Fake(), Scoring("sigmoid", 2.0, -10.0), Compared.of(IMAGES, CAPTIONS, sample, seed))
    limits = thresholds_for(precision)
    result = check_precision(reference, lambda _: candidate, precision, limits=limits, provider=provider)
    return parity_record(reference, [result], dataset="shapes", split="test", seed=seed)


def test_the_same_encoder_passes_and_is_recorded():
    record = _gate(Fake())
    assert (record.n_images, record.n_texts, record.smoke, record.dataset) == (N, 2 * N, True, "shapes")
    result = record.results[0]
    assert (result.passed, result.failures, result.provider) == (True, (), "cpu")
    assert result.metrics == record.reference
    assert result.thresholds == find_precision("fp32").limits
    as_json = json.loads(json.dumps(record.to_mapping()))
    assert ParityRecord.from_mapping(as_json).to_mapping() == as_json
    assert (record.passed, record.failures) == (True, [])


def test_a_failure_names_tower_input_and_distance():
    record = _gate(Fake(_turn_third))
    lines = record.results[0].failures
    assert lines[0].startswith("vision.cosine is -1, needs at least 0.999999, at image 3; ")
    assert not any(line.startswith("text.") for line in lines)
    assert not record.passed
    (line,) = record.failures
    assert re.fullmatch(r"fp32 on cpu: vision.cosine is -1, .* more, see parity.json\)", line)


def test_rows_of_a_sample_are_those_of_the_split():
    record = _gate(Fake(_turn_third), sample=10, seed=1)
    rows = Compared.of(IMAGES, CAPTIONS, 10, 1).rows
    assert record.n_images == 10
    assert f"at image {rows[3]};" in record.results[0].failures[0]


def test_text_is_named_by_caption_and_image():
    data = Compared.of(IMAGES, CAPTIONS, 10, 1)
    assert data.text_name(7) == f"caption 1 of image {data.rows[3]} 'another of {data.rows[3]}, longer'"


def test_a_provider_that_did_not_run_fails():
    failures = _gate(Fake(meant="cuda"), provider="cuda").results[0].failures
    assert "CPUExecutionProvider instead of CUDAExecutionProvider" in failures[0]
    failures = _gate(Fake(), provider="cuda").results[0].failures
    assert "cpu instead of cuda" in failures[0]


@pytest.mark.parametrize(
    ("changed", "failure"),
    [
        ({"logit_scale": 2.1}, "scoring.logit_scale is 0.1, needs at most 1.0e-06"),
        ({"logit_bias": None}, "scoring.logit_bias is 10, needs at most 1.0e-06"),
        ({"loss": "softmax"}, "scoring.loss is 0, needs at least 1, at softmax instead of sigmoid"),
    ],
)
def test_scores_are_made_as_the_checkpoint_makes_them(changed, failure):
    candidate = Fake()
    candidate.manifest = SimpleNamespace(**{**vars(Fake.manifest), **changed})
    assert _gate(candidate).results[0].failures == (failure,)


def test_a_bundle_that_does_not_run_fails_with_its_own_words():
    def broken(rows):
        raise CheckpointError("the graph is broken")

    result = _gate(Fake(broken)).results[0]
    assert (result.passed, result.failures) == (False, ("does not run: the graph is broken",))


def test_embeddings_of_another_width_fail():
    class Narrow(Fake):
        def encode_texts(self, texts, *, batch_size=32):
            return super().encode_texts(texts)[:, :8]

    assert "8 values, but the checkpoint's have 16" in _gate(Narrow()).results[0].failures[0]


def drawn_towards_each_other(rows):
    """As activations that are quantized with one scale for a batch make them: a row depends on those beside it."""
    return rows + 0.02 * rows.mean(axis=0) if len(rows) > 1 else rows


def test_a_row_that_moves_with_its_neighbours_fails():
    """Every cosine is within the precision's limits; the same input gives another embedding in another batch."""
    result = _gate(Fake(drawn_towards_each_other), "int8").results[0]
    assert [line.partition(" ")[0] for line in result.failures] == ["vision.neighbours"]
    assert re.search(r"needs at most 1.0e-03, at image \d+$", result.failures[0])
    moved = result.measured["neighbours"]["vision"]
    assert moved["as_served"] == moved["in_a_batch"] > 1e-3


def test_a_row_that_is_served_alone_does_not_move():
    candidate = Fake(drawn_towards_each_other)
    candidate.rows_alone = True
    result = _gate(candidate, "int8").results[0]
    assert result.passed
    moved = result.measured["neighbours"]
    assert moved["vision"]["as_served"] == moved["text"]["as_served"] == 0
    assert moved["vision"]["in_a_batch"] > 1e-3, "the record says what the policy prevents"


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="holds no image"):
        Compared.of([], CaptionMap.from_lists([]), 10, 0)


def test_nan_keeps_to_no_limit():
    assert not Requirement("a", float("nan"), 0.5, at_least=True).passed
    assert not Requirement("a", float("nan"), 0.5, at_least=False).passed


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
    assert row == replace(find_precision("int8").limits, min_cosine=0.9, top10_overlap=None)


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
    rows = [find_precision(name).limits for name in (*NAMES[:2], *COMPUTED, *NAMES[2:])]
    assert [r.min_cosine for r in rows] == sorted((r.min_cosine for r in rows), reverse=True)
    assert [r.drop_r1 for r in rows] == sorted(r.drop_r1 for r in rows)


def printed(record, capsys, **options):
    for table in parity_tables(record, **options):
        Console(width=80).print(table)
    return capsys.readouterr().out


def all_wrong():
    """What prints widest: everything at its worst, and marked."""
    record = _gate(Fake(_turn_third))
    measured = copy.deepcopy(dict(record.results[0].measured))
    for check in measured["checks"]:
        check["passed"] = False
    metrics = dict.fromkeys(record.reference, 0.0)
    result = replace(record.results[0], metrics=metrics, measured=measured)
    return replace(record, reference=dict.fromkeys(record.reference, 1.0), results=(result,))


@pytest.mark.parametrize(
    "record",
    [lambda: _gate(Fake()), lambda: _gate(Fake(lambda rows: rows * np.nan)), all_wrong],
    ids=["good", "nan", "wrong"],
)
def test_the_table_fits_80_columns(record, capsys):
    text = printed(record(), capsys)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "fp32 on cpu" in text
    assert "smoke" in text


def test_the_table_marks_what_failed(capsys):
    text = printed(_gate(Fake(_turn_third)), capsys)
    assert "failed" in text
    assert "at image 3" in text
    (row,) = [line for line in text.splitlines() if line.lstrip().startswith("lowest cosine  ")]
    assert row.split() == ["lowest", "cosine", "-1.0000000", "✗", "1.0000000", "≥", "0.9999990"]


def test_the_table_shows_what_is_held_to_nothing_too(capsys):
    rows = [line.split() for line in printed(_gate(Fake(), "int8"), capsys).splitlines()]
    assert ["largest", "difference", "0.0e+00", "0.0e+00"] in rows
    assert ["changed", "first", "answers", "0", "0"] in rows
    metrics = _gate(Fake()).reference
    change = [f"{100 * metrics[f'{direction}_R@1']:.2f} (+0.00)".split() for direction in ("i2t", "t2i")]
    assert ["R@1", "in", "%,", "and", "its", "change", *change[0], *change[1], "≤", "2.50"] in rows


def test_the_table_says_what_it_took(capsys):
    record = _gate(Fake(), "int8")
    search = {"vision": TowerSearch(kept=("a", "b", "c", "d"), tried=9), "text": TowerSearch(tried=2)}
    record = replace(record, results=(replace(record.results[0], attempts=2, search=search),))
    again = ParityRecord.from_mapping(json.loads(json.dumps(record.to_mapping())))
    assert again.results[0].search == search
    text = " ".join(printed(again, capsys, sizes={"int8": 1_234_567}).split())
    assert "1.2 MB vision: 4 nodes stay in fp32 (a, b, c, ...); graphs tried: 9, attempts: 2" in text
    assert "text: no node stays in fp32; graphs tried: 2, attempts: 2" in text
