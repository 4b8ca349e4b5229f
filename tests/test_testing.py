"""The conformance kit finds what is wrong; that it passes what is right is tests/contracts' and the example's part."""

from __future__ import annotations

import dataclasses
import io

import pytest
import sample_plugin
from datasets import Dataset, DatasetDict, Image
from PIL import Image as PillowImage

from icclip.config import DatasetConfig
from icclip.errors import DataError, UnknownNameError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import BackendSpec, DatasetSpec, MetricSpec, TextPolicy
from icclip.testing import ConformanceError, check_backend, check_by_name, check_dataset, check_metric, check_plugin


def png(colour="red") -> bytes:
    file = io.BytesIO()
    PillowImage.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


def split(image=None, captions=("a red thing",), **columns) -> Dataset:
    content = png() if image is None else image
    rows = [{"image": {"bytes": content, "path": None}, "captions": list(captions), **columns}] * 2
    return Dataset.from_list(rows).cast_column("image", Image())


def dataset(load, **fields) -> DatasetSpec:
    return DatasetSpec(name="sample", summary="for a test", load=load, **fields)


def refused(check, *arguments) -> str:
    with pytest.raises(ConformanceError) as caught:
        check(*arguments)
    return str(caught.value)


def test_a_good_dataset_passes():
    checks = check_dataset(dataset(lambda config: DatasetDict(train=split())))
    assert {check.status for check in checks} == {"ok"}
    assert [check.what for check in checks][-2:] == ["images decode", "loads the same again"]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda config: [split()], "load: TypeError: returned list: return a datasets.DatasetDict"),
        (lambda config: DatasetDict(val=split()), "split 'val': call it one of train, validation, test"),
        (lambda config: DatasetDict(), "splits: ValueError: the dataset has no splits"),
        (lambda config: DatasetDict(train=split().select([])), "split 'train' has no rows: leave it out"),
        (lambda config: DatasetDict(train=split(extra=1)), "has the columns captions, extra, image: give exactly"),
        (
            lambda config: DatasetDict(train=Dataset.from_list([{"image": "a.jpg", "captions": ["a"]}])),
            "the feature of image is",
        ),
        (lambda config: DatasetDict(train=split(captions=())), "split 'train' row 0: captions is"),
        (lambda config: DatasetDict(train=split(captions=("a", " "))), "a caption is empty or not a string"),
        (lambda config: DatasetDict(train=split(image=b"no image")), "images decode: DataError"),
        (lambda config: 1 / 0, "load: ZeroDivisionError"),
    ],
)
def test_a_bad_dataset_is_told_why(load, message):
    assert message in refused(check_dataset, dataset(load))


def test_a_dataset_that_changes_is_found():
    colours = iter(["red", "blue", "green", "white", "black"])
    spec = dataset(lambda config: DatasetDict(train=split(image=png(next(colours)))))
    assert "loads the same again: ValueError: split 'train' differs" in refused(check_dataset, spec)


def test_a_dataset_without_its_path_is_skipped_and_says_so():
    def load(config):
        if config.path is None:
            raise DataError("which file?")
        return DatasetDict(train=split())

    spec = dataset(load, takes_path=True)
    (check,) = [check for check in check_dataset(spec) if check.status == "skipped"]
    assert check.detail == "without a path it says: which file?; give one with --path"
    assert {c.status for c in check_dataset(spec, DatasetConfig(name="sample", path="x"))} == {"ok"}
    assert "which file?" in refused(check_dataset, dataset(load))


def test_what_lacks_a_dependency_is_skipped():
    checks = check_dataset(dataset(len, requires=("not_there",), install="pip install it"))
    assert [(c.status, c.detail) for c in checks][-1] == ("skipped", "needs not_there: pip install it")


def test_fields_and_summary_are_checked():
    message = refused(check_metric, MetricSpec(name="a/b", summary="two\nlines", compute=len))
    assert "name is 'a/b'" in message
    assert "say in one line what it is" in message


def metric(compute) -> MetricSpec:
    return MetricSpec(name="sample", summary="for a test", compute=compute)


def test_a_good_metric_passes():
    checks = check_metric(metric(lambda ranks: {"mean": float(ranks.t2i.mean())}))
    assert {check.status for check in checks} == {"ok"}


def write_into(ranks):
    ranks.t2i[:] = 0
    return {"a": 1.0}


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda ranks: 3.0, "returned 3.0: return a mapping"),
        (lambda ranks: {}, "returned {}: return a mapping"),
        (lambda ranks: {"a": float("nan")}, "'a' is nan: expected a name and a finite float"),
        (lambda ranks: {"a": "high"}, "'a' is 'high'"),
        (lambda ranks: {1: 1.0}, "1 is 1.0"),
        (lambda ranks: {f"at {ranks.t2i.max()}": 1.0}, "the same keys whatever the ranks"),
        (write_into, "read-only"),
    ],
)
def test_a_bad_metric_is_told_why(compute, message):
    assert message in refused(check_metric, metric(compute))


@pytest.fixture(scope="module")
def clip() -> BackendSpec:
    return Registry(load_plugins=frozenset()).backend("clip")


@pytest.mark.slow
def test_a_good_backend_passes(clip):
    checks = check_backend(clip)
    assert {check.status for check in checks} == {"ok", "skipped"}
    assert "preset clip-tiny: reloads exactly" in [check.what for check in checks]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unwrap": lambda output: output}, "given an output with pooler_output it does not return the tensor"),
        ({"model_types": ("other",)}, "'clip' is not among its model_types ('other',)"),
        ({"text_policy": lambda config, tokenizer: "longest"}, "text_policy returned str"),
        (
            {"text_policy": lambda config, tokenizer: TextPolicy(padding="never", max_length=8)},
            "give padding 'longest' or 'max_length'",
        ),
    ],
)
def test_a_bad_backend_is_told_why(clip, change, message):
    assert message in refused(check_backend, dataclasses.replace(clip, **change))


def test_a_bad_preset_is_told_why(clip):
    (preset,) = clip.presets
    broken = dataclasses.replace(preset, build=lambda config, captions: 1 / 0, defaults={"learning": 1})
    message = refused(check_backend, dataclasses.replace(clip, presets=(broken,)))
    assert "'learning' is not a training option" in message
    assert "preset clip-tiny: builds: ZeroDivisionError" in message


def test_a_checkpoint_that_does_not_load(clip, tmp_path):
    spec = dataclasses.replace(clip, presets=())
    assert "loads a checkpoint: CheckpointError" in refused(check_backend, spec, str(tmp_path))


# Plugins


def test_a_plugin_by_module_and_by_name():
    assert {check.status for check in check_plugin("icclip_plugins.metrics.ranking")} == {"ok"}
    message = refused(check_plugin, sample_plugin)
    assert "dataset a-dataset: load: TypeError" in message
    assert refused(check_plugin, "sample_plugin") == message


def test_a_heavy_import_is_found(tmp_path, monkeypatch):
    (tmp_path / "heavy_plugin.py").write_text("import pyarrow\nfrom sample_plugin import icclip_datasets\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = refused(check_plugin, "heavy_plugin")
    assert "imports nothing heavy: ValueError: importing heavy_plugin imports pyarrow" in message


def test_checks_by_name_of_a_plugin_a_spec_or_a_preset():
    registry = Registry(default_plugins=("sample_plugin",), load_plugins=frozenset())
    for name in ("sample_plugin", "a-dataset", "built in"):
        assert "a-dataset" in "".join(check.subject for check in check_by_name(registry, name))
    with pytest.raises(UnknownNameError, match="unknown plugin 'a-datase'; did you mean 'a-dataset'"):
        check_by_name(registry, "a-datase")


def test_commands_need_a_name_and_a_docstring(tmp_path, monkeypatch):
    (tmp_path / "silent_plugin.py").write_text(
        "from icclip import hookimpl\n@hookimpl\ndef icclip_commands(app):\n"
        "    @app.command('no good')\n    def run(): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    message = refused(check_plugin, "silent_plugin")
    assert "no good: help: ValueError: the function has no docstring" in message
    assert "no good: name: ValueError: use letters" in message
