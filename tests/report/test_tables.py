from __future__ import annotations

import io

import pytest
from rich.console import Console

from icclip.report.tables import Bar, metrics_table

METRICS = {
    "i2t_R@1": 0.0, "i2t_R@5": 0.5, "i2t_R@10": 1.0, "i2t_MedR": 5.0, "i2t_MeanR": 12.34,
    "t2i_R@1": 0.123, "t2i_R@5": 0.25, "t2i_R@10": 0.375, "t2i_MedR": 17.0, "t2i_MeanR": 120.5,
    "n_images": 1000.0, "n_texts": 5000.0, "rsum": 224.8,
}  # fmt: skip
INTERVALS = {"confidence_95": {"t2i_R@1": [0.1, 0.15], "rsum": [200.0, 250.5]}}


def shown(renderable, width, encoding="utf-8"):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=width).print(renderable)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 120])
def test_all_numbers_fit_the_terminal(width):
    text = shown(metrics_table({**METRICS, **INTERVALS}, "flickr8k, test"), width)
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "flickr8k, test: 1,000 images, 5,000 captions",
        *("12.3 %", "10.0 .. 15.0 %", "100.0 %", "median 5, mean 12.3", "median 17, mean 120.5", "224.8"),
        "200.0 .. 250.5",
    ):
        assert part in text


def test_without_intervals_there_is_no_column_for_them():
    assert "interval" not in shown(metrics_table(METRICS, "shapes, test"), 80)


def test_bars_grow_with_the_value():
    assert [shown(Bar(f), 8).strip() for f in (0, 1 / 64, 0.5, 1)] == ["", "▏", "████", "████████"]


def test_bars_in_a_terminal_that_knows_only_ascii():
    assert shown(Bar(0.5), 8, "ascii").strip() == "####"
    assert "#" in shown(metrics_table(METRICS, "shapes, test"), 80, "ascii")


def test_metrics_of_plugins_are_shown_with_their_intervals():
    metrics = {**METRICS, **INTERVALS, "t2i_worst": 17.25, "i2t_MedR_optimistic": 4.0}
    metrics["confidence_95"] = {**metrics["confidence_95"], "t2i_worst": [15.0, 20.0]}
    text = shown(metrics_table(metrics, "shapes, test"), 100)
    (line,) = (line for line in text.splitlines() if "t2i_worst" in line)
    assert line.split() == ["from", "plugins", "t2i_worst", "17.25", "15", "..", "20"]
    assert "optimistic" not in text
