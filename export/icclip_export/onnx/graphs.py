"""Read and write ONNX graphs, including those larger than a protobuf message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

INLINE_LIMIT = 2**31 - 2**24
"""The largest size of weights in bytes for a graph in one file; a message is limited to 2 GB, including the nodes."""


def whole_attribute(node: Any, name: str, default: int = 0) -> int:
    """The value of a node's attribute that is an integer, such as `axis`."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def save_graph(model: Any, path: Path, inline_limit: int = INLINE_LIMIT) -> None:
    """Write a graph; if its weights exceed `inline_limit`, they go to `<name>_data` beside it, as transformers.js expects.

    Raises:
        OSError: the files cannot be written, for example because the disk is full.
    """
    import onnx

    data = path.with_name(f"{path.name}_data")
    data.unlink(missing_ok=True)
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > inline_limit
    onnx.save_model(model, str(path), save_as_external_data=large, all_tensors_to_one_file=True, location=data.name)


def external_data(path: Path) -> list[Path]:
    """The files beside a graph that hold its weights."""
    return sorted(path.parent.glob(f"{path.name}_data*"))


def initializers(graph: Any, dtype: type[np.generic]) -> Iterator[tuple[str, np.ndarray]]:
    """The names and values of the weights of one type."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == dtype:
            yield tensor.name, array
