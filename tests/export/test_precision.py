"""fp16 and int8 on small graphs with a planted difficulty, and on real towers."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from icclip.bundles.manifest import TowerIO
from icclip_export.onnx.activations import captured, largest_values
from icclip_export.onnx.export import runner
from icclip_export.onnx.graphs import external_data, save_graph
from icclip_export.onnx.towers import example_pixels, example_tokens, tower_ios
from icclip_export.precisions import NAMES, fp16, int8
from icclip_export.precisions import precision as find_precision
from icclip_export.precisions.conversion import Conversion
from icclip_export.precisions.search import Measure
from icclip_export.quantization.products import product_error
from icclip_export.quantization.rounding import rounding_error

IO = TowerIO(input="x", output="y")
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(16, 32)).astype(np.float32)


def chain(path, *weights):
    """x @ W0 -> relu -> @ W1 -> relu ... = y; the products are called m0, m1, ..."""
    nodes, tensor = [], "x"
    for i, _ in enumerate(weights):
        last = i == len(weights) - 1
        nodes.append(helper.make_node("MatMul", [tensor, f"w{i}"], ["y" if last else f"p{i}"], name=f"m{i}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"p{i}"], [f"r{i}"], name=f"relu{i}"))
        tensor = f"r{i}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", weights[0].shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", weights[-1].shape[1]])],
        [numpy_helper.from_array(w.astype(np.float32), f"w{i}") for i, w in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def weight(scale=1.0):
    return RNG.normal(size=(32, 32)) * scale / np.sqrt(32)


def relative(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def within(source, limit, inputs=INPUTS):
    """A score: the graph's largest difference from `source`, as onnx's reference runs it, in true fp16."""
    expected = runner(source, IO)(inputs)

    def score(graph):
        error = relative(runner(graph, IO)(inputs), expected)
        return Measure(error=error / limit)

    return score


def convert(recipe, source, target, *, io, inputs, score):
    folder = target.parent / f"{target.stem} kept"
    folder.mkdir()
    return Conversion(recipe, source, target, io=io, inputs=inputs, score=score, folder=folder).search(bar=1.0)


def test_largest_values_by_hand(tmp_path):
    source = chain(tmp_path / "g.onnx", np.array([[2.0, -3.0]]), np.array([[1.0], [1.0]]))
    values = largest_values(source, IO, np.array([[1.0], [-4.0]], np.float32))
    # x W0 = [2, -3] and [-8, 12]; relu [2, 0] and [0, 12]; y = 2 and 12.
    assert values == {"p0": 12.0, "r0": 12.0, "y": 12.0}


def test_what_masks_are_filled_with_is_no_activation(tmp_path):
    source = chain(tmp_path / "g.onnx", np.array([[-3e38, 5.0]]), np.array([[0.0], [1.0]]))
    values = largest_values(source, IO, np.array([[1.0]], np.float32))
    assert values["p0"] == 5.0


def test_captured_tensors_are_the_graphs_own(tmp_path):
    source = chain(tmp_path / "g.onnx", weight(), weight())
    found = captured(source, IO, INPUTS, ["r0", "y"])
    assert np.array_equal(found["y"], runner(source, IO)(INPUTS))
    assert (found["r0"] >= 0).all()
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]


# fp16


@pytest.fixture
def overflowing(tmp_path):
    """Between m1 and m2 values reach a million; what comes out is of order one again."""
    return chain(tmp_path / "g.onnx", weight(), weight(1e6), weight(1e-6), weight())


def test_an_overflow_is_real_where_nothing_is_kept(overflowing, tmp_path):
    fp16.build(overflowing, tmp_path / "h.onnx", [])
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(str(tmp_path / "h.onnx")).run(None, {"x": INPUTS})[0]
    assert not np.isfinite(found).all()


def test_the_nodes_that_overflow_stay_in_float32_and_no_others(overflowing, tmp_path):
    target = tmp_path / "h.onnx"
    found = convert(fp16.PRECISION.recipe, overflowing, target, io=IO, inputs=INPUTS, score=within(overflowing, 1e-2))
    assert sorted(found.kept) == ["m1", "m2", "relu1"]
    assert found.evaluations == 1
    # In true fp16: the value between them never passes through it.
    result = ReferenceEvaluator(str(target)).run(None, {"x": INPUTS})[0]
    assert relative(result, runner(overflowing, IO)(INPUTS)) < 1e-2
    assert result.dtype == np.float32


def test_the_reach_of_a_layer_norm_is_squared(models, exported):
    inputs = example_pixels(models["clip"], 2).numpy()
    source = exported["clip"] / "vision_model.onnx"
    io = tower_ios(models["clip"])["vision"]
    values = largest_values(source, io, inputs)
    node = next(n for n in onnx.load(source).graph.node if n.op_type == "LayerNormalization")
    strain = next(s.strain for s in fp16.sensitivities(source, io, inputs) if s.node == node.name)
    assert strain >= values[node.input[0]] ** 2


def test_a_score_that_needs_more_gets_more(tmp_path):
    """Nothing overflows; the score alone decides, here that m2 has to stay."""
    source = chain(tmp_path / "g.onnx", weight(), weight(), weight())

    def score(graph):
        types = {t.name: t.data_type for t in onnx.load(graph).graph.initializer}
        return Measure(error=0.0 if types["w2"] == TensorProto.FLOAT else 2.0)

    found = convert(fp16.PRECISION.recipe, source, tmp_path / "h.onnx", io=IO, inputs=INPUTS, score=score)
    assert found.passed
    assert "m2" in found.kept
    assert len(found.kept) < 5


def test_what_masks_are_filled_with_is_no_reason_to_stay_in_float32(tmp_path):
    """As an initializer too, where a graph holds it as one."""
    source = chain(tmp_path / "g.onnx", np.array([[-3e38, 5.0]]), np.array([[0.0], [1.0]]))
    strains = {one.node: one.strain for one in fp16.sensitivities(source, IO, np.array([[1.0]], np.float32))}
    assert strains == {"m0": 5.0, "relu0": 5.0, "m1": 5.0}


def test_a_weight_that_stays_in_float32_keeps_the_type_that_the_graph_names(tmp_path):
    """Graphs of torch's exporter name the types of weights too, and the converter changes the name alone."""
    source = chain(tmp_path / "g.onnx", weight(), weight(), weight())
    model = onnx.load(source)
    model.graph.value_info.extend(helper.make_tensor_value_info(f"w{i}", TensorProto.FLOAT, [32, 32]) for i in range(3))
    onnx.save(model, source)
    fp16.build(source, tmp_path / "h.onnx", ["m1"])
    onnx.checker.check_model(str(tmp_path / "h.onnx"), full_check=True)
    types = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "h.onnx").graph.initializer}
    assert types == {"w0": TensorProto.FLOAT16, "w1": TensorProto.FLOAT, "w2": TensorProto.FLOAT16}


# int8


@pytest.fixture
def spiked(tmp_path):
    """m1 reads one huge channel that it gives next to no weight: one scale for all drowns the others."""
    spike = weight()
    spike[:, 7] *= 2000
    after = weight()
    after[7] /= 2000
    return chain(tmp_path / "g.onnx", spike, after, weight(), weight())


def test_the_node_that_quantization_ruins_is_ranked_first(spiked):
    ranked = sorted(int8.sensitivities(spiked, IO, INPUTS), key=lambda s: -s.strain)
    assert ranked[0].node == "m1"
    assert ranked[0].strain > 10 * ranked[1].strain


def test_the_ruined_node_alone_stays_in_float32(spiked, tmp_path):
    """As it would without inputs that show how to equalize its channels."""
    plain = dataclasses.replace(int8.PRECISION.recipe, calibrated=None)
    found = convert(plain, spiked, tmp_path / "q.onnx", io=IO, inputs=INPUTS, score=within(spiked, 0.1))
    assert found.kept == ("m1",)
    assert found.passed
    operators = [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
    assert operators.count("MatMulInteger") == 3
    assert operators.count("MatMul") == 1


def test_the_simulated_error_is_the_real_one(tmp_path):
    source = chain(tmp_path / "g.onnx", weight())
    int8.build(source, tmp_path / "q.onnx", [])
    expected, found = runner(source, IO)(INPUTS), runner(tmp_path / "q.onnx", IO)(INPUTS)
    real = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    simulated = product_error(INPUTS, numpy_helper.to_array(onnx.load(source).graph.initializer[0]))
    assert simulated == pytest.approx(real, rel=0.1)


def test_errors_of_nothing_are_nothing():
    assert product_error(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)) == 0
    assert rounding_error(np.zeros((2, 3), np.float32)) == 0


def test_quantized_weights_leave_a_bit_unused(graphs, tmp_path):
    """Sums of two 8-bit products saturate on CPUs without VNNI."""
    int8.build(graphs / "vision_model.onnx", tmp_path / "q.onnx", [])
    graph = onnx.load(tmp_path / "q.onnx").graph
    read = {name for node in graph.node if node.op_type == "MatMulInteger" for name in node.input}
    weights = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in read]
    quantized = [w for w in weights if w.dtype == np.int8 and w.ndim == 2]
    assert len(quantized) > 8
    assert max(int(np.abs(w.astype(int)).max()) for w in quantized) <= 64


def test_embedding_tables_are_quantized_too(graphs, tmp_path):
    int8.build(graphs / "text_model.onnx", tmp_path / "q.onnx", [])
    assert (tmp_path / "q.onnx").stat().st_size < 0.35 * (graphs / "text_model.onnx").stat().st_size


def test_a_gemm_that_is_kept_is_not_quantized_under_its_new_name(exported, tmp_path):
    source = exported["siglip"] / "text_model.onnx"
    gemms = [node.name for node in onnx.load(source).graph.node if node.op_type == "Gemm"]
    counts = []
    for kept in ([], gemms):
        int8.build(source, tmp_path / "q.onnx", kept)
        counts.append([n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node].count("MatMulInteger"))
    assert counts[0] - counts[1] == len(gemms) == 1


# Real towers


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_honest_towers_pass_whole(graphs, loaded, tower, precision, tmp_path):
    limit = {"fp16": 1e-5, "int8": 5e-3}[precision]
    io = tower_ios(loaded)[tower]
    inputs = (example_pixels(loaded, 4) if tower == "vision" else example_tokens(loaded, 4, 20)).numpy()
    source = graphs / f"{tower}_model.onnx"
    expected = runner(source, io)(inputs)

    def score(graph):
        found = runner(graph, io)(inputs)
        assert found.dtype == np.float32
        cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        return Measure(error=(1 - float(cosines.min())) / limit)

    found = convert(find_precision(precision).recipe, source, tmp_path / "r.onnx", io=io, inputs=inputs, score=score)
    assert (found.kept, found.evaluations, found.passed) == ((), 1, True)
    again = convert(find_precision(precision).recipe, source, tmp_path / "s.onnx", io=io, inputs=inputs, score=score)
    assert (tmp_path / "r.onnx").read_bytes() == (tmp_path / "s.onnx").read_bytes()
    assert again == found


# Weights beside the graph


def test_large_graphs_keep_their_weights_beside_them(graphs, loaded, tmp_path):
    source, target = graphs / "text_model.onnx", tmp_path / "text_model.onnx"
    save_graph(onnx.load(source), target, inline_limit=0)
    assert external_data(target) == [tmp_path / "text_model.onnx_data"]
    assert target.stat().st_size < 0.1 * source.stat().st_size
    io, ids = tower_ios(loaded)["text"], example_tokens(loaded, 2).numpy()
    expected = runner(source, io)(ids)
    assert np.array_equal(runner(target, io)(ids), expected)
    for name in NAMES[1:]:
        recipe = find_precision(name).recipe
        reduced = tmp_path / f"{name}.onnx"
        recipe.sensitivities(target, io, ids)
        recipe.build(target, reduced, [])
        assert relative(runner(reduced, io)(ids), expected) < 0.2
        assert not external_data(reduced)


def test_a_graph_that_fits_again_leaves_nothing_beside_it(graphs, tmp_path):
    target = tmp_path / "g.onnx"
    save_graph(onnx.load(graphs / "text_model.onnx"), target, inline_limit=0)
    save_graph(onnx.load(graphs / "text_model.onnx"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]
