from __future__ import annotations

import json
import sys
import textwrap

import pytest
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from icclip.errors import MissingExtraError, UnknownNameError, UsageError
from icclip.training import trackers
from icclip.training.step.trackers import Trackers
from icclip.training.trackers import MODULES, check_trackers, needed_modules


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
    assert needed_modules("tensorboard") == []
    assert needed_modules("dagshub") == ["dagshub", "mlflow"]


def test_a_name_that_is_none():
    with pytest.raises(UnknownNameError, match="unknown tracker 'wandbb'; did you mean 'wandb'"):
        check_trackers(["wandbb"])


# What is installed, but refuses -----------------------------------------------------------------------

WANDB = {
    "wandb/__init__.py": """
        run = None
        def init(**options):
            raise RuntimeError("No API key configured.\\nUse `wandb login` to log in.")
        """,
    "wandb/sdk/__init__.py": "",
    "wandb/sdk/lib/__init__.py": "",
    "wandb/sdk/lib/config_util.py": "ConfigError = ValueError",
}
DVCLIVE = {
    "dvclive/__init__.py": """
        class Live:
            def log_params(self, values):
                print("a word of the tracker")
            def log_metric(self, name, value):
                {log}
            def next_step(self):
                pass
            def end(self):
                open("ended", "w").close()
        """,
    "dvclive/plots.py": "class Metric:\n    could_log = staticmethod(lambda value: True)",
    "dvclive/utils.py": "def standardize_metric_name(name, framework):\n    return name",
}
REFUSING = {
    "wandb": (WANDB, "No API key configured. Use `wandb login` to log in"),
    "mlflow": ({"mlflow.py": "raise OSError('no such server')"}, "no such server"),
    "codecarbon": ({"codecarbon.py": "class EmissionsTracker:\n    def __init__(self, **options):\n        raise KeyError"}, "KeyError"),
}  # fmt: skip


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put modules where Python finds them; the current directory is there too."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    before = set(sys.modules)

    def write(files):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(textwrap.dedent(text))

    yield write
    for name in set(sys.modules) - before:
        if name.split(".")[0] in REFUSING | {"dvclive": None}:
            del sys.modules[name]


@pytest.fixture
def train(icclip, tiny, data, tmp_path):
    def run(*more):
        options = ["--device", "cpu", "--workers", 0, "--train-bs", 2, "--max-steps", 2, "--logging-steps", 1]
        model, where = tiny["softmax"], tmp_path / "run"
        return icclip(
            "train", "-m", model, "-d", data, "-o", where, "--val-fraction", 0.25, "--guard", "off", *options, *more
        )

    return run


@pytest.mark.parametrize("name", sorted(REFUSING))
def test_a_tracker_that_refuses_is_one_line_and_nothing_is_left(name, install, train, tmp_path):
    files, why = REFUSING[name]
    install(files)
    outcome = train("--report-to", name)
    assert outcome.code == 2
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error"))
    assert line == f"error: --report-to {name} cannot start: {why}; log in or set it up, or leave it out"
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_outlives_a_tracker_that_refuses(install, train, tmp_path):
    install(WANDB)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "icclip.json").write_text("{}")
    assert train("--report-to", "wandb", "--overwrite").code == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["icclip.json"]


def test_a_tracker_gets_what_is_logged_and_its_words_are_no_result(install, train, tmp_path):
    install({**DVCLIVE, "dvclive/__init__.py": DVCLIVE["dvclive/__init__.py"].format(log="print(name, value)")})
    outcome = train("--report-to", "dvclive", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)
    assert outcome.err.count("a word of the tracker") == 1
    assert "eval_rsum" in outcome.err
    assert (tmp_path / "site" / "ended").exists()


def test_a_tracker_that_fails_later_does_not_end_the_run(install, train, tmp_path):
    install({**DVCLIVE, "dvclive/__init__.py": DVCLIVE["dvclive/__init__.py"].format(log="raise OSError('gone.')")})
    outcome = train("--report-to", "dvclive")
    assert outcome.code == 0, outcome.err
    assert " ".join(outcome.err.split()).count("--report-to dvclive failed: gone; the run goes on without it") == 1
    assert not (tmp_path / "site" / "ended").exists()


class Recorder(TrainerCallback):
    def __init__(self, refuses=""):
        self.refuses, self.heard = refuses, []

    def on_train_begin(self, *given, **further):
        self.hear("on_train_begin")

    def on_log(self, *given, **further):
        self.hear("on_log")

    def hear(self, event):
        self.heard.append(event)
        if event == self.refuses:
            raise ValueError


def test_the_others_go_on():
    said, fails, works = [], Recorder("on_log"), Recorder()
    both = Trackers({"first": fails, "second": works}, said.append)
    for event in (both.on_train_begin, both.on_log, both.on_log):
        event(None, None, None)
    assert fails.heard == ["on_train_begin", "on_log"]
    assert works.heard == ["on_train_begin", "on_log", "on_log"]
    assert said == ["--report-to first failed: ValueError; the run goes on without it"]


def test_a_refusal_as_the_training_begins_is_one_line():
    with pytest.raises(UsageError, match=r"^--report-to first cannot start: ValueError; log in"):
        Trackers({"first": Recorder("on_train_begin")}, print).on_train_begin(None, None, None)
