"""Record what flows through a graph: the largest value of every tensor, the values of some, or the means of their channels."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TowerIO
from icclip.runtime.providers import import_onnxruntime
from icclip.runtime.threads import default_threads

SENTINEL = 1e30
"""Larger values come from attention masks: they are not activations, and may saturate without loss."""
_BATCH = 8
_LIMIT, _ZERO, _LARGEST = "icclip_sentinel", "icclip_zero", "icclip_largest_"
_PLACES, _MEAN = "icclip_places", "icclip_mean_"


def largest_values(path: Path, io: TowerIO, inputs: np.ndarray) -> dict[str, float]:
    """The largest |value| of every float32 tensor that some node computes, on these inputs.

    Args:
        path: a float32 graph.
        io: the names of its input and output.
        inputs: the inputs of the graph, [b, ...].
    """
    names: list[str] = []

    def extend(model: Any) -> None:
        names.extend(_float_tensors(model))
        _add_reductions(model, names)

    with _extended(path, extend) as session:
        outputs = [_LARGEST + name for name in names]
        batches = (inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH))
        values = np.max([session.run(outputs, {io.input: batch}) for batch in batches], axis=0)
    return dict(zip(names, values.tolist(), strict=True))


def captured(path: Path, io: TowerIO, inputs: np.ndarray, tensors: Iterable[str]) -> dict[str, np.ndarray]:
    """The values of some float32 tensors on these inputs."""
    wanted = sorted(set(tensors))

    def extend(model: Any) -> None:
        present = {output.name for output in model.graph.output}
        model.graph.output.extend(_float_info(name) for name in wanted if name not in present)

    with _extended(path, extend) as session:
        return dict(zip(wanted, session.run(wanted, {io.input: inputs}), strict=True))


def channel_means(path: Path, io: TowerIO, inputs: np.ndarray, tensors: Iterable[str]) -> dict[str, np.ndarray]:
    """The mean of each channel of some tensors of feature maps [b, channels, h, w] over these inputs, float32 [channels]."""
    wanted = sorted(set(tensors))

    def extend(model: Any) -> None:
        from onnx import helper, numpy_helper

        graph = model.graph
        graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), _PLACES))
        for name in wanted:
            graph.node.append(helper.make_node("ReduceMean", [name, _PLACES], [_MEAN + name], keepdims=0))
            graph.output.append(_float_info(_MEAN + name))

    with _extended(path, extend) as session:
        batches = [inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)]
        found = [session.run([_MEAN + name for name in wanted], {io.input: batch}) for batch in batches]
    sizes = [len(batch) for batch in batches]
    means = (np.average([one[place] for one in found], axis=0, weights=sizes) for place in range(len(wanted)))
    return {name: np.asarray(mean, np.float32) for name, mean in zip(wanted, means, strict=True)}


@contextlib.contextmanager
def _extended(path: Path, extend: Callable[[Any], None]) -> Iterator[Any]:
    """Open the graph after `extend(model)` without optimisation, because fused nodes would hide tensors."""
    import onnx

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = default_threads()
    # External data stays where it is, so the copy must be beside it.
    model = onnx.load(str(path), load_external_data=False)
    extend(model)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".onnx") as file:
        onnx.save(model, file.name)
        yield onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])


def _float_tensors(model: Any) -> list[str]:
    """Names of the float32 tensors that nodes compute."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    computed = {name for node in model.graph.node for name in node.output}
    return [
        info.name
        for info in (*inferred.value_info, *inferred.output)
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and info.name in computed
    ]


def _add_reductions(model: Any, names: Iterable[str]) -> None:
    from onnx import helper, numpy_helper

    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(SENTINEL, np.float32), _LIMIT))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), _ZERO))
    for name in names:
        absolute, real, kept = (f"{_LARGEST}{part}_{name}" for part in ("absolute", "real", "kept"))
        graph.node.extend(
            [
                helper.make_node("Abs", [name], [absolute]),
                helper.make_node("Less", [absolute, _LIMIT], [real]),
                helper.make_node("Where", [real, absolute, _ZERO], [kept]),
                helper.make_node("ReduceMax", [kept], [_LARGEST + name], keepdims=0),
            ]
        )
        graph.output.append(_float_info(_LARGEST + name))


def _float_info(name: str) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
