"""What int8 does to each kind of weight: equalized products, tables by the row, convolutions with corrected biases."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from icclip.bundles.manifest import TowerIO
from icclip_export.onnx.activations import channel_means
from icclip_export.onnx.export import runner
from icclip_export.precisions import int8
from icclip_export.quantization.convolutions import Convolutions, shift
from icclip_export.quantization.equalization import Equalization
from icclip_export.quantization.products import product_error, store_halves
from icclip_export.quantization.rounding import changed, quantized, restored, rounding_error
from icclip_export.quantization.tables import quantize_tables

IO = TowerIO(input="x", output="y")
RNG = np.random.default_rng(0)


def saved(path, nodes, weights, *, given=("b", 64), gives=("b", 64), dtype=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, list(given))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(gives))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def drawn(*shape):
    return (RNG.normal(size=shape) / np.sqrt(shape[-2] if len(shape) == 2 else np.prod(shape[1:]))).astype(np.float32)


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def apart(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# Weights


def test_every_row_has_a_step_of_its_own():
    weight = np.array([[1.0, -0.5, 0.25], [1e-3, 2e-3, 0.0], [0.0, 0.0, 0.0]], np.float32)
    whole, step = quantized(weight)
    assert whole.dtype == np.int8
    assert whole.tolist() == [[127, -64, 32], [64, 127, 0], [0, 0, 0]]
    assert step.ravel() == pytest.approx([1 / 127, 2e-3 / 127, 1])
    np.testing.assert_allclose(restored(weight), weight, atol=0.5 / 127)


# Products


@pytest.fixture
def outliers():
    """Channels as a transformer's: two of 64 are a hundred times larger than the others, and matter as much."""
    values = RNG.normal(size=(32, 64)).astype(np.float32)
    values[:, [3, 40]] *= 100
    return values


def normed(path, *, also=()):
    """LayerNorm -> two products -> sum; `also` are nodes that read the LayerNorm's output."""
    scale = np.ones(64, np.float32)
    scale[[3, 40]] = 100
    weights = {name: drawn(64, 64) for name in ("w0", "w1")}
    for weight in weights.values():
        weight[[3, 40]] /= 100
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "w0"], ["a"], name="m0"),
        helper.make_node("MatMul", ["n", "w1"], ["b"], name="m1"),
        helper.make_node("Add", ["a", "b"], ["s" if also else "y"], name="sum"),
        *also,
    ]
    return saved(path, nodes, {"scale": scale, "bias": drawn(64, 1)[:, 0], **weights})


def test_an_equalized_graph_computes_the_same_and_its_products_lose_less(tmp_path):
    source, inputs = normed(tmp_path / "g.onnx"), RNG.normal(size=(32, 64)).astype(np.float32)
    found = Equalization.of(source, IO, inputs)
    assert list(found.divisors) == ["n"]
    changed(source, tmp_path / "e.onnx", found.apply)
    expected = runner(source, IO)(inputs)
    np.testing.assert_allclose(runner(tmp_path / "e.onnx", IO)(inputs), expected, rtol=1e-4, atol=1e-4)
    errors = []
    for graph in (source, tmp_path / "e.onnx"):
        int8.build(graph, tmp_path / "q.onnx", [])
        errors.append(apart(runner(tmp_path / "q.onnx", IO)(inputs), expected))
    assert errors[1] < errors[0] / 3


def test_a_norm_that_only_products_read_takes_the_divisors(tmp_path):
    source, inputs = normed(tmp_path / "g.onnx"), RNG.normal(size=(32, 64)).astype(np.float32)
    changed(source, tmp_path / "e.onnx", Equalization.of(source, IO, inputs).apply)
    assert operators(tmp_path / "e.onnx") == operators(source)


def test_a_norm_that_others_read_too_stays_as_it_is(tmp_path):
    """As in BERT, whose residual reads it: one multiplication stands between it and the products."""
    residual = helper.make_node("Add", ["n", "s"], ["y"], name="residual")
    source, inputs = normed(tmp_path / "g.onnx", also=[residual]), RNG.normal(size=(32, 64)).astype(np.float32)
    changed(source, tmp_path / "e.onnx", Equalization.of(source, IO, inputs).apply)
    assert operators(tmp_path / "e.onnx").count("Mul") == 1
    np.testing.assert_allclose(
        runner(tmp_path / "e.onnx", IO)(inputs), runner(source, IO)(inputs), rtol=1e-4, atol=1e-4
    )


def test_a_norm_whose_scale_is_not_at_hand_is_followed_by_a_multiplication(tmp_path):
    source, inputs = normed(tmp_path / "g.onnx"), RNG.normal(size=(32, 64)).astype(np.float32)
    model = onnx.load(source)
    model.graph.node.insert(0, helper.make_node("Mul", ["scale", "one"], ["computed"], name="computed"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(64, np.float32), "one"))
    next(node for node in model.graph.node if node.name == "norm").input[1] = "computed"
    onnx.save(model, source)
    changed(source, tmp_path / "e.onnx", Equalization.of(source, IO, inputs).apply)
    assert operators(tmp_path / "e.onnx").count("Mul") == 2
    np.testing.assert_allclose(
        runner(tmp_path / "e.onnx", IO)(inputs), runner(source, IO)(inputs), rtol=1e-4, atol=1e-4
    )


def test_a_channel_that_was_idle_is_not_blown_up_when_it_is_used(tmp_path):
    """The inputs that are measured leave one channel idle; another input uses it as much as any."""
    source = normed(tmp_path / "g.onnx")
    model = onnx.load(source)
    del model.graph.node[0]
    for node in model.graph.node:
        node.input[0] = "x" if node.input[0] == "n" else node.input[0]
    onnx.save(model, source)
    measured = RNG.normal(size=(32, 64)).astype(np.float32)
    measured[:, [3, 40]] *= 100
    measured[:, 7] = 0
    found = Equalization.of(source, IO, measured).divisors["x"]
    assert found[7] > 0.1 * np.median(found)
    used = measured.copy()
    used[:, 7] = RNG.normal(size=32)
    expected, errors = runner(source, IO)(used), []
    changed(source, tmp_path / "e.onnx", Equalization({"x": found}).apply)
    for graph in (source, tmp_path / "e.onnx"):
        int8.build(graph, tmp_path / "q.onnx", [])
        errors.append(apart(runner(tmp_path / "q.onnx", IO)(used), expected))
    assert errors[1] < errors[0] / 2


def test_even_channels_are_left_alone(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    source = saved(tmp_path / "g.onnx", nodes, {"w": drawn(64, 64)})
    assert Equalization.of(source, IO, RNG.normal(size=(32, 64)).astype(np.float32)).divisors == {}


def test_the_weight_of_a_gemm_is_equalized_the_way_it_lies(tmp_path, outliers):
    weight = drawn(64, 64)
    weight[:, [3, 40]] /= 100
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="m", transB=1)]
    source = saved(tmp_path / "g.onnx", nodes, {"w": weight})
    found = Equalization.of(source, IO, outliers)
    assert list(found.divisors) == ["x"]
    changed(source, tmp_path / "e.onnx", found.apply)
    np.testing.assert_allclose(
        runner(tmp_path / "e.onnx", IO)(outliers), runner(source, IO)(outliers), rtol=1e-4, atol=1e-4
    )


def test_the_range_may_be_that_of_more_than_is_tried(outliers):
    weight = drawn(64, 64)
    few = outliers[:2]
    span = float(outliers.min()), float(outliers.max())
    assert product_error(few, weight, span) > product_error(few, weight)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_out_of_integers_has_its_weight_in_fp16_and_is_computed_in_float32(tmp_path, transposed):
    weight = drawn(64, 96)
    kind, options = ("Gemm", {"transB": 1}) if transposed else ("MatMul", {})
    node = helper.make_node(kind, ["x", "w"], ["y"], name="m", **options)
    source = saved(tmp_path / "g.onnx", [node], {"w": weight.T if transposed else weight}, gives=("b", 96))
    changed(source, tmp_path / "s.onnx", partial(store_halves, names=["m"]))
    inputs = RNG.normal(size=(8, 64)).astype(np.float32)
    expected = inputs @ weight.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(runner(tmp_path / "s.onnx", IO)(inputs), expected, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "s.onnx").stat().st_size < 0.6 * source.stat().st_size
    int8.build(tmp_path / "s.onnx", tmp_path / "q.onnx", ["m"])
    assert "MatMulInteger" not in operators(tmp_path / "q.onnx")


def test_a_weight_beyond_fp16_stays_in_float32(tmp_path):
    weight = drawn(64, 64)
    weight[0, 0] = 1e5
    source = saved(tmp_path / "g.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], {"w": weight})
    changed(source, tmp_path / "s.onnx", partial(store_halves, names=["m"]))
    inputs = RNG.normal(size=(8, 64)).astype(np.float32)
    np.testing.assert_array_equal(runner(tmp_path / "s.onnx", IO)(inputs), runner(source, IO)(inputs))


# Tables


def test_rows_are_restored_with_their_own_steps(tmp_path):
    """One rare word with a small row: with one step for the whole table, nothing would be left of it."""
    table = drawn(50, 64)
    table[7] *= 1e-4
    nodes = [helper.make_node("Gather", ["t", "x"], ["y"], name="look up")]
    source = saved(
        tmp_path / "g.onnx", nodes, {"t": table}, given=("b", 5), gives=("b", 5, 64), dtype=TensorProto.INT64
    )
    changed(source, tmp_path / "q.onnx", partial(quantize_tables, kept=[]))
    ids = np.array([[0, 7, 7, 49, 1]], np.int64)
    found = runner(tmp_path / "q.onnx", IO)(ids)
    np.testing.assert_array_equal(found, restored(table)[ids])
    assert apart(found[0, 1], table[7]) < 0.01
    assert (tmp_path / "q.onnx").stat().st_size < 0.4 * source.stat().st_size
    changed(source, tmp_path / "k.onnx", partial(quantize_tables, kept=["look up"]))
    np.testing.assert_array_equal(runner(tmp_path / "k.onnx", IO)(ids), table[ids])


# Convolutions


def convolved(path, *, layers=6, groups=1, channels=16, passed_on=False):
    """Patches, then convolutions with ReLUs between them, then the mean of the places; the first is the patches' own."""
    nodes, weights, tensor = [], {}, "x"
    for layer in range(layers + 1):
        name = "patches" if layer == 0 else f"c{layer}"
        own = 1 if layer == 0 else groups
        weights[f"{name}.w"] = drawn(channels, 3 if layer == 0 else channels // own, 3, 3)
        weights[f"{name}.b"] = drawn(channels, 1)[:, 0]
        read = f"{name}.w"
        if passed_on:
            nodes.append(helper.make_node("Identity", [read], [f"{name}.v"], name=f"pass {name}"))
            read = f"{name}.v"
        nodes.append(
            helper.make_node("Conv", [tensor, read, f"{name}.b"], [f"{name}.y"], name=name, pads=[1] * 4, group=own)
        )
        nodes.append(helper.make_node("Relu", [f"{name}.y"], [f"{name}.r"], name=f"{name}.relu"))
        tensor = f"{name}.r"
    nodes.append(helper.make_node("ReduceMean", [tensor, "places"], ["y"], name="pool", keepdims=0))
    weights["places"] = np.array([2, 3], np.int64)
    return saved(path, nodes, weights, given=("b", 3, 12, 12), gives=("b", channels))


IMAGES = RNG.normal(size=(40, 3, 12, 12)).astype(np.float32)


def test_the_means_of_channels_are_those_over_inputs_and_places(tmp_path):
    source = convolved(tmp_path / "g.onnx", layers=1)
    found = channel_means(source, IO, IMAGES[:11], ["patches.r"])["patches.r"]
    from icclip_export.onnx.activations import captured

    whole = captured(source, IO, IMAGES[:11], ["patches.r"])["patches.r"]
    np.testing.assert_allclose(found, whole.mean(axis=(0, 2, 3)), rtol=1e-4)


def test_a_shift_by_hand():
    # Steps are 1/127: .504 is rounded to 64/127 = .50394, the others are whole steps.
    weight = np.array([1.0, 0.504, 1.0, 64 / 127], np.float32).reshape(2, 2, 1, 1)
    lost = 0.504 - 64 / 127
    found = shift(weight, np.array([10.0, 100.0], np.float32), groups=1)
    assert found == pytest.approx([100 * lost, 0], abs=1e-5)
    # With two groups, the second output channel reads the third and the fourth.
    found = shift(weight[::-1].copy(), np.array([10.0, 100.0, 1.0, 2.0], np.float32), groups=2)
    assert found == pytest.approx([0, 2 * lost], abs=1e-5)


@pytest.mark.parametrize("groups", [1, 4, 16], ids=["all channels", "four groups", "depthwise"])
@pytest.mark.parametrize("passed_on", [False, True], ids=["plain", "through an Identity"])
def test_corrected_biases_bring_small_convolutions_closer(tmp_path, monkeypatch, groups, passed_on):
    source, errors = convolved(tmp_path / "g.onnx", groups=groups, passed_on=passed_on), []
    expected = runner(source, IO)(IMAGES)
    for corrected in (False, True):
        if not corrected:
            monkeypatch.setattr("icclip_export.quantization.convolutions.shift", lambda *_: np.float32(0))
        changed(source, tmp_path / "q.onnx", partial(Convolutions.of(source, IO, IMAGES).quantize, kept=[]))
        monkeypatch.undo()
        errors.append(apart(runner(tmp_path / "q.onnx", IO)(IMAGES), expected))
    assert errors[1] < 0.7 * errors[0]
    if groups == 1:
        assert (tmp_path / "q.onnx").stat().st_size < 0.5 * source.stat().st_size


def test_convolutions_that_are_kept_and_those_of_the_patches_stay(tmp_path):
    source = convolved(tmp_path / "g.onnx", layers=2)
    found = Convolutions.of(source, IO, IMAGES)
    assert set(found.errors()) == {"c1", "c2"}
    changed(source, tmp_path / "q.onnx", partial(found.quantize, kept=["c2"]))
    held = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert held["patches.w"] == held["c2.b"] == TensorProto.FLOAT
    assert held["c2_weight_fp16"] == TensorProto.FLOAT16
    assert held["c1_weight_8bits"] == TensorProto.INT8
    assert not {"c1.w", "c1.b", "c2.w"} & set(held)
    changed(source, tmp_path / "k.onnx", partial(found.quantize, kept=["c1", "c2"]))
    expected = runner(source, IO)(IMAGES)
    assert apart(runner(tmp_path / "k.onnx", IO)(IMAGES), expected) < 1e-3


def test_convolutions_over_tokens_are_left_alone(tmp_path):
    """They read no feature maps, so that there are no places to take means over."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w"], ["y"], name="c", pads=[1, 1]),
    ]
    source = saved(tmp_path / "g.onnx", nodes, {"w": drawn(8, 8, 3)}, given=("b", 8, 20), gives=("b", 8, 20))
    inputs = RNG.normal(size=(4, 8, 20)).astype(np.float32)
    found = Convolutions.of(source, IO, inputs)
    assert found.errors() == {}
    changed(source, tmp_path / "q.onnx", partial(found.quantize, kept=[]))
    np.testing.assert_array_equal(runner(tmp_path / "q.onnx", IO)(inputs), runner(source, IO)(inputs))


def test_runtimes_restore_the_weights_when_they_open_the_graph(tmp_path):
    """A DequantizeLinear would be computed at every run, and the convolution with a kernel for weights that may change."""
    import onnxruntime

    source = convolved(tmp_path / "g.onnx")
    changed(source, tmp_path / "q.onnx", partial(Convolutions.of(source, IO, IMAGES).quantize, kept=[]))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    assert not {"Cast", "Mul", "DequantizeLinear"} & set(operators(tmp_path / "optimised.onnx"))


def test_a_convolution_is_as_sensitive_as_its_weight_is_rough(tmp_path):
    source = convolved(tmp_path / "g.onnx", layers=3)
    model = onnx.load(source)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rough = weights["c2.w"].copy()
    # One value takes the steps of its channel from all others.
    rough[:, 0, 0, 0] *= 500
    for tensor in model.graph.initializer:
        if tensor.name == "c2.w":
            tensor.CopyFrom(numpy_helper.from_array(rough, tensor.name))
    onnx.save(model, source)
    found = Convolutions.of(source, IO, IMAGES).errors()
    assert found == {
        name: rounding_error(rough if name == "c2" else weights[f"{name}.w"]) for name in ("c1", "c2", "c3")
    }
    assert found["c2"] != rounding_error(weights["c2.w"])


# Together


def test_what_the_recipe_cannot_make_small_stays_as_the_exporter_made_it(tmp_path):
    """If every node has to stay, the graph is the one in float32 again, so that it can pass."""
    source, inputs = normed(tmp_path / "g.onnx"), RNG.normal(size=(32, 64)).astype(np.float32)
    (tmp_path / "kept").mkdir()
    recipe = int8.PRECISION.recipe.calibrated(source, IO, inputs, tmp_path / "kept")
    every = [one.node for one in recipe.sensitivities(source, IO, inputs)]
    recipe.build(source, tmp_path / "q.onnx", every)
    np.testing.assert_array_equal(runner(tmp_path / "q.onnx", IO)(inputs), runner(source, IO)(inputs))
    recipe.build(source, tmp_path / "q.onnx", every[:1])
    assert operators(tmp_path / "q.onnx").count("MatMulInteger") == 1
