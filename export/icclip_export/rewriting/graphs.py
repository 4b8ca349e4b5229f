"""Graphs as objects: opened with the shapes of their values, changed in place, written back.

`onnx_ir` holds a graph as nodes and values that know their users; the patterns of this package look at these.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnx_ir.tape import Tape
from onnxscript import rewriter
from onnxscript.rewriter.rules.common import no_op_cast_rule

from icclip_export.onnx.graphs import save_graph

MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators."""
LARGEST_INDEX = np.iinfo(np.int64).max


def open_graph(path: Path) -> ir.Model:
    """Read a graph with its weights; every value has the shape that can be inferred."""
    bare = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False), data_prop=True)
    onnx.load_external_data_for_model(bare, str(path.parent))
    model = ir.from_proto(bare)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    # A value cast to the type that it has, as torch's attention in plain products does, becomes an Identity.
    rewriter.rewrite(model, [no_op_cast_rule])
    common.IdentityEliminationPass()(model)
    return model


def load_graph(path: Path) -> ir.Model:
    """Read a graph with its weights as it is."""
    return ir.from_proto(onnx.load(str(path)))


def drop_unread(model: ir.Model) -> None:
    """Remove nodes and weights that nobody reads."""
    common.RemoveUnusedNodesPass()(model)


def write_graph(model: ir.Model, path: Path) -> None:
    """Remove what nobody reads, name every node, and write the graph with its weights."""
    common.CommonSubexpressionEliminationPass()(model)
    drop_unread(model)
    model.graph.sort()
    for value in _computed(model):
        value.shape = value.shape if value.is_graph_output() else None
    _name_nodes(model.graph)
    common.RemoveUnusedOpsetsPass()(model)
    save_graph(ir.to_proto(model), path)


def _computed(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs]


def _name_nodes(graph: ir.Graph) -> None:
    """Give nodes without a name, or with another node's, one of their own, because precisions name the nodes that they spare."""
    taken: set[str] = set()
    for node in graph:
        base = node.name or f"{node.op_type}_{node.outputs[0].name}"
        name, number = base, 0
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        node.name = name


# Looking ------------------------------------------------------------------------------------------


def made_by(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that computes a value, if it is one of these operators of ONNX."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in operators else None


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The content of a weight or constant."""
    if value is None or value.const_value is None or value.producer() is not None:
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """A constant with a single number."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def integers(node: ir.Node, name: str) -> tuple[int, ...]:
    """An attribute of whole numbers; empty if it is not there."""
    attribute = node.attributes.get(name)
    return () if attribute is None else tuple(attribute.as_ints())


def integer(node: ir.Node, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def rank(value: ir.Value | None) -> int | None:
    """The number of axes, if it is known."""
    return None if value is None or value.shape is None else len(value.shape)


def size(value: ir.Value, axis: int) -> int | None:
    """The size of an axis, if it is known and fixed."""
    if value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    found = value.shape[axis]
    return found if isinstance(found, int) else None


def only_user(value: ir.Value, *operators: str) -> ir.Node | None:
    """The only node that reads a value, if it is one of these operators of ONNX."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    return node if node.domain == "" and node.op_type in operators else None


# Changing -----------------------------------------------------------------------------------------


class Builder:
    """Adds nodes and weights to a graph; the order of nodes is mended by `write_graph`."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._tape = Tape(graph)

    def __call__(
        self, operator: str, *inputs: ir.Value | None, domain: str = "", like: ir.Value | None = None, **attributes: Any
    ) -> ir.Value:
        """Add a node with one output; `like` is a value whose element type it has (the first input's, if none is given)."""
        value = self._tape.op(operator, inputs, attributes, domain=domain)
        known = like or inputs[0]
        if operator == "Shape":
            value.dtype = ir.DataType.INT64
        elif known is not None and known.dtype is not None:
            value.dtype = known.dtype
        return value

    def weight(self, array: np.ndarray, name: str) -> ir.Value:
        """Add a constant; a name that is taken gets a number."""
        unique, number = name, 0
        while unique in self.graph.initializers:
            number += 1
            unique = f"{name}_{number}"
        return self._tape.initializer(ir.tensor(np.asarray(array, order="C"), name=unique), unique)

    def integers(self, *values: int) -> ir.Value:
        """Add a constant list of whole numbers, int64 [n]."""
        return self.weight(np.array(values, np.int64), "int64_" + "_".join(map(str, values)))


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads a value read another one; an output of the graph keeps its name."""
    output, name = old.is_graph_output(), old.name
    new.shape, new.type = new.shape or old.shape, new.type or old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if output:
        old.name, new.name = f"{name}_before", name


def copy_of(builder: Builder, node: ir.Node, inputs: Mapping[ir.Value, ir.Value]) -> ir.Value:
    """Add a node like another one (with one output), on other inputs."""
    taken = [inputs.get(value, value) if value is not None else None for value in node.inputs]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return builder(node.op_type, *taken, domain=node.domain, like=node.outputs[0], **attributes)
