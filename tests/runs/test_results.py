from __future__ import annotations

import json

import pytest

from icclip.errors import UsageError
from icclip.runs.results import metric_path, write_metrics

ABOUT = {"checkpoint": ".", "dataset": "shapes", "split": "test"}


def test_metrics_are_written_in_order_with_what_they_are_about_last(tmp_path):
    path = metric_path(tmp_path / "new", "test")
    write_metrics(path, {"i2t_R@1": 0.5, "n_images": 2.0}, ABOUT)
    assert path.name == "test_metric.json"
    assert list(json.loads(path.read_text()).items()) == [("i2t_R@1", 0.5), ("n_images", 2.0), ("about", ABOUT)]


def test_the_same_measurement_is_replaced(tmp_path):
    path = metric_path(tmp_path, "test")
    for value in (0.5, 0.6):
        write_metrics(path, {"i2t_R@1": value}, ABOUT)
    assert json.loads(path.read_text())["i2t_R@1"] == 0.6


@pytest.mark.parametrize(("key", "value"), [("dataset", "flickr8k"), ("checkpoint", "/other"), ("split", "train")])
def test_numbers_of_something_else_are_kept(tmp_path, key, value):
    path = metric_path(tmp_path, "test")
    write_metrics(path, {"i2t_R@1": 0.5}, {**ABOUT, key: value})
    with pytest.raises(
        UsageError, match=rf"test_metric.json holds the metrics of {key} {value.removeprefix('/')}.*: .*--output-dir"
    ):
        write_metrics(path, {"i2t_R@1": 0.1}, ABOUT)
    assert json.loads(path.read_text())["i2t_R@1"] == 0.5


@pytest.mark.parametrize("content", ['{"i2t_R@1": 0.9}', "[]", '{"about": 3}'])
def test_a_file_that_does_not_say_what_it_is_about_is_replaced(tmp_path, content):
    path = metric_path(tmp_path, "test")
    path.write_text(content)
    write_metrics(path, {"i2t_R@1": 0.1}, ABOUT)
    assert json.loads(path.read_text())["about"] == ABOUT


def test_a_file_that_is_no_json_is_named(tmp_path):
    path = metric_path(tmp_path, "test")
    path.write_text("{")
    with pytest.raises(UsageError, match=r"test_metric.json exists and is not JSON"):
        write_metrics(path, {}, ABOUT)


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot (read|write)"):
        write_metrics(metric_path(tmp_path / "file", "test"), {}, ABOUT)
    metric_path(tmp_path, "test").mkdir()
    with pytest.raises(UsageError, match=r"cannot read the earlier metrics .*: Is a directory"):
        write_metrics(metric_path(tmp_path, "test"), {}, ABOUT)
