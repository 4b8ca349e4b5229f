"""`icclip eval --zero-shot`: the numbers, what is said, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from support import towers
from support.bundles import tiny_clip, write_bundle
from zero_shot.conftest import Perfect

from icclip.config import DatasetConfig, EncoderConfig
from icclip.console import Reporter
from icclip.encoders import open_encoder
from icclip.errors import DataError, PluginError
from icclip.plugins.registry import Registry
from icclip.report.zero_shot import verdict_line
from icclip.retrieval.comparison import Change
from icclip.runs.directory import RunDirectory
from icclip.zero_shot.classes import open_classes
from icclip.zero_shot.domain import gain_in_domain
from icclip.zero_shot.prompts import TEMPLATES, prompts_of, templates_in

ON_CPU = ("--device", "cpu", "--workers", 0, "--bootstrap", 50)


@pytest.fixture
def encoders(monkeypatch):
    """Model -> the encoder that stands in for it."""
    known = {}
    for module in ("icclip.zero_shot.run", "icclip.zero_shot.request"):
        monkeypatch.setattr(f"{module}.open_encoder", lambda registry, config, reporter: known[config.checkpoint])
    return known


@pytest.fixture
def measured(icclip, things, tmp_path):
    """Runs the command on the three classes."""

    def of(model, *options):
        return icclip("eval", model, "--zero-shot", "--dataset", things, "-o", tmp_path / "out", *options)

    return of


def expected_of(checkpoint, things):
    """Top-1 from the same embeddings, with plain loops."""
    from icclip.data.split import SplitImages

    registry, quiet = Registry(load_plugins=frozenset()), Reporter(silent=True)
    classes = open_classes(registry, DatasetConfig(name="classes", path=str(things), whole=True), "test", quiet)
    assert isinstance(classes.images, SplitImages)
    encoder = open_encoder(registry, EncoderConfig(checkpoint=str(checkpoint), workers=0), quiet)
    images, right = encoder.encode_images(classes.images), 0
    means = []
    for name in ("blue", "dark green", "red"):
        rows = encoder.encode_texts([template.replace("{}", name) for template in TEMPLATES]).astype(np.float64)
        mean = rows.mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
    for image, name in zip(images, ["blue"] * 4 + ["dark green"] * 4 + ["red"] * 4, strict=True):
        scores = [float(image @ mean) for mean in means]
        right += ["blue", "dark green", "red"][int(np.argmax(scores))] == name
    return right / 12


@pytest.mark.parametrize("family", ["softmax", "sigmoid"])
def test_clip_and_siglip(measured, tiny, things, tmp_path, family):
    outcome = measured(tiny[family], *ON_CPU, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["top1"] == pytest.approx(expected_of(tiny[family], things))
    assert (found["n_images"], found["n_classes"], found["top5"]) == (12, 3, 1)
    assert sorted(found["classes"]) == ["blue", "dark green", "red"]
    assert found["about"]["templates"] == list(TEMPLATES)
    assert found == json.loads((tmp_path / "out/test_zero_shot_metric.json").read_text())
    assert "top-5 is always 100 %, whatever the model: there are only 3 classes" in outcome.err


def test_a_dual_encoder(icclip, things, tmp_path):
    start = towers.assembled(icclip, tmp_path, towers.vit(), towers.bert())
    outcome = icclip("eval", start, "--zero-shot", "--dataset", things, "-o", tmp_path / "out", *ON_CPU, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["top1"] == pytest.approx(expected_of(start, things))


def test_a_bundle_against_a_checkpoint(icclip, tiny, things, tmp_path):
    write_bundle(tiny_clip(), tmp_path / "bundle")
    outcome = icclip(
        "eval", tmp_path / "bundle", "--zero-shot", "--dataset", things, "--against", tiny["softmax"],
        "--precision", "fp32", "--bootstrap", 50, "-o", tmp_path / "out", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["top1"] == pytest.approx(expected_of(tmp_path / "bundle", things))
    assert "onnx fp32" in found["about"]["encoder"]
    before = found["against"]["metrics"]["top1"]["before"]
    assert before == pytest.approx(expected_of(tiny["softmax"], things))


def test_what_is_printed(icclip, encoders, things, tmp_path):
    encoders["model"] = Perfect()
    encoders["model"].wrong = ("blue",)
    outcome = icclip("eval", "model", "--zero-shot", "--dataset", things, "-o", tmp_path / "out", "--bootstrap", 50)
    assert outcome.code == 0, outcome.err
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert f"classes@{things}, all of it (it has no splits): 12 images, 3 classes" in "".join(outcome.out.splitlines())
    assert any(line.startswith("top-1 ") and "66.7 %" in line and " .. " in line for line in lines)
    assert any(line.startswith("mean per class ") and "66.7 %" in line for line in lines)
    assert "blue 4 0.0 % red (100.0 %)" in lines
    assert not any(line.startswith("dark green") for line in lines)
    assert "prompts 7 for each class (icclip's own; --templates gives others)" in " ".join(outcome.err.split())


def test_nothing_is_called_worst_where_everything_is_recognised(icclip, encoders, things, tmp_path):
    encoders["model"] = Perfect()
    outcome = icclip("eval", "model", "--zero-shot", "--dataset", things, "-o", tmp_path / "out", "--bootstrap", 0)
    assert (outcome.code, "the worst classes" in outcome.out, "95 %" in outcome.out) == (0, False, False)


def test_a_collapsed_model_scores_0(icclip, encoders, things, tmp_path):
    encoders["model"] = Perfect(value=1.0)
    outcome = icclip("eval", "model", "--zero-shot", "--dataset", things, "-o", tmp_path / "out", "--json")
    assert json.loads(outcome.out)["top1"] == 0
    assert "12 of 12 images score the same with their class and with another: ties count as misses" in outcome.err


# Prompts ----------------------------------------------------------------------------------------


def test_a_file_of_templates(icclip, tiny, things, tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("\ufeffa {} thing\n\n  {} and again {}  \n", encoding="utf-8")
    assert templates_in(file) == ("a {} thing", "{} and again {}")
    assert prompts_of(["red", "blue"], templates_in(file)) == [
        "a red thing", "red and again red", "a blue thing", "blue and again blue",
    ]  # fmt: skip
    outcome = icclip(
        "eval",
        tiny["softmax"],
        "--zero-shot",
        "--dataset",
        things,
        "--templates",
        file,
        "-o",
        tmp_path,
        *ON_CPU,
        "--json",
    )
    assert json.loads(outcome.out)["about"]["templates"] == ["a {} thing", "{} and again {}"]
    assert f"prompts  2 for each class ({file})" in outcome.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a {}\na photo\n", "t.txt, line 2: 'a photo' has no {}: write {} where the name of the class goes"),
        (b"\n  \n", "t.txt has no templates: write one per line, with {} for the name of the class"),
        (b"a {} \xff", "t.txt is not UTF-8: save it as UTF-8, one template per line"),
        (b"a {} \0", "t.txt, line 1: holds a NUL character: remove it"),
        (None, "cannot read the templates in t.txt: No such file or directory"),
    ],
)
def test_templates_that_cannot_be_used(measured, tmp_path, content, says):
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    outcome = measured("model", "--templates", tmp_path / "t.txt")
    assert (outcome.code, outcome.err.replace(f"{tmp_path}/", "")) == (2, f"error: {says}\n")


def test_prompts_that_are_cut_are_counted(icclip, tiny, things, tmp_path):
    (tmp_path / "t.txt").write_text("{}\n" + "word " * 100 + "{}\n")
    outcome = icclip(
        "eval",
        tiny["softmax"],
        "--zero-shot",
        "--dataset",
        things,
        "--templates",
        tmp_path / "t.txt",
        "-o",
        tmp_path,
        *ON_CPU,
    )
    assert "of the prompts, 3 of 6 captions are longer than the" in " ".join(outcome.err.split())


# Classes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["red"], "has one class, 'red': classification needs at least two, each with a folder of its own"),
        (["red", "dark_green", "empty"], "the class 'empty' has no images: add some, remove the folder, or measure"),
        (["red", "empty", "void"], "the class 'empty' and 1 more have no images: add some, remove the folder"),
        (["red", "dark_green", "dark green"], "two folders stand for the class 'dark green': rename or merge them"),
    ],
)
def test_folders_that_are_no_classes(icclip, things, tmp_path, folders, says):
    for name in folders:
        (tmp_path / "d" / name).mkdir(parents=True)
        if (things / name).is_dir():
            shutil.copytree(things / name, tmp_path / "d" / name, dirs_exist_ok=True)
    outcome = icclip("eval", "model", "--zero-shot", "--dataset", tmp_path / "d")
    assert outcome.code == 2
    assert says in outcome.err


def test_a_dataset_without_classes(icclip, tiny):
    outcome = icclip("eval", tiny["softmax"], "--zero-shot", "--dataset", "shapes")
    assert (outcome.code, outcome.err) == (
        2, "error: shapes has captions and no classes: give a directory with a folder of images for each class\n",
    )  # fmt: skip


def test_the_classes_of_a_split_are_its_own(things, tmp_path, registry):
    for split, names in {"train": ["red", "blue"], "test": ["red", "dark_green"]}.items():
        for name in names:
            shutil.copytree(things / name, tmp_path / split / name)
    config = DatasetConfig(name="classes", path=str(tmp_path), template="a {}")
    quiet = Reporter(silent=True)
    assert open_classes(registry, config, "test", quiet).names == ("dark green", "red")
    assert open_classes(registry, config, "test", quiet).labels.tolist() == [0] * 4 + [1] * 4
    # icclip makes the validation split from the training images.
    with pytest.raises(DataError, match=r"class '(blue|red)' has no images: add some, remove the folder, or measure"):
        open_classes(registry, config, "validation", quiet)


def with_classes(registry, monkeypatch, names):
    spec = dataclasses.replace(registry.dataset("shapes"), classes=lambda config, split: names)
    monkeypatch.setattr(type(registry), "dataset", lambda self, name: spec)


def test_a_plugin_that_names_other_classes(registry, monkeypatch):
    with_classes(registry, monkeypatch, ["a", "b"])
    monkeypatch.setattr("icclip.zero_shot.classes.load_gallery", lambda *_: gallery_of([["a"], ["c"]]))
    with pytest.raises(PluginError, match="the caption 'c' is none of the classes that its plugin names"):
        open_classes(registry, DatasetConfig(name="shapes"), "test", Reporter(silent=True))


def test_an_image_in_two_classes(registry, monkeypatch):
    with_classes(registry, monkeypatch, ["a", "b"])
    monkeypatch.setattr("icclip.zero_shot.classes.load_gallery", lambda *_: gallery_of([["a"], ["a", "b"]]))
    with pytest.raises(DataError, match=r"the image 1.png is in several classes, 'a' and 'b': keep it in one"):
        open_classes(registry, DatasetConfig(name="shapes"), "test", Reporter(silent=True))


def gallery_of(captions):
    from icclip.data.columns import dataset_of
    from icclip.data.gallery import Gallery

    return Gallery.of(dataset_of([f"{number}.png" for number in range(len(captions))], captions), "test")


def test_the_conformance_kit_looks_at_the_classes(registry, things):
    from icclip.testing import ConformanceError, check_dataset

    spec, config = registry.dataset("classes"), DatasetConfig(name="classes", path=str(things), whole=True)
    assert "classes" in [check.what for check in check_dataset(spec, config)]
    wrong = dataclasses.replace(spec, classes=lambda config, split: ["red", "blue"])
    with pytest.raises(ConformanceError, match=r"captions is \['dark green'\]: give one of the classes that `classes`"):
        check_dataset(wrong, config)


def test_an_empty_file_is_nothing_to_report(icclip, tmp_path):
    (tmp_path / "test_zero_shot_metric.json").write_text("{}")
    outcome = icclip("report", tmp_path / "test_zero_shot_metric.json", "-o", tmp_path / "r.html")
    assert outcome.code == 2
    assert (
        "test_zero_shot_metric.json holds no results: give a run, a bundle, or a file that icclip eval wrote"
        in outcome.err
    )


def test_options_that_do_not_belong_together(icclip, tiny, things, tmp_path):
    def refused(*options):
        outcome = icclip("eval", tiny["softmax"], "--dataset", things, *options)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        return outcome.err

    assert "--templates is about classification: leave it out, or add --zero-shot" in refused("--templates", "a")
    assert "--against is about classification: leave it out, or add --zero-shot" in refused("--against", "b")
    assert "--at is about retrieval: leave it out, or leave out --zero-shot" in refused("--zero-shot", "--at", "3")
    assert "--bootstrap is 0: --against needs the intervals" in refused(
        "--zero-shot", "--against", "b", "--bootstrap", "0"
    )
    assert (
        "--template is about captions: leave it out with --zero-shot (give prompts with --templates FILE)"
        in refused("--zero-shot", "--template", "a {}")
    )
    assert "--qrels is about captions: leave it out with --zero-shot (each image has one class)" in refused(
        "--zero-shot", "--qrels", "a.json"
    )
    assert "--relevance is about captions: leave it out with --zero-shot (each image has one class)" in refused(
        "--zero-shot", "--relevance", "pair"
    )


# What was forgotten -----------------------------------------------------------------------------


def test_a_run_against_what_it_began_with(measured, run, tiny, things, tmp_path):
    lines = [{"step": 0, "eval_rsum": 300.0}, {"step": 7, "eval_rsum": 340.0, "eval_rsum_gain": 40.0,
             "eval_rsum_gain_low": 31.5, "eval_rsum_gain_high": 48.0}]  # fmt: skip
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    outcome = measured(run, *ON_CPU, "--against", "base", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    top1 = found["against"]["metrics"]["top1"]
    assert top1["before"] == pytest.approx(expected_of(tiny["softmax"], things))
    assert top1["now"] == found["top1"] == pytest.approx(expected_of(run, things))
    assert top1["difference"] == pytest.approx(top1["now"] - top1["before"])
    assert found["against"]["in_domain"] == {
        "dataset": "shapes", "split": "validation", "before": 300.0, "now": 340.0,
        "rsum_gain": 40.0, "rsum_gain_low": 31.5, "rsum_gain_high": 48.0,
    }  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "out/test_zero_shot_metric.json").read_text()
    printed = " ".join(measured(run, *ON_CPU, "--against", tiny["softmax"]).out.split())
    # The model that the run began with is known by its name too.
    assert found["against"]["verdict"].split(":")[1] in printed
    assert (
        "On its own data (shapes, validation split), rsum went from 300.0 to 340.0: +40.0, 95 % interval +31.5 to +48.0."
        in printed
    )


def test_forgetting_is_said(icclip, encoders, things, tmp_path):
    encoders["now"], encoders["before"] = Perfect(), Perfect()
    encoders["now"].wrong = ("blue", "dark_green")
    outcome = icclip("eval", "now", "--zero-shot", "--dataset", things, "--against", "before", "-o", tmp_path / "out")
    printed = " ".join(outcome.out.split())
    assert "now against before, in percent" in printed
    assert "top-1 100.0 33.3 -66.67 *" in printed
    assert "now is worse than before: top-1 -66.67 points, 95 % interval" in printed
    assert "On its own data" not in printed


def test_a_run_from_scratch_has_forgotten_nothing(icclip, run, things):
    record = json.loads((run / "icclip.json").read_text())
    record["config"]["model"]["name"] = "clip-tiny"
    (run / "icclip.json").write_text(json.dumps(record))
    outcome = icclip("eval", run, "--zero-shot", "--dataset", things, "--against", "base")
    assert outcome.code == 2
    assert "was trained from scratch (clip-tiny), so it did not begin with pretrained weights: give another checkpoint with --against" in outcome.err  # fmt: skip


def test_what_is_no_run_has_no_base(icclip, tiny, things):
    outcome = icclip("eval", tiny["softmax"], "--zero-shot", "--dataset", things, "--against", "base")
    assert outcome.code == 2
    assert "does not record which model it was trained from: check the path, or give --against" in outcome.err


def change(difference, p, detectable=0.05):
    return {"top1": Change(before=0.5, now=0.5 + difference, difference=difference, low=difference - 0.01,
                           high=difference + 0.01, p=p, detectable=detectable)}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "base", "says"),
    [
        (change(-0.04, 0.001), True, "tuned has forgotten some of what clip could do: top-1 -4.00 points, 95 % interval"),
        (change(0.04, 0.001), True, "tuned has not forgotten: it is better than clip: top-1 +4.00 points"),
        (change(-0.01, 0.4), True, "There is no evidence that tuned has forgotten anything since clip: top-1 -1.00"),
        (change(-0.01, 0.4), False, "There is no evidence that tuned differs from clip: top-1 -1.00 points"),
        (change(-0.01, 0.4), True, "These images show differences of 5.0 points and more in four of five cases."),
        (change(-0.04, 0.001), False, "tuned is worse than clip: top-1 -4.00 points, 95 % interval -5.00 to -3.00, p 0.0010."),
        (change(0.04, 0.001), False, "tuned is better than clip: top-1 +4.00"),
        (change(0, 1, 0), True, "tuned recognises exactly the images that clip recognises."),
    ],
)  # fmt: skip
def test_verdicts(changes, base, says):
    assert says in verdict_line(("clip", "tuned"), changes, base=base)


def test_the_gain_of_a_checkpoint_and_of_a_blend(run):
    lines = [{"step": step, "eval_rsum": 300.0 + step} for step in (0, 3, 7)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    opened = RunDirectory.open(run)
    assert gain_in_domain(opened, str(run)) == {"dataset": "shapes", "split": "validation", "before": 300, "now": 307}
    assert gain_in_domain(opened, f"{run}/checkpoint-3/")["now"] == 303
    assert gain_in_domain(opened, f"{run}/checkpoint-4") is None
    rows = [{"alpha": 0.0, "rsum": 300.0}, {"alpha": 0.5, "rsum": 320.0}]
    blend = {"alpha": 0.5, "validation": rows}
    of_blend = dataclasses.replace(opened, record={**opened.record, "status": "blend", "blend": blend})
    assert gain_in_domain(of_blend, "x")["now"] == 320
    alone = dataclasses.replace(of_blend, record={**of_blend.record, "blend": {"alpha": 0.5, "validation": rows[1:]}})
    assert gain_in_domain(alone, "x") is None
