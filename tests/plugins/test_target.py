"""A third-party export target through the command line: exported to, evaluated, embedded with and verified."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from support import linear_target

from icclip.config import ModelConfig
from icclip.doctor import targets
from icclip.errors import MissingExtraError, UsageError
from icclip.models.opening import open_model
from icclip.plugins.loading import installed_plugins, load_plugin
from icclip.plugins.registry import Registry
from icclip.testing import ConformanceError, check_export_target

CAPTIONS = ["a small red square", "two large blue circles, on grass"] * 8


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    """As if a distribution offered it."""
    plugin = load_plugin("linear", "icclip-linear", "1", lambda: linear_target, "support.linear_target")
    found = [*installed_plugins(), ("linear", "icclip-linear", lambda: plugin)]
    monkeypatch.setattr("icclip.plugins.registry.installed_plugins", lambda: iter(found))
    monkeypatch.setenv("ICCLIP_LOAD_PLUGINS", "linear")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "model"
    registry = Registry(load_plugins=frozenset())
    open_model(registry, ModelConfig(name="clip-tiny", image_resize=32), lambda: CAPTIONS).save(directory)
    return directory


@pytest.fixture
def exported(icclip, checkpoint, tmp_path):
    outcome = icclip(
        "export", checkpoint, "-o", tmp_path / "out", "--target", "linear", "--precision", "exact",
        "--dataset", "shapes", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["parity"]["results"][0]["passed"]
    return tmp_path / "out"


def test_it_is_evaluated_like_any_checkpoint(icclip, exported, tmp_path):
    arguments = ("--dataset", "shapes", "--output-dir", tmp_path / "metrics", "--bootstrap", 0, "--json")
    outcome = icclip("eval", exported, *arguments)
    assert outcome.code == 0, outcome.err
    metrics = json.loads(outcome.out)
    assert metrics["about"]["encoder"] == "linear maps, numpy, all threads"
    recorded = json.loads((exported / "parity.json").read_text())["results"][0]["metrics"]
    assert {key: metrics[key] for key in recorded} == recorded


def test_it_embeds_with_its_options(icclip, exported, tmp_path):
    (tmp_path / "texts.txt").write_text("a red square\na blue circle\n")
    outcome = icclip(
        "embed", exported, "--texts", tmp_path / "texts.txt", "-o", tmp_path / "e.npy", "--threads", 3, "--json"
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["encoder"] == "linear maps, numpy, 3 threads"
    np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "e.npy"), axis=1), 1, rtol=1e-5)


def test_it_is_verified_wherever_it_is(icclip, exported, tmp_path):
    moved = shutil.move(exported, tmp_path / "moved")
    outcome = icclip("verify", moved, "--dataset", "shapes", "--json")
    assert outcome.code == 0, outcome.err
    names = [check["name"] for check in json.loads(outcome.out)["checks"]]
    assert names[:3] == ["exact: gate", "exact on numpy: golden images", "exact on numpy: golden texts"]
    assert "exact on numpy: t2i_R@10 on shapes, split test" in names


def test_damage_is_found(icclip, exported):
    with np.load(exported / linear_target.FILE) as file:
        maps = dict(file)
    np.savez(exported / linear_target.FILE, **(maps | {"text": -maps["text"]}))
    outcome = icclip("verify", exported)
    assert outcome.code == 3
    assert "exact on numpy: golden texts" in outcome.err


def test_a_precision_that_it_lacks_is_refused(icclip, exported, checkpoint, tmp_path):
    for command in (
        ("verify", exported, "--precision", "fp32"),
        ("export", checkpoint, "-o", tmp_path / "b", "--target", "linear", "--precision", "fp32", "-d", "shapes"),
    ):
        outcome = icclip(*command)
        assert outcome.code == 2
        assert "unknown precision 'fp32'" in outcome.err


def test_it_conforms(exported):
    checks = check_export_target(linear_target.TARGET, exported)
    assert {check.status for check in checks} == {"ok"}
    assert "says what it runs on" in [check.what for check in checks]


@pytest.mark.parametrize("about", [lambda: "", lambda: "two\nlines", lambda: 1 / 0])
def test_what_it_says_of_this_machine_is_a_line(exported, about):
    spec = dataclasses.replace(linear_target.TARGET, about=about)
    with pytest.raises(ConformanceError, match="says what it runs on"):
        check_export_target(spec, exported)


def failing(error):
    def about():
        raise error

    return about


@pytest.mark.parametrize(
    ("about", "status", "detail"),
    [
        (linear_target.TARGET.about, "ok", f"numpy {np.__version__}"),
        (failing(UsageError("no numbers here")), "warning", "no numbers here"),
        (failing(MissingExtraError("it", ["numbers"], "pip install numbers")), "absent", "not installed: pip install numbers"),
        (failing(RuntimeError("no luck")), "broken", "plugin linear (from icclip-linear): RuntimeError: no luck"),
    ],
)  # fmt: skip
def test_doctor_says_what_it_runs_on(about, status, detail):
    registry = Registry.from_environment()
    (plugin,) = registry.third_party
    spec = dataclasses.replace(linear_target.TARGET, about=about)
    registry.__dict__["third_party"] = (dataclasses.replace(plugin, specs=(spec,)),)
    finding = next(one for one in targets(registry) if one.name == "linear")
    assert (finding.area, finding.status, finding.detail) == ("targets", status, detail)


def test_a_target_that_fails_when_it_is_asked_breaks_nothing(tmp_path):
    def broken(path):
        raise RuntimeError("no luck")

    registry = Registry.from_environment()
    (plugin,) = registry.third_party
    spec = dataclasses.replace(linear_target.TARGET, recognises=broken)
    registry.__dict__["third_party"] = (dataclasses.replace(plugin, specs=(spec,)),)
    heard = []
    assert registry.target_of(tmp_path, heard.append) is None
    (line,) = heard
    assert line.startswith("plugin linear (from icclip-linear): export target 'linear' failed while checking")
    assert registry.target_of(tmp_path / "not-there", heard.append) is None
    assert len(heard) == 1


def test_a_directory_that_nobody_recognises(icclip, tmp_path):
    outcome = icclip("verify", tmp_path)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "is not a bundle" in outcome.err
