from __future__ import annotations

import json
import urllib.error
from types import SimpleNamespace

import pytest
from sample_distributions import SAMPLES, install

from icclip import doctor
from icclip.errors import MissingExtraError, UsageError
from icclip.plugins.registry import Registry
from icclip.report.caches import size_text
from icclip.runtime.cpu import integer_kind


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def found(look, name):
    return next(finding for finding in look() if finding.name == name)


def test_a_good_installation_exits_with_0_and_json_says_ok(icclip):
    outcome = icclip("doctor", "--json")
    assert outcome.code == 0, outcome.out
    answer = json.loads(outcome.out)
    assert answer["ok"] is True
    states = {(one["area"], one["name"]): one["status"] for one in answer["findings"]}
    assert states["versions", "torch"] == states["providers", "cpu"] == states["caches", "images"] == "ok"
    assert {area for area, _ in states} == {"versions", "providers", "targets", "GPU", "caches", "hub"}


def test_people_get_a_table(icclip):
    outcome = icclip("doctor")
    assert outcome.code == 0
    assert "ran a test graph" in outcome.out


def test_what_is_broken_gives_exit_code_2_and_is_named_in_one_line(icclip, monkeypatch):
    monkeypatch.setattr(doctor, "clashing_runtimes", lambda: "both are installed: uninstall one")
    outcome = icclip("doctor")
    assert outcome.code == 2
    assert "both are installed: uninstall one" in outcome.out
    assert outcome.err.startswith("error: something is broken: versions onnxruntime packages; the table above says why")


@pytest.mark.parametrize(
    ("package", "status", "install"),
    [
        ("numpy", "broken", "pip install 'numpy'"),
        ("peft", "absent", "pip install 'icclip[lora]'"),
        ("onnxscript", "absent", "pip install 'icclip[export]'"),
        ("optimum-onnx", "absent", "pip install 'icclip[export-optimum]'"),
    ],
)
def test_a_missing_package_says_how_to_get_it(monkeypatch, package, status, install):
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == package else version(name))
    finding = found(doctor.versions, package)
    assert (finding.status, finding.detail) == (status, f"not installed: {install}")


def test_the_gpu_build_of_onnxruntime_takes_the_place_of_the_other(monkeypatch):
    builds = {"onnxruntime": None, "onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(doctor, "_version", lambda name: builds.get(name, "1"))
    names = [finding.name for finding in doctor.versions()]
    assert "onnxruntime-gpu" in names
    assert "onnxruntime" not in names


def test_a_provider_says_why_it_does_not_run(monkeypatch):
    fake = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    messages = {
        "cuda": "provider cuda is not available (cuda: its libraries or a GPU are missing): pip ...",
        "tensorrt": "provider tensorrt is not available (tensorrt: built without it): pip ...",
    }

    def choose(name):
        if name in messages:
            raise UsageError(messages[name])

    monkeypatch.setattr(doctor, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(doctor, "choose_provider", choose)
    states = {finding.name: (finding.status, finding.detail) for finding in doctor.providers()}
    assert states["cpu"] == ("ok", f"ran a test graph; products of integers: {integer_kind()}")
    assert states["cuda"][0] == "warning"
    assert states["cuda"][1].startswith("its libraries or a GPU are missing: pip uninstall onnxruntime")
    assert states["tensorrt"][0] == "absent"


@pytest.mark.parametrize(("version", "status"), [(None, "absent"), ("1.2", "broken")])
def test_without_onnxruntime_the_providers_are_one_finding(monkeypatch, version, status):
    def fail():
        raise MissingExtraError("running a bundle", ["onnxruntime"], "pip install 'icclip[onnx]'")

    monkeypatch.setattr(doctor, "import_onnxruntime", fail)
    monkeypatch.setattr(doctor, "_version", lambda name: version)
    (finding,) = doctor.providers()
    assert finding.status == status
    assert "pip install 'icclip[onnx]'" in finding.detail


def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda self: True)
    assert "torch 2.13.0+cpu was built without CUDA" in doctor._no_gpu("2.13.0+cpu", cuda_build=False).detail
    driver = doctor._no_gpu("2.13.0", cuda_build=True)
    assert (driver.status, "its driver does not answer" in driver.detail) == ("warning", True)


def test_without_torch_the_gpu_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    (finding,) = doctor.gpus()
    assert (finding.status, finding.detail) == ("absent", "not installed: pip install 'icclip[train]'")


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    finding = doctor._directory("images", tmp_path)
    assert (finding.status, finding.detail) == ("warning", f"{tmp_path}: 0.00 GiB, but it cannot be written to")


def test_the_hub_offline_is_said_and_not_asked():
    (finding,) = doctor.hub(lambda request, timeout: pytest.fail("it was asked"))
    assert (finding.status, finding.detail.startswith("offline because HF_HUB_OFFLINE is set")) == ("ok", True)


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (None, "ok", "reachable"),
        (urllib.error.HTTPError("hub", 401, "who?", {}, None), "ok", "reachable (it answered 401)"),
        (urllib.error.URLError("no route"), "warning", "not reachable (no route): give local paths"),
        (TimeoutError("timed out"), "warning", "not reachable (timed out): give local paths"),
    ],
)
def test_the_hub_is_asked_once_with_a_short_timeout(monkeypatch, error, status, detail):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def ask(request, timeout):
        asked.append((request.get_method(), timeout))
        if error is not None:
            raise error

    (finding,) = doctor.hub(ask)
    assert finding.status == status
    assert finding.detail.startswith(detail)
    assert asked == [("HEAD", 3.0)]


def test_plugins_that_failed_are_broken_and_good_ones_are_listed(tmp_path, monkeypatch):
    chosen = {name: SAMPLES[name] for name in ("good", "import_error")}
    monkeypatch.syspath_prepend(str(install(chosen, tmp_path)))
    findings = list(doctor.plugins(Registry(load_plugins=frozenset(chosen))))
    states = {finding.name.split(" ")[0]: finding for finding in findings}
    assert states["good"].status == "ok"
    assert states["import_error"].status == "broken"
    assert "ImportError: boom" in states["import_error"].detail


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 bytes"), (2048, "2 KiB"), (3 * 2**20, "3 MiB"), (2**31, "2.0 GiB")]
)
def test_sizes_in_the_unit_that_fits(count, text):
    assert size_text(count) == text
