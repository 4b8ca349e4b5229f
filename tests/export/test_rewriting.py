"""Rewritten graphs against the exporter's own: the fast path against the plain one, whoever exported."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from support import towers
from support.bundles import export_graph
from support.mutants import _Function as Function

from icclip.config import ModelConfig
from icclip.console import Reporter
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip_export.onnx import graphs as onnx_graphs
from icclip_export.onnx.export import TOLERANCE, check_graph, check_numbers, export_towers
from icclip_export.onnx.towers import example_pixels, example_tokens, tower_exports
from icclip_export.precisions import int8
from icclip_export.rewriting import pipeline
from icclip_export.rewriting import towers as rewriting
from icclip_export.rewriting.contrib import fuse_attention
from icclip_export.rewriting.pipeline import rewrite

POOLED, SCALED = "last layer for the pooled token", "attention with its scale in the weights"
PROBED = "pooling with its constant query in the weights"
LAYERS = {("clip", "vision"): 4, ("clip", "text"): 3, ("siglip", "vision"): 4, ("siglip", "text"): 3}


class Notes(Reporter):
    def __init__(self):
        super().__init__(silent=True)
        self.notes, self.warnings = [], []

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)


def run(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def apart(found, plain):
    return np.abs(found - plain).max() / np.linalg.norm(plain, axis=1).min()


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def copied(graph, folder):
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(graph, folder))


def inputs_of(loaded, tower):
    if tower == "vision":
        return [example_pixels(loaded, batch).numpy() for batch in (1, 3)]
    lengths = (
        (4, 11, loaded.feeder.text_policy.max_length) if loaded.feeder.text_policy.padding == "longest" else (None,)
    )
    return [example_tokens(loaded, batch, length).numpy() for batch in (1, 3) for length in lengths]


# Each pattern, against the plain graph -------------------------------------------------------------


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_a_rewritten_tower_gives_what_the_plain_one_gives(loaded, graphs, tmp_path, tower, written_out):
    family = loaded.backend.name
    plain = graphs / f"{tower}_model.onnx"
    if written_out:
        plain = export_towers(loaded, tmp_path, eager_attention=True)[tower]
    made = tmp_path / "made.onnx"
    counts = rewrite(plain, made)
    layers = LAYERS[family, tower]
    # SigLIP's images are pooled by attention over all tokens.
    probed = (family, tower) == ("siglip", "vision")
    expected = {SCALED: layers, PROBED: 1} if probed else {POOLED: 1, SCALED: layers - 1}
    assert counts == expected
    check_graph(made)
    # Written out, a layer has few operators to lose, and on transformers 5 selecting a row of its mask takes up to one more.
    assert len(operators(made)) <= len(operators(plain)) + (1 if written_out else -1)
    for inputs in inputs_of(loaded, tower):
        assert apart(run(made, inputs), run(plain, inputs)) < 1e-6
    assert check_numbers(tower, tower_exports(loaded)[tower], made, loaded) < TOLERANCE


@pytest.mark.parametrize(("family", "tower"), [("clip", "vision"), ("clip", "text"), ("siglip", "text")])
def test_the_last_layer_is_computed_for_one_row(exported, tmp_path, family, tower):
    """The feed-forward part of the last layer reads [b, 1, d]; every other reads all tokens."""
    made = tmp_path / "made.onnx"
    rewrite(exported[family] / f"{tower}_model.onnx", made)
    model = onnx.load(made)
    widest = max(dict(weights(model)).values(), key=lambda array: array.shape[1])
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in dict(weights(model))]
    wide = [node for node in products if dict(weights(model))[node.input[1]].shape == widest.shape]
    model.graph.output.extend(
        helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None) for node in wide
    )
    onnx.save(model, tmp_path / "looked.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "looked.onnx"), providers=["CPUExecutionProvider"])
    shape = [one if isinstance(one, int) else 3 for one in session.get_inputs()[0].shape]
    example = np.zeros(shape, np.float32 if tower == "vision" else np.int64)
    rows = [array.shape[1] for array in session.run(None, {session.get_inputs()[0].name: example})[1:]]
    assert rows[-1] == 1
    assert min(rows[:-1]) > 1


def weights(model):
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT:
            yield tensor.name, numpy_helper.to_array(tensor)


def test_the_pooled_row_is_that_of_each_text(models, exported, tmp_path):
    """Texts that end in different places, alone and side by side."""
    plain, made = exported["clip"] / "text_model.onnx", tmp_path / "made.onnx"
    rewrite(plain, made)
    ids = example_tokens(models["clip"], 8, 20).numpy()
    together = run(made, ids)
    assert apart(together, run(plain, ids)) < 1e-6
    for row, text in enumerate(ids):
        end = int((text == models["clip"].feeder.processor.tokenizer.eos_token_id).argmax())
        assert apart(run(made, text[None, : end + 1]), together[row : row + 1]) < 1e-5


def test_texts_pooled_at_the_largest_id(models, tmp_path):
    loaded = dataclasses.replace(models["clip"], model=copy.deepcopy(models["clip"].model))
    loaded.model.text_model.eos_token_id = 2
    plain = export_towers(loaded, tmp_path)["text"]
    assert rewrite(plain, tmp_path / "made.onnx")[POOLED] == 1
    ids = example_tokens(loaded, 3, 9).numpy()
    assert apart(run(tmp_path / "made.onnx", ids), run(plain, ids)) < 1e-6


class Guarded(torch.nn.Module):
    """Attention with a mask of yes and no, as torch's exporter writes it for transformers 5."""

    def __init__(self, filler):
        super().__init__()
        torch.manual_seed(0)
        self.filler = filler
        self.q, self.k, self.v = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        b, s, _ = x.shape
        q, k, v = (layer(x).reshape(b, s, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mask = torch.where((x[:, :, 0] > 0)[:, None, None], torch.tensor(0.0), torch.tensor(self.filler))
        weights = (q @ k.transpose(-1, -2) * 0.5 + mask).softmax(dim=-1)
        weights = torch.where(weights.isnan(), torch.tensor(0.0), weights)
        return (weights @ v).transpose(1, 2).reshape(b, s, 8)


@pytest.mark.parametrize(("filler", "made"), [(-3e38, {SCALED: 1}), (-float("inf"), {})])
def test_a_guard_against_nan_goes_where_no_mask_can_make_one(tmp_path, filler, made):
    path = tmp_path / "guarded.onnx"
    export_graph(Function(Guarded(filler).eval()), torch.rand(2, 4, 8), path, names=["x", "y"], axes={0: "batch"})
    assert {"IsNaN", "Where"} <= set(operators(path))
    assert rewrite(path, tmp_path / "made.onnx") == made
    if made:
        tokens = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
        tokens[0, :, 0] = -1  # All of it is masked.
        assert "IsNaN" not in operators(tmp_path / "made.onnx")
        assert np.abs(run(tmp_path / "made.onnx", tokens) - run(path, tokens)).max() < 1e-6


# Pooling by a learned query ------------------------------------------------------------------------


def noisy_head(loaded):
    """A model whose pooling head has biases, which are 0 in a new one."""
    noisy = dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in noisy.model.vision_model.head.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return noisy


@pytest.fixture(scope="module")
def noisy(models, exporter, tmp_path_factory):
    """The model, its vision graph as exported, and rewritten."""
    loaded, folder = noisy_head(models["siglip"]), tmp_path_factory.mktemp("noisy")
    plain, made = export_towers(loaded, folder, exporter=exporter)["vision"], folder / "made.onnx"
    assert rewrite(plain, made)[PROBED] == 1
    return loaded, plain, made


def test_pooling_by_a_learned_query_needs_no_keys_and_values_of_tokens(noisy):
    loaded, plain, made = noisy
    for batch in (1, 3):
        pixels = example_pixels(loaded, batch).numpy()
        assert apart(run(made, pixels), run(plain, pixels)) < 1e-6
    assert check_numbers("vision", tower_exports(loaded)["vision"], made, loaded) < TOLERANCE
    found = [array.shape for name, array in weights(onnx.load(made)) if name.startswith("pooling.")]
    dim, heads = (
        loaded.model.config.vision_config.hidden_size,
        loaded.model.config.vision_config.num_attention_heads,
    )
    assert sorted(found) == sorted([(dim, heads), (dim, dim), (heads, dim), (dim, dim)])
    # The query is no longer computed, nor repeated for each image.
    assert not {"Tile", "Expand", "Split", "Gemm"} & set(operators(made))


def test_pooling_by_a_learned_query_in_int8(noisy, tmp_path):
    """Its large products are in int8; the scores, a product with one column for each head, are not."""
    loaded, _, made = noisy
    reduced = tmp_path / "int8.onnx"
    int8.build(made, reduced, ())
    kept = {name for name, _ in weights(onnx.load(reduced)) if name.startswith("pooling.")}
    assert kept == {"pooling.scores", "pooling.own"}
    pixels = example_pixels(loaded, 3).numpy()
    assert apart(run(reduced, pixels), run(made, pixels)) < 0.05
    scores = next(node for node in onnx.load(made).graph.node if "pooling.scores" in node.input)
    inputs = example_pixels(loaded, 2).numpy()
    ranked = int8.sensitivities(made, tower_exports(loaded)["vision"].io, inputs)
    assert scores.name not in {one.node for one in ranked}


class Pooled(torch.nn.Module):
    """Attention of torch's own that is no pooling by one learned query."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.probe = torch.nn.Parameter(torch.randn(1, 2 if kind == "two queries" else 1, 8))
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        probe = self.probe.repeat(x.shape[0], 1, 1)
        if self.kind == "a query of the image":
            probe = probe + x[:, :1]
        values = 2 * x if self.kind == "other values" else x
        weights = self.kind == "weights are read"
        pooled, seen = self.attention(probe, x, values)
        return pooled[:, 0] + seen.sum(dim=(1, 2))[:, None] if weights else pooled[:, 0]


@pytest.mark.parametrize("kind", ["two queries", "a query of the image", "other values", "weights are read"])
def test_what_only_looks_like_such_a_pooling_is_left_alone(tmp_path, kind):
    path = tmp_path / "odd.onnx"
    export_graph(Function(Pooled(kind).eval()), torch.rand(2, 4, 8), path, names=["x", "y"], axes={0: "batch"})
    assert rewrite(path, tmp_path / "made.onnx") == {}


def test_such_a_pooling_in_another_tower_is_found(tmp_path):
    path = tmp_path / "tower.onnx"
    export_graph(Function(Pooled("plain").eval()), torch.rand(2, 4, 8), path, names=["x", "y"], axes={0: "batch"})
    assert rewrite(path, tmp_path / "made.onnx") == {PROBED: 1}
    tokens = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    assert apart(run(tmp_path / "made.onnx", tokens), run(path, tokens)) < 1e-6


# One operator of onnxruntime -----------------------------------------------------------------------


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_attention_as_one_operator_gives_what_the_plain_one_gives(loaded, graphs, tmp_path, tower):
    plain, made = tmp_path / "plain.onnx", tmp_path / "made.onnx"
    rewrite(graphs / f"{tower}_model.onnx", plain)
    layers = LAYERS[loaded.backend.name, tower]
    assert fuse_attention(plain, made) == layers
    fused = [node for node in onnx.load(made).graph.node if node.op_type == "MultiHeadAttention"]
    assert len(fused) == layers
    # What is left pools SigLIP's images.
    assert operators(made).count("Softmax") == operators(plain).count("Softmax") - layers
    for inputs in inputs_of(loaded, tower):
        assert apart(run(made, inputs), run(plain, inputs)) < 1e-6


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_int8_has_attention_as_one_operator(loaded, graphs, tmp_path, tower):
    whole, made = tmp_path / "whole.onnx", tmp_path / "made.onnx"
    rewrite(graphs / f"{tower}_model.onnx", whole)
    int8.build(whole, made, ())
    check_graph(made)
    assert operators(made).count("MultiHeadAttention") == LAYERS[loaded.backend.name, tower]
    for inputs in inputs_of(loaded, tower):
        assert apart(run(made, inputs), run(whole, inputs)) < 0.1


def test_a_graph_without_attention_has_no_operator_of_onnxruntime(tmp_path):
    path = tmp_path / "odd.onnx"
    export_graph(Function(Odd("squared").eval()), torch.rand(2, 4, 8), path, names=["x", "y"], axes={0: "batch"})
    before = path.read_bytes()
    assert fuse_attention(path, path) == 0
    assert path.read_bytes() == before


# Foreign towers -----------------------------------------------------------------------------------


def dual(icclip, root, vision):
    """The directory of the towers' graphs, and the model."""
    start = towers.assembled(icclip, root, vision, towers.bert(), "--projection-dim", 16)
    loaded = open_model(Registry(load_plugins=frozenset()), ModelConfig(name=str(start)))
    (root / "onnx").mkdir()
    export_towers(loaded, root / "onnx")
    return root / "onnx", loaded


def test_foreign_transformers_gain_as_well(icclip, tmp_path):
    folder, loaded = dual(icclip, tmp_path, towers.vit())
    for tower in ("vision", "text"):
        plain, made = folder / f"{tower}_model.onnx", tmp_path / "made.onnx"
        assert rewrite(plain, made)[POOLED] == 1
        for inputs in inputs_of(loaded, tower):
            assert apart(run(made, inputs), run(plain, inputs)) < 1e-6
        assert check_numbers(tower, tower_exports(loaded)[tower], made, loaded) < TOLERANCE


def test_a_tower_without_the_patterns_is_left_byte_by_byte(icclip, tmp_path):
    folder, loaded = dual(icclip, tmp_path, towers.convnext())
    graph = copied(folder / "vision_model.onnx", tmp_path / "alone")
    before = graph.read_bytes()
    assert rewrite(graph, tmp_path / "made.onnx") == {}
    assert not (tmp_path / "made.onnx").exists()
    said = Notes()
    rewriting.rewrite_towers(loaded, {"vision": graph}, said)
    assert graph.read_bytes() == before
    assert [path.name for path in graph.parent.iterdir()] == ["vision_model.onnx"]
    assert said.notes == said.warnings == []


class Odd(torch.nn.Module):
    """A tower with a softmax that is no attention of this kind."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.q, self.k, self.v, self.out = (torch.nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        b, s, _ = x.shape
        q, k, v = (layer(x).reshape(b, s, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.kind == "over queries":
            weights = (q @ k.transpose(-1, -2)).softmax(dim=-2)
        elif self.kind == "squared":
            weights = (q * q @ k.transpose(-1, -2)).softmax(dim=-1)
        elif self.kind == "scores are read":
            scores = (q @ k.transpose(-1, -2)).softmax(dim=-1)
            return (scores @ v).transpose(1, 2).reshape(b, s, 8)[:, 0] + scores.sum(dim=(1, 2, 3))[:, None]
        else:
            weights = (q @ k).softmax(dim=-1)  # s == d here
        return self.out((weights @ v).transpose(1, 2).reshape(b, s, 8))[:, 0]


@pytest.mark.parametrize("kind", ["over queries", "squared", "scores are read", "keys as they are"])
def test_what_only_looks_like_attention_is_left_alone(tmp_path, kind):
    path = tmp_path / "odd.onnx"
    export_graph(Function(Odd(kind).eval()), torch.rand(2, 4, 8), path, names=["x", "y"], axes={0: "batch"})
    assert rewrite(path, tmp_path / "made.onnx") == {}


# Kept only if it is right -------------------------------------------------------------------------


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_graphs_are_replaced_in_place(models, exported, tmp_path, family, tower):
    graph = copied(exported[family] / f"{tower}_model.onnx", tmp_path)
    before = operators(graph)
    said = Notes()
    rewriting.rewrite_towers(models[family], {tower: graph}, said)
    assert said.warnings == []
    assert len(said.notes) == 1
    assert said.notes[0].startswith(f"rewrote the {tower} graph: ")
    assert len(operators(graph)) < len(before)
    assert [path.name for path in tmp_path.iterdir()] == [graph.name]


def test_a_rewritten_graph_that_differs_is_not_kept(models, exported, tmp_path, monkeypatch):
    def wrong(graph):
        weight = next(value for value in graph.initializers.values() if "weight" in value.name)
        import onnx_ir

        weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * np.float32(1.01), name=weight.name)
        return 1

    monkeypatch.setattr(pipeline, "REWRITES", {"something wrong": wrong})
    graph = copied(exported["clip"] / "vision_model.onnx", tmp_path)
    before, said = graph.read_bytes(), Notes()
    rewriting.rewrite_towers(models["clip"], {"vision": graph}, said)
    assert graph.read_bytes() == before
    assert said.notes == []
    assert len(said.warnings) == 1
    assert said.warnings[0].startswith(
        "the vision tower stays as it was exported, because its rewritten graph is wrong: "
    )


def test_weights_beside_the_graph_stay_beside_it(models, exported, tmp_path, monkeypatch):
    graph = tmp_path / "text_model.onnx"
    onnx_graphs.save_graph(onnx.load(exported["clip"] / "text_model.onnx"), graph, inline_limit=1)
    save = onnx_graphs.save_graph
    monkeypatch.setattr(
        "icclip_export.rewriting.graphs.save_graph", lambda model, path: save(model, path, inline_limit=1)
    )
    said = Notes()
    rewriting.rewrite_towers(models["clip"], {"text": graph}, said)
    assert len(said.notes) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text_model.onnx", "text_model.onnx_data"]
    assert check_numbers("text", tower_exports(models["clip"])["text"], graph, models["clip"]) < TOLERANCE
