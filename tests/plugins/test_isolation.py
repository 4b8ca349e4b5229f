"""Broken plugins, installed as real distributions, never break anything but themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from sample_distributions import SAMPLES, break_metadata, install

from icclip.errors import PluginError, UnknownNameError
from icclip.plugins.registry import Registry


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A directory with every sample distribution installed."""
    site = install(SAMPLES, tmp_path_factory.mktemp("distributions"))
    break_metadata(site)
    return site


@pytest.fixture(scope="session")
def run(site):
    """`icclip` in a process of its own that finds the samples; `chosen` is ICCLIP_LOAD_PLUGINS."""

    def run(*arguments, chosen=None):
        environment = {k: v for k, v in os.environ.items() if k != "ICCLIP_LOAD_PLUGINS"}
        environment["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, sys.path)])
        if chosen is not None:
            environment["ICCLIP_LOAD_PLUGINS"] = chosen
        command = [sys.executable, "-m", "icclip", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)

    return run


@pytest.fixture(scope="session")
def listing(run):
    """What `icclip plugins list --json` says when everything is installed at once."""
    outcome = run("plugins", "list", "--json")
    assert outcome.returncode == 0, outcome.stderr
    # One document and nothing else, although a plugin prints when it is imported.
    return json.loads(outcome.stdout)["plugins"]


@pytest.fixture
def registry(site, monkeypatch):
    """A registry of this process that finds the samples among the plugins it is asked for."""
    monkeypatch.syspath_prepend(str(site))
    return lambda *chosen: Registry(load_plugins=frozenset(chosen))


@pytest.mark.parametrize("plugin", SAMPLES)
def test_the_list_shows_status_and_reason(listing, plugin):
    sample = SAMPLES[plugin]
    origin = f"icclip-{plugin.replace('_', '-')}"
    rows = [r for r in listing if r["origin"] == origin and r["name"] == (sample.name or plugin)]
    assert [(r["status"], r["version"]) for r in rows] == [(sample.status, "1.2")]
    assert sample.reason in rows[0]["reason"]
    assert "\n" not in rows[0]["reason"]


@pytest.mark.parametrize("plugin", SAMPLES)
def test_other_commands_go_on(registry, plugin, icclip, monkeypatch):
    registry(plugin)
    monkeypatch.setenv("ICCLIP_LOAD_PLUGINS", plugin)
    for command in (["--help"], ["train", "--help"], ["plugins", "list", "--json"]):
        outcome = icclip(*command)
        assert outcome.code == 0
        assert "Traceback" not in outcome.err


def test_everything_broken_at_once_leaves_help_and_the_good_ones(run):
    outcome = run("--help")
    assert outcome.returncode == 0
    assert "train" in outcome.stdout
    assert "greet" in outcome.stdout
    assert run("greet").stdout == "noise\nhello\n" or run("greet").stdout == "hello\n"


def test_a_command_of_ours_cannot_be_replaced(run):
    outcome = run("train", "--help")
    assert outcome.returncode == 0
    assert "stolen" not in outcome.stdout


def test_an_unknown_command_names_the_plugins_that_failed(run):
    outcome = run("swim")
    assert outcome.returncode == 2
    assert "raising_command (from icclip-raising-command)" in outcome.stderr


def test_a_plugin_with_one_bad_item_keeps_the_good_one(listing):
    rows = [(r["name"], r["status"]) for r in listing if r["origin"] == "icclip-wrong-item"]
    assert sorted(rows) == [("pears", "ok"), ("wrong_item", "failed")]


def test_damaged_metadata_is_shown_and_hides_nothing(listing):
    rows = {r["origin"]: r for r in listing}
    assert rows["garbled"]["status"] == "failed"
    assert "entry_points.txt cannot be read" in rows["garbled"]["reason"]
    assert rows["unknown"]["name"] == "grapes"
    assert "unreadable" not in rows


def test_built_in_names_import_no_third_party(registry, site):
    for name in [name for name in sys.modules if name.startswith("icclip_good")]:
        del sys.modules[name]
    everything = Registry(default_plugins=("sample_plugin",))
    assert everything.dataset("a-dataset").name == "a-dataset"
    assert "icclip_good" not in sys.modules
    assert everything.dataset("figs").name == "figs"
    assert "icclip_good" in sys.modules


def test_load_plugins_selects_by_entry_point_or_distribution(run):
    for chosen in ("good", "icclip-good", " good , icclip-good"):
        rows = json.loads(run("plugins", "list", "--json", chosen=chosen).stdout)["plugins"]
        assert {r["origin"] for r in rows} - {"built in"} == {"icclip-good"}


def test_load_plugins_empty_means_none(run):
    rows = json.loads(run("plugins", "list", "--json", chosen="").stdout)["plugins"]
    assert {r["origin"] for r in rows} <= {"built in"}


def test_load_plugins_with_a_name_that_is_not_installed(registry):
    (row,) = [r for r in registry("good", "absent").listing() if r.name == "absent"]
    assert (row.status, row.reason) == ("failed", "ICCLIP_LOAD_PLUGINS names it, but it is not installed")


def test_two_owners_of_a_name_are_both_named(registry):
    with pytest.raises(PluginError) as caught:
        registry("twin_a", "twin_b").dataset("twins")
    for part in ("twin_a (from icclip-twin-a)", "twin_b (from icclip-twin-b)", "ICCLIP_LOAD_PLUGINS=NAME"):
        assert part in str(caught.value)
    assert registry("twin_a").dataset("twins").name == "twins"


def test_an_unknown_name_suggests_and_mentions_failed_plugins(registry):
    with pytest.raises(UnknownNameError) as caught:
        registry("good", "import_error").dataset("aples")
    assert "did you mean 'apples'?" in str(caught.value)
    assert "failed to load" in str(caught.value)
    assert "import_error (from icclip-import-error)" in str(caught.value)


def test_check_of_a_broken_plugin_says_what_is_wrong(run):
    outcome = run("plugins", "check", "misspelled_hook")
    assert outcome.returncode == 2
    assert "unknown hook 'icclip_dataset'" in outcome.stdout
    assert "checks failed" in outcome.stderr


def test_check_of_an_unknown_plugin(run):
    outcome = run("plugins", "check", "gooood", chosen="good")
    assert outcome.returncode == 2
    assert "unknown plugin 'gooood'" in outcome.stderr
