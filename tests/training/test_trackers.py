from __future__ import annotations

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from icclip.errors import MissingExtraError, UnknownNameError
from icclip.training import trackers
from icclip.training.trackers import MODULES, check_trackers


def test_every_tracker_of_transformers_is_known():
    # kubeflow is no package: transformers 5 reports to the server that Kubeflow itself names in the environment.
    assert set(INTEGRATION_TO_CALLBACK) - {"kubeflow"} <= set(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_tracker_that_is_not_installed_is_one_line_before_any_work(name, monkeypatch, tmp_path, icclip):
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    outcome = icclip("train", "-m", "clip-tiny", "-d", "shapes", "-o", tmp_path / "run", "--report-to", name)
    assert outcome.code == 2
    assert (
        outcome.err
        == f"error: --report-to {name} needs {MODULES[name][1]}, not installed here: pip install {MODULES[name][1]}\n"
    )
    assert not (tmp_path / "run").exists()


def test_what_a_tracker_needs_besides(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "mlflow" else name)
    check_trackers(["dvclive", "all", "none"])
    with pytest.raises(MissingExtraError, match=r"^--report-to dagshub needs mlflow"):
        check_trackers(["dagshub"])


def test_a_module_that_cannot_be_looked_for_counts_as_missing(monkeypatch):
    def refuse(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(trackers, "find_spec", refuse)
    with pytest.raises(MissingExtraError, match="azureml-core"):
        check_trackers(["azure_ml"])


def test_one_of_two_packages_is_enough(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: name if name == "tensorboardX" else None)
    check_trackers(["tensorboard"])


def test_a_name_that_is_none():
    with pytest.raises(UnknownNameError, match="unknown tracker 'wandbb'; did you mean 'wandb'"):
        check_trackers(["wandbb"])
