"""Which exporter writes the graphs, that it does not matter to the embeddings, and what is said where one cannot be used."""

from __future__ import annotations

import importlib.metadata
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from support import towers

from icclip.bundles.manifest import read_manifest
from icclip.config import ModelConfig
from icclip.errors import GateError, MissingExtraError, UnknownNameError, UsageError
from icclip.models.opening import open_model
from icclip_export.onnx.export import TOLERANCE, check_numbers, export_towers, quiet_export, runner
from icclip_export.onnx.exporters import NAMES, choose_exporter, optimum
from icclip_export.onnx.exporters import torch as torchs
from icclip_export.onnx.graphs import external_data
from icclip_export.onnx.towers import example_pixels, example_tokens, tower_exports


def usable(name):
    try:
        choose_exporter(name)
    except UsageError:
        return False
    return True


both = pytest.mark.skipif(not all(map(usable, NAMES)), reason="needs both exporters")


def inputs_of(loaded):
    return {"vision": example_pixels(loaded, 5).numpy(), "text": example_tokens(loaded, 5).numpy()}


def largest_difference(loaded, one, two):
    """Of the embeddings that two directories of graphs give, as a fraction of their length."""
    ios = {tower: exported.io for tower, exported in tower_exports(loaded).items()}
    found = []
    for tower, inputs in inputs_of(loaded).items():
        here, there = (runner(folder / f"{tower}_model.onnx", ios[tower])(inputs) for folder in (one, two))
        found.append(np.abs(here - there).max() / np.linalg.norm(here, axis=1).min())
    return max(found)


@both
def test_both_exporters_give_the_same_embeddings(exports, models, family):
    assert largest_difference(models[family], *(exports(name, family) for name in NAMES)) < 1e-5


@both
def test_both_exporters_give_the_same_embeddings_of_two_foreign_towers(icclip, registry, tmp_path):
    start = towers.assembled(icclip, tmp_path, towers.efficientnet(), towers.bert(), "--projection-dim", 16)
    loaded = open_model(registry, ModelConfig(name=str(start)))
    for name in NAMES:
        (tmp_path / name).mkdir()
        export_towers(loaded, tmp_path / name, exporter=choose_exporter(name))
    assert largest_difference(loaded, *(tmp_path / name for name in NAMES)) < 1e-5


def test_graphs_name_no_file_of_the_machine_that_wrote_them(graphs):
    for graph in graphs.glob("*.onnx"):
        assert b".py" not in graph.read_bytes()
        assert {node.doc_string for node in onnx.load(graph).graph.node} == {""}


@pytest.mark.skipif(not usable("torch"), reason="needs onnxscript")
def test_torch_writes_large_weights_beside_the_graph(models, tmp_path):
    loaded = models["siglip"]
    tower, path = tower_exports(loaded)["vision"], tmp_path / "vision_model.onnx"
    (tmp_path / "vision_model.onnx_data").write_text("of an earlier export")
    with quiet_export():
        torchs.write(tower, path, 18, inline_limit=0)
    assert external_data(path) == [tmp_path / "vision_model.onnx_data"]
    assert path.stat().st_size < 0.1 * external_data(path)[0].stat().st_size
    assert check_numbers("vision", tower, path, loaded) < TOLERANCE


def test_an_opset_that_a_graph_cannot_have_is_refused():
    with pytest.raises(GateError, match="the graph has opset 20, and cannot be converted to 18: nothing was kept"):
        torchs._check_opset(SimpleNamespace(opset_imports={"": 20}), 18)


# Which one


@pytest.fixture
def packages(monkeypatch):
    """Give distributions other versions, or none."""

    def give(**versions):
        found = {name.replace("_", "-"): version for name, version in versions.items()}
        real = importlib.metadata.version

        def version(name):
            if found.get(name, "") is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found.get(name) or real(name)

        asked = ["optimum~=2.1.0", "transformers<4.58.0,>=4.36", "onnx"]
        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(importlib.metadata, "requires", lambda _: asked)

    return give


@pytest.mark.parametrize(
    ("optimum_onnx", "transformers", "name"),
    [
        ("0.1.0", "4.57.6", "optimum"),
        ("0.1.0", "5.24.0", "torch"),
        ("0.1.0", "5.0.0rc1", "torch"),
        (None, "4.57.6", "torch"),
        (None, "5.24.0", "torch"),
    ],
)
def test_optimum_is_chosen_where_it_fits_and_torch_elsewhere(packages, optimum_onnx, transformers, name):
    packages(optimum_onnx=optimum_onnx, transformers=transformers, onnxscript="0.7.2")
    assert choose_exporter("auto").name == choose_exporter().name == name


def test_an_exporter_says_what_it_is_made_of(packages):
    packages(optimum_onnx="0.1.0", transformers="4.57.6", onnxscript="0.7.2")
    labels = [choose_exporter(name).label for name in NAMES]
    assert labels == ["optimum (optimum-onnx 0.1.0)", "torch (onnxscript 0.7.2)"]


def test_a_later_optimum_may_be_made_for_a_later_transformers(packages, monkeypatch):
    packages(optimum_onnx="0.2.0", transformers="5.24.0")
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: ["transformers>=4.57; extra == 'tests'", "transformers<6"]
    )
    assert optimum.obstacle() is None


def test_an_exporter_that_does_not_exist():
    with pytest.raises(UnknownNameError, match="unknown exporter 'tf'; known: auto, optimum, torch"):
        choose_exporter("tf")


# What is said where one cannot be used: one line, and nothing is written


def refused(icclip, tmp_path, exporter):
    outcome = icclip("export", tmp_path / "no-model", "-o", tmp_path / "b", "--exporter", exporter, "-d", "shapes")
    assert (outcome.code, outcome.out, list(tmp_path.iterdir())) == (2, "", []), outcome
    (line,) = outcome.err.splitlines()
    return line


def test_optimum_beside_a_transformers_that_it_is_not_made_for(icclip, tmp_path, packages):
    packages(optimum_onnx="0.1.0", transformers="5.24.0")
    assert refused(icclip, tmp_path, "optimum") == (
        "error: --exporter optimum: optimum-onnx 0.1.0 is made for transformers<4.58.0,>=4.36, and 5.24.0 is installed: "
        "use --exporter torch, or pip install 'icclip[export-optimum]'"
    )


def test_optimum_is_not_installed(icclip, tmp_path, packages):
    packages(optimum_onnx=None)
    assert refused(icclip, tmp_path, "optimum") == (
        "error: --exporter optimum needs optimum-onnx, not installed here: pip install 'icclip[export-optimum]'"
    )


def test_onnxscript_is_not_installed(icclip, tmp_path, packages, monkeypatch):
    packages(onnxscript=None, optimum_onnx=None)
    for name in ("torch", "auto"):
        with pytest.raises(MissingExtraError, match=r"--exporter torch needs onnxscript, .*'icclip\[export\]'"):
            choose_exporter(name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "onnxscript" else find_spec(name))
    line = refused(icclip, tmp_path, "torch")
    assert "'onnx' needs onnxscript, not installed here: pip install 'icclip[export]'" in line


def test_what_was_chosen_is_said_and_recorded(icclip, checkpoints, tmp_path):
    loose = [f"--threshold=drop_r{k}=1" for k in (1, 5, 10)] + [
        "--threshold=top10_overlap=0",
        "--threshold=centred_min_cosine=0",
    ]
    options = ("-d", "shapes", "--sample", 24, "--provider", "cpu", *loose)
    outcome = icclip("export", checkpoints["clip"], "-o", tmp_path / "b", *options)
    assert outcome.code == 0, outcome.err
    chosen = choose_exporter()
    assert f"exporter    {chosen.label}" in outcome.err
    manifest = read_manifest(tmp_path / "b")
    assert manifest.exporter == chosen.name
    assert {"torch", "onnxscript", "onnxruntime"} <= manifest.versions.keys()
