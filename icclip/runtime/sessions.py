"""One graph of a bundle in onnxruntime: input array -> output array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icclip.bundles.manifest import TowerIO
from icclip.errors import CheckpointError, UsageError
from icclip.runtime.providers import INSTALL, PROVIDERS, Provider, first_line, import_onnxruntime

SHRINK_FROM = 16
"""Size of a batch from which on it is worth giving the CPU's arena memory back."""
_INSIDE = 1024
"""Bytes up to which a weight is kept in an optimised graph itself, and not in the file beside it."""


@dataclass(frozen=True)
class Session:
    """An open graph. Safe to run from several threads at once."""

    session: Any
    io: TowerIO
    provider: Provider

    def run(self, inputs: np.ndarray, *, last: bool = True) -> np.ndarray:
        """Run the graph; returns its output, float32 [b, dim].

        Args:
            inputs: [b, ...].
            last: whether this is the last batch of its size, so that the CPU's scratch memory is given back.

        Raises:
            CheckpointError: the graph does not accept the inputs, for example ids beyond its vocabulary.
        """
        try:
            return self._run(inputs, last=last) if self.provider == "cpu" else self.run_bound(inputs)
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise CheckpointError(
                f"the graph cannot run on {self.io.input} of shape {inputs.shape}: {first_line(error)}"
            ) from error

    def _run(self, inputs: np.ndarray, *, last: bool) -> np.ndarray:
        options = _shrinking() if last and len(inputs) >= SHRINK_FROM else None
        outputs: np.ndarray = self.session.run([self.io.output], {self.io.input: inputs}, options)[0]
        return outputs

    def run_bound(self, inputs: np.ndarray) -> np.ndarray:
        """`run` through IO binding: the output is allocated on the device, and copied once."""
        binding = self.session.io_binding()
        binding.bind_cpu_input(self.io.input, np.ascontiguousarray(inputs))
        device, index = ("cpu", 0) if self.provider == "cpu" else ("cuda", self._device_index())
        binding.bind_output(self.io.output, device, index)
        self.session.run_with_iobinding(binding)
        outputs: np.ndarray = binding.copy_outputs_to_cpu()[0]
        return outputs

    def elsewhere(self) -> str | None:
        """Where the graph runs, if that is not where it was meant to: `CPUExecutionProvider instead of ...`."""
        ran, meant = self.session.get_providers()[0], PROVIDERS[self.provider]
        return None if ran == meant else f"{ran} instead of {meant}"

    def shapes(self) -> tuple[list[Any], list[Any]]:
        """The sizes that the graph declares for its input and its output; what is no number is dynamic."""
        return self.session.get_inputs()[0].shape, self.session.get_outputs()[0].shape

    def _device_index(self) -> int:
        return int(self.session.get_provider_options()[PROVIDERS[self.provider]].get("device_id", 0))


def open_session(
    path: Path,
    io: TowerIO,
    provider: Provider,
    *,
    options: Mapping[str, str] | None = None,
    threads: int,
    data: Sequence[Path] = (),
    adjust: Callable[[Any], None] | None = None,
) -> Session:
    """Load a graph on a provider; nodes that the provider cannot run are run on the CPU.

    Args:
        path: the graph.
        io: the names of its input and output.
        provider: what runs it.
        options: of the provider.
        threads: of the CPU.
        data: the files of its weights, where they lie beside it.
        adjust: changes onnxruntime's `SessionOptions` further.

    Raises:
        CheckpointError: the file is not a valid graph.
        UsageError: the provider gave up on this graph.
    """
    onnxruntime = import_onnxruntime()
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.log_severity_level = 3
    # The threads of one tower would go on spinning after its run and slow down those of the other by a
    # seventh of the time of an image and a text in turn (benchmarks/onnx_speed.py).
    session_options.add_session_config_entry("session.force_spinning_stop", "1")
    if adjust is not None:
        adjust(session_options)
    chain = [(PROVIDERS[provider], dict(options or {}))]
    if provider == "tensorrt":
        chain.append((PROVIDERS["cuda"], {}))
    try:
        # The weights stay mapped until the session has been made.
        source, _mapped = _source(path, data, session_options)
        session = onnxruntime.InferenceSession(source, session_options, providers=chain, enable_fallback=0)
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise CheckpointError(f"onnxruntime cannot open {path} on {provider}: {first_line(error)}") from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise UsageError(
            f"{path}: onnxruntime fell back from {provider} to {session.get_providers()[0]}: "
            f"{INSTALL[provider]}, or choose --provider cpu"
        )
    _check_names(session, path, io)
    return Session(session, io, provider)


@dataclass(frozen=True, slots=True)
class Opening:
    """How a graph is opened on the CPU: as the bundle has it, or by way of a file that is optimised already.

    Args:
        path: the bundle's graph.
        io: the names of its input and output.
        threads: number of threads.
        data: the files of its weights, where they lie beside it.
    """

    path: Path
    io: TowerIO
    threads: int
    data: Sequence[Path] = ()

    def plain(self) -> Session:
        """The bundle's graph. Raises CheckpointError."""
        return open_session(self.path, self.io, "cpu", threads=self.threads, data=self.data)

    def writing(self, target: Path, weights: str) -> Session:
        """The bundle's graph, whose optimised form is also written to `target`, its weights beside it.

        Raises:
            CheckpointError: it cannot be opened, or not be written.
        """

        def adjust(options: Any) -> None:
            options.optimized_model_filepath = str(target)
            prefix = "session.optimized_model_external_initializers"
            options.add_session_config_entry(f"{prefix}_file_name", weights)
            options.add_session_config_entry(f"{prefix}_min_size_in_bytes", str(_INSIDE))

        return open_session(self.path, self.io, "cpu", threads=self.threads, data=self.data, adjust=adjust)

    def optimised(self, graph: Path, data: Sequence[Path]) -> Session:
        """What `writing` has written. Raises CheckpointError."""

        def adjust(options: Any) -> None:
            options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL

        return open_session(graph, self.io, "cpu", threads=self.threads, data=data, adjust=adjust)


def _source(path: Path, data: Sequence[Path], session_options: Any) -> tuple[str | bytes, list[np.ndarray]]:
    """What onnxruntime opens: the path; or the content where its weights lie behind links, as in the hub's cache.

    onnxruntime refuses weights whose file, links followed, lies outside the directory of the graph.
    """
    if not any(one.is_symlink() for one in (path, *data)) or not data:
        return str(path), []
    mapped: list[np.ndarray] = [np.memmap(one, np.uint8, mode="r") for one in data]
    session_options.add_external_initializers_from_files_in_memory(
        [one.name for one in data], mapped, [len(one) for one in mapped]
    )
    return path.read_bytes(), mapped


def _check_names(session: Any, path: Path, io: TowerIO) -> None:
    has = ([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()])
    if has[0] != [io.input] or io.output not in has[1]:
        raise CheckpointError(
            f"{path} takes {', '.join(has[0])} and gives {', '.join(has[1])}, but expected {io.input} and {io.output}: "
            "export the checkpoint again"
        )


def check_shape(session: Session, what: str, *, inputs: Sequence[int] = (), dim: int) -> None:
    """Compare the sizes that a graph declares with those of the manifest, before memory is taken for either.

    Args:
        session: an open graph.
        what: names it in messages.
        inputs: the sizes of an input after the batch; none: they are not compared.
        dim: the number of values in an embedding.

    Raises:
        CheckpointError: they differ.
    """
    given, out = session.shapes()
    pairs = [*zip(given[1:], inputs, strict=False), *zip(out[1:], [dim], strict=False)]
    wrong = [f"{has} instead of {wanted}" for has, wanted in pairs if isinstance(has, int) and has != wanted]
    if wrong or (inputs and len(given) != len(inputs) + 1):
        raise CheckpointError(
            f"{what} takes inputs of shape {given} and gives {out}, which is not what icclip.json says "
            f"({', '.join(wrong) or f'inputs of {len(inputs) + 1} dimensions'}): export the checkpoint again"
        )


def _shrinking() -> Any:
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
