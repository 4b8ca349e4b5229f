from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path

import pytest
import sample_plugin

from icclip import hookimpl
from icclip.errors import MissingExtraError, PluginError, UnknownNameError
from icclip.plugins import hooks as hookspecs
from icclip.plugins.loading import COMMANDS_HOOK, KINDS, Plugin, load_plugin
from icclip.plugins.registry import DEFAULT_PLUGINS, Registry
from icclip.plugins.specs import (
    BackendSpec,
    DatasetSpec,
    ExportTargetSpec,
    IndexTargetSpec,
    MetricSpec,
    Preset,
    TowerLayout,
    spec_problems,
)

HERE = Path(__file__).parent
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("icclip_"))


def loaded(**hooks) -> Plugin:
    """A plugin made of functions; the registry takes any object."""
    namespace = {name: staticmethod(hookimpl(function)) for name, function in hooks.items()}
    return load_plugin("sample", "sample-distribution", "3", type("Sample", (), namespace), "")


def registry_of(*plugins: Plugin) -> Registry:
    registry = Registry(default_plugins=(), load_plugins=frozenset())
    registry.__dict__["third_party"] = plugins
    return registry


def layout(**fields) -> TowerLayout:
    usual = {
        "module": "v",
        "parameters": ("v.",),
        "blocks": len,
        "config": "c",
        "graph_input": "i",
        "graph_output": "o",
    }
    return TowerLayout(**{**usual, **fields})


def backend(name="b", *, model_types=("m",), presets=(), **fields) -> BackendSpec:
    return BackendSpec(
        name=name, summary="s", model_types=model_types, loss="softmax", load=len, text_policy=len, unwrap=len,
        presets=presets, **{"vision": layout(), "text": layout(), **fields},
    )  # fmt: skip


def dataset(name="d", **fields) -> DatasetSpec:
    return DatasetSpec(name=name, summary="s", load=len, **{"requires": (), **fields})


def metric(name="m", **fields) -> MetricSpec:
    return MetricSpec(name=name, summary="s", compute=len, **fields)


def target(name="t") -> ExportTargetSpec:
    return ExportTargetSpec(name=name, summary="s", precisions=("fp32",), export=len, open=len, recognises=len)


# Hooks


def test_icclip_model_backends():
    spec = backend(presets=(Preset(name="tiny", summary="s", build=len, defaults={"lr": 1e-3}),))
    registry = registry_of(loaded(icclip_model_backends=lambda: [spec]))
    assert registry.backend("b") is spec
    assert registry.backend_for("m", "somewhere") is spec
    assert registry.preset("tiny") == (spec, spec.presets[0])
    assert registry.preset_names() == ["tiny"]
    assert registry.preset("huge") is None
    # A mapping among the fields makes a spec unhashable; nothing may depend on that.
    assert [(row.name, row.kind) for row in registry.listing()] == [("b", "backend"), ("tiny", "preset")]


def test_icclip_datasets():
    spec = dataset(recognises=lambda path: path.suffix == ".d")
    registry = registry_of(loaded(icclip_datasets=lambda: [spec]))
    assert registry.dataset("d") is spec
    assert registry.dataset_for_path(Path("x.d")) is spec
    assert registry.dataset_for_path(Path("x.e")) is None


def test_icclip_metrics():
    spec = metric()
    assert registry_of(loaded(icclip_metrics=lambda: [spec])).metric("m") is spec


def test_icclip_export_targets():
    spec = target()
    assert registry_of(loaded(icclip_export_targets=lambda: [spec])).export_target("t") is spec


def test_icclip_index_targets():
    spec = IndexTargetSpec(name="i", summary="a database", write=lambda _: 0, search=lambda *_: [])
    assert registry_of(loaded(icclip_index_targets=lambda: [spec])).index_target("i") is spec


def test_icclip_commands():
    def add(app):
        @app.command("hello")
        def hello():
            """Say hello."""

    registry = registry_of(loaded(icclip_commands=add))
    assert list(registry.third_party[0].commands) == ["hello"]
    (row,) = registry.listing()
    assert (row.name, row.kind, row.status, row.summary) == ("hello", "command", "ok", "Say hello.")
    (row,) = registry.listing(own_commands=["hello"])
    assert (row.status, row.reason) == ("duplicate", "the name is already taken by icclip (built in)")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test_here(hook):
    assert f"test_{hook}" in globals()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_arguments(hook):
    documentation = (HERE.parents[1] / "plugins" / "README.md").read_text()
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"`{hook}({arguments})`" in documentation


def test_every_hook_is_asked_by_the_registry():
    assert sorted([*(hook for _, hook in KINDS.values()), COMMANDS_HOOK]) == HOOKS


def test_hook_documentation_is_there():
    for hook in HOOKS:
        assert re.search(r"\.$", inspect.getdoc(getattr(hookspecs, hook)))


# Looking up


@pytest.mark.parametrize(
    ("look", "kind"),
    [
        (lambda r: r.backend("x"), "backend"),
        (lambda r: r.dataset("x"), "dataset"),
        (lambda r: r.metric("x"), "metric"),
        (lambda r: r.export_target("x"), "export target"),
        (lambda r: r.backend_for("x", "my/model"), "model type"),
    ],
)
def test_unknown_names(look, kind):
    with pytest.raises(UnknownNameError, match=f"unknown {kind} 'x'"):
        look(registry_of())


def test_unknown_model_type_names_the_source_and_the_known_ones():
    registry = registry_of(loaded(icclip_model_backends=lambda: [backend(model_types=("clip", "siglip"))]))
    with pytest.raises(UnknownNameError, match=r"did you mean 'siglip'\?; known: clip, siglip; in my/model"):
        registry.backend_for("siglip9", "my/model")


@pytest.mark.parametrize("look", [lambda r: r.backend_for("m", "x"), lambda r: r.preset("tiny")])
def test_two_backends_for_one_thing_are_refused(look):
    presets = (Preset(name="tiny", summary="s", build=len),)
    plugins = [loaded(icclip_model_backends=lambda n=n: [backend(n, presets=presets)]) for n in ("one", "two")]
    with pytest.raises(PluginError, match=r"is provided by sample .* and sample .*; choose one with"):
        look(registry_of(*plugins))


def test_missing_extra_says_what_to_install():
    spec = dataset(requires=("json", "not_there", "not_there.either"), install="pip install it")
    with pytest.raises(
        MissingExtraError, match=r"needs not_there, not_there\.either, not installed here: pip install it"
    ):
        registry_of(loaded(icclip_datasets=lambda: [spec])).dataset("d")


def test_a_module_that_hides_its_spec_counts_as_missing(monkeypatch):
    monkeypatch.setattr(sys, "__spec__", None, raising=False)
    with pytest.raises(MissingExtraError):
        registry_of(loaded(icclip_datasets=lambda: [dataset(requires=("sys",))])).dataset("d")


def test_a_plugin_that_fails_to_recognise_a_path_is_passed_over():
    def fail(path):
        raise RuntimeError("no idea")

    broken, good = dataset("broken", recognises=fail), dataset("good", recognises=lambda path: path.suffix == ".g")
    registry = registry_of(loaded(icclip_datasets=lambda: [broken, good]))
    assert registry.dataset_for_path(Path("a.g")) is good
    with pytest.raises(PluginError, match=r"dataset 'broken' failed while checking a\.x: RuntimeError: no idea"):
        registry.dataset_for_path(Path("a.x"))


def test_a_default_plugin_comes_before_others_and_its_bugs_keep_their_traceback(monkeypatch):
    registry = Registry(default_plugins=("sample_plugin",), load_plugins=frozenset())
    registry.__dict__["third_party"] = (loaded(icclip_datasets=lambda: [dataset("a-dataset")]),)
    assert registry.dataset("a-dataset").load is dict
    statuses = [(row.origin, row.status) for row in registry.listing()]
    assert statuses == [("built in", "ok"), ("sample-distribution", "duplicate")]

    def fail(path):
        raise RuntimeError("a bug")

    spec = dataset("buggy", recognises=fail)
    monkeypatch.setattr(sample_plugin, "icclip_datasets", hookimpl(lambda: [spec]))
    with pytest.raises(RuntimeError, match="a bug"):
        Registry(default_plugins=("sample_plugin",), load_plugins=frozenset()).dataset_for_path(Path("x"))


def test_default_plugins_all_load():
    registry = Registry(load_plugins=frozenset())
    assert [(plugin.name, plugin.errors) for plugin in registry.built_in if plugin.errors] == []
    assert len(registry.built_in) == len(DEFAULT_PLUGINS)
    assert len(registry.default_metrics()) >= 1


def test_registry_from_environment(monkeypatch):
    monkeypatch.setenv("ICCLIP_LOAD_PLUGINS", "one, two,")
    assert Registry.from_environment().load_plugins == {"one", "two"}
    monkeypatch.delenv("ICCLIP_LOAD_PLUGINS")
    assert Registry.from_environment().load_plugins is None


# Loading


def test_ctrl_c_while_a_plugin_loads_stops_the_program():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loaded(icclip_datasets=interrupt)


def test_what_a_plugin_prints_goes_to_stderr(capsys):
    loaded(icclip_datasets=lambda: print("noise") or [])  # noqa: T201 - that is what it is about
    assert capsys.readouterr() == ("", "noise\n")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (dataset(requires="torch"), "requires is 'torch': expected a tuple of strings"),
        (dataset(recognises=1), "recognises is 1: expected a callable"),
        (dataset(takes_path="yes"), "takes_path is 'yes': expected True or False"),
        (dataset(""), "name is '': use letters"),
        (metric("a/b"), "name is 'a/b': use letters"),
        (backend(model_types=["m"]), "model_types is ['m']: expected a tuple of strings"),
        (backend(vision=None), "vision is None: expected a TowerLayout"),
        (backend(text=layout(blocks=3)), "text.blocks is 3: expected a callable"),
        (backend(text=layout(graph_input="")), "text.graph_input is empty: give a name"),
        (backend(vision=layout(parameters=())), "vision.parameters must not be empty"),
        (backend(vision=layout(parameters=("",))), "vision.parameters must not be empty"),
        (backend(resize=3), "resize is 3: expected a callable"),
        (backend(presets=("tiny",)), "presets is ('tiny',): expected a tuple of Preset"),
        (
            backend(presets=(Preset(name="x", summary="s", build=len, defaults=3),)),
            "preset 'x': defaults is 3: expected a mapping",
        ),
    ],
)
def test_fields_are_checked(spec, problem):
    (found,) = spec_problems(spec)
    assert found.startswith(problem)


def test_loss_family_is_checked():
    spec = dataclasses.replace(backend(), loss="hinge")
    assert spec_problems(spec) == ["loss is 'hinge': expected 'softmax' or 'sigmoid'"]


@pytest.mark.parametrize("spec", [backend(), dataset(), metric("nDCG@10"), target()])
def test_good_fields_pass(spec):
    assert spec_problems(spec) == []
