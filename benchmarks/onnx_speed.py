"""How fast the exported encoders are: ours beside torch, torch.compile, OpenVINO, fastembed and optimum's default export.

    python -m benchmarks.onnx_speed

CLIP and SigLIP ViT-B/16 at 224 pixels with random weights, both towers, batches of 1, 8 and 32, the
same number of threads for everyone. optimum's default export is one graph that computes both towers
at each call, so it is compared with both of ours, one after the other, on the same inputs, and tower by tower
with the part of its graph that computes one. "exported" are our graphs before they are rewritten. The int8
graphs have every product quantized: where the gate leaves some in float32, they are slower.

OpenVINO runs our graphs, in float32, bf16 (on CPUs that compute in it) and int8 (which the target does not offer). fastembed
is given our float32 graph and times its own session of it, without its preprocessing. infinity runs CLIP in torch alone: its
ONNX engine takes text models. Whoever is not installed is left out and named.

Then what starting costs: a new process that imports, opens and encodes one image and one text.
Writes onnx_speed.json; with `--size tiny`, which only shows that the script works, nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.utils
import onnxruntime
import torch
from optimum.exporters.onnx import main_export
from PIL import Image

from benchmarks.support.checkpoints import FAMILIES, preset, write_base
from benchmarks.support.timing import environment, medians, show, take_turns, times_faster, write
from icclip.bundles.manifest import Tower
from icclip.config import DatasetConfig, EncoderConfig, ExportConfig, ModelConfig
from icclip.console import Reporter
from icclip.exporting.run import export
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.runtime.sessions import open_session
from icclip_export.onnx.export import export_towers, quiet_export
from icclip_export.onnx.towers import example_pixels, example_tokens, tower_ios
from icclip_export.openvino.cpu import lacks
from icclip_export.openvino.session import open_session as openvino_session
from icclip_export.precisions import graph_name
from icclip_export.precisions import precision as find_precision
from icclip_export.precisions.value import DIRECTORY

PRECISIONS = ("fp32", "fp16", "int8")
ROUNDS = {1: 30, 8: 8, 32: 4}
STARTS = 5
CALIBRATED = 8
"""Inputs that int8 is calibrated with: enough for the graph's speed, which does not depend on their values."""
REST = 0.05
"""Seconds between two calls: the threads of the last one spin for a while, in the way of the next."""
TORCH, COMPILED, OPTIMUM = "torch", "torch.compile", "optimum"
OPENVINO = ("fp32", "bf16", "int8")
FASTEMBED: Mapping[Tower, tuple[str, str]] = {
    "vision": ("ImageEmbedding", "Qdrant/clip-ViT-B-32-vision"),
    "text": ("TextEmbedding", "Qdrant/clip-ViT-B-32-text"),
}
"""Tower -> fastembed's class, and the model whose description lets it open a folder of our own."""

Run = Callable[[np.ndarray], object]
BEFORE = ("fp32", "int8")
"""The precisions of the graphs that are not rewritten."""
OPTIMUM_TOWERS: Mapping[Tower, tuple[tuple[str, ...], str]] = {
    "vision": (("pixel_values",), "image_embeds"),
    "text": (("input_ids", "attention_mask"), "text_embeds"),
}
"""What a tower reads (where the graph has it) and gives in optimum's one graph."""

START_OURS = """
from icclip.runtime import Encoder
encoder = Encoder.open({bundle!r}, "fp32", "cpu", threads={threads})
encoder.encode_images([{image!r}])
encoder.encode_texts(["two dogs"])
"""
START_TORCH = """
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor
torch.set_num_threads({threads})
model = AutoModel.from_pretrained({checkpoint!r}).eval()
processor = AutoProcessor.from_pretrained({checkpoint!r})
with torch.inference_mode():
    model.get_image_features(**processor(images=[Image.open({image!r})], return_tensors="pt"))
    model.get_text_features(**processor(text=["two dogs"], return_tensors="pt", padding=True))
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    parser.add_argument("--batches", nargs="+", type=int, default=list(ROUNDS))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    packages = (
        "icclip",
        "torch",
        "transformers",
        "onnxruntime",
        "onnx",
        "openvino",
        "fastembed",
        "optimum",
        "optimum-onnx",
    )
    about = {**environment(*packages), "threads": options.threads, "left out": left_out()}
    print(about["cpu"], *about["left out"], sep="\n")
    speed, starts, sizes = [], [], []
    for family in options.families:
        with tempfile.TemporaryDirectory() as folder:
            work = Work(family, options.size, options.threads, Path(folder))
            # One after the other: each holds several copies of the model.
            for measured in (tower_rows(work, "vision", options.batches), tower_rows(work, "text", options.batches)):
                speed += measured
            speed += both_rows(work, options.batches)
            starts.append(start_row(work))
            sizes.append(size_row(work))
        if options.size == "base":
            # After each family: half an hour is long enough for something to happen.
            write(__file__, {"about": about, "speed": speed, "start": starts, "size": sizes})
    for table in (speed, starts, sizes):
        show(table)


@dataclass
class Work:
    """A checkpoint, and what ours and optimum's exporters made of it."""

    family: str
    size: str
    threads: int
    folder: Path

    @cached_property
    def checkpoint(self) -> Path:
        start = preset(Registry.from_environment(), self.family)
        target = self.folder / "checkpoint"
        if self.size == "tiny":
            start.save(target)
            return target
        return write_base(target, self.family, start.feeder.processor.tokenizer, patch_size=16)

    @cached_property
    def loaded(self) -> LoadedModel:
        return open_model(Registry.from_environment(), ModelConfig(name=str(self.checkpoint)))

    @cached_property
    def bundle(self) -> Path:
        """In float32, through the gate, on a handful of drawn images."""
        config = ExportConfig(
            encoder=EncoderConfig(checkpoint=str(self.checkpoint)), data=DatasetConfig(name="shapes"),
            output_dir=self.folder / "bundle", sample=16,
        )  # fmt: skip
        export(config, Registry.from_environment(), Reporter(silent=True))
        return config.output_dir

    def graph(self, tower: Tower, precision: str) -> Path:
        """The reduced precisions are made as `icclip export` makes them first: no node left in float32."""
        source = self.bundle / graph_name(tower, "fp32")
        target = self.bundle / graph_name(tower, precision)
        if not target.exists():
            io, inputs = tower_ios(self.loaded)[tower], self.inputs(tower, CALIBRATED).numpy()
            with tempfile.TemporaryDirectory() as folder:
                recipe = find_precision(precision).recipe.for_graph(source, io, inputs, Path(folder))
                recipe.build(source, target, ())
        return target

    @cached_property
    def exported(self) -> Mapping[Tower, Path]:
        """Our towers as torch exports them."""
        folder = self.folder / "exported" / DIRECTORY
        folder.mkdir(parents=True)
        return export_towers(self.loaded, folder)

    def before(self, tower: Tower, precision: str) -> Path:
        """A graph that is neither rewritten nor calibrated: what onnxruntime's quantization makes of it."""
        source = self.exported[tower]
        if precision == "fp32":
            return source
        target = source.with_name(f"{tower}_{precision}.onnx")
        if not target.exists():
            find_precision(precision).recipe.build(source, target, ())
        return target

    @cached_property
    def optimum(self) -> Path:
        """`optimum-cli export onnx`; the task is the one that it finds for the published checkpoints of both families."""
        target = self.folder / "optimum"
        with quiet_export(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            main_export(str(self.checkpoint), str(target), task="zero-shot-image-classification")
        return target / "model.onnx"

    def optimum_tower(self, tower: Tower) -> Callable[[np.ndarray], object]:
        """The part of optimum's graph that computes one tower; texts get a mask of ones if it asks for one."""
        asked, output = OPTIMUM_TOWERS[tower]
        has = {one.name for one in onnx.load(self.optimum, load_external_data=False).graph.input}
        part = self.folder / f"optimum_{tower}.onnx"
        onnx.utils.extract_model(str(self.optimum), str(part), [name for name in asked if name in has], [output])
        session = self.plain_session(part)
        names = [one.name for one in session.get_inputs()]

        def run(array: np.ndarray) -> object:
            return session.run(
                None, {name: np.ones_like(array) if name == "attention_mask" else array for name in names}
            )

        return run

    def plain_session(self, path: Path) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def inputs(self, tower: Tower, batch: int) -> torch.Tensor:
        make = example_pixels if tower == "vision" else example_tokens
        return make(self.loaded, batch)

    def ours(self, tower: Tower, precision: str, *, before: bool = False) -> Callable[[np.ndarray], np.ndarray]:
        graph = self.before(tower, precision) if before else self.graph(tower, precision)
        session = open_session(graph, tower_ios(self.loaded)[tower], "cpu", threads=self.threads)
        return lambda array: session.run(array, last=False)


# One tower ----------------------------------------------------------------------------------------


def tower_rows(work: Work, tower: Tower, batches: Sequence[int]) -> list[dict[str, Any]]:
    """One tower in torch, compiled, from optimum, before it was rewritten, in our three precisions, in OpenVINO and fastembed."""
    sessions: dict[str, Run] = {OPTIMUM: work.optimum_tower(tower)}
    sessions |= {f"exported {precision}": work.ours(tower, precision, before=True) for precision in BEFORE}
    sessions |= {f"icclip {precision}": work.ours(tower, precision) for precision in PRECISIONS}
    sessions |= in_openvino(work, tower) | in_fastembed(work, tower)
    return [
        row
        for batch in batches
        for row in rows(work, tower, batch, turns(tower_calls(work, tower, sessions, batch), batch), against=TORCH)
    ]


def tower_calls(work: Work, tower: Tower, sessions: Mapping[str, Run], batch: int) -> dict[str, Callable[[], object]]:
    """The contestants, each on the same inputs."""
    inputs = work.inputs(tower, batch)
    array = inputs.numpy()
    encode = torch_tower(work.loaded, tower)
    torch.compiler.reset()
    calls = {TORCH: without_gradients(encode, inputs)}
    calls[COMPILED] = without_gradients(torch.compile(encode, dynamic=False), inputs)
    return calls | {name: (lambda run=run: run(array)) for name, run in sessions.items()}


def torch_tower(loaded: LoadedModel, tower: Tower) -> Callable[[torch.Tensor], torch.Tensor]:
    """Inputs -> projected embeddings, with scaled-dot-product attention."""
    if tower == "vision":
        return lambda pixels: loaded.image_features({"pixel_values": pixels})
    return lambda ids: loaded.text_features({"input_ids": ids})


def without_gradients(encode: Callable[[torch.Tensor], object], inputs: torch.Tensor) -> Callable[[], object]:
    """Not inference mode, which torch.compile does not take here."""

    def call() -> object:
        with torch.no_grad():
            return encode(inputs)

    return call


# Peers ----------------------------------------------------------------------------------------------


def left_out() -> list[str]:
    """One line for each contestant that cannot run here, with the reason."""
    missing = {name: f"{name}: not installed" for name in ("openvino", "fastembed") if find_spec(name) is None}
    bf16 = None if "openvino" in missing else lacks("bf16")
    return [*missing.values(), *([f"openvino bf16: {bf16}"] if bf16 else [])]


def in_openvino(work: Work, tower: Tower) -> dict[str, Run]:
    """Our graphs as the target `openvino` opens them."""
    if find_spec("openvino") is None:
        return {}
    io = tower_ios(work.loaded)[tower]
    able = [precision for precision in OPENVINO if lacks(precision) is None]
    return {
        f"openvino {precision}": openvino_session(
            work.graph(tower, "int8" if precision == "int8" else "fp32"), io, precision, threads=work.threads
        ).run
        for precision in able
    }


def in_fastembed(work: Work, tower: Tower) -> dict[str, Run]:
    """Its own session of our float32 graph."""
    if find_spec("fastembed") is None:
        return {}
    import fastembed

    folder = work.folder / f"fastembed-{tower}"
    shutil.copytree(work.bundle, folder, ignore=shutil.ignore_patterns("onnx", "golden"))
    shutil.copyfile(work.graph(tower, "fp32"), folder / "model.onnx")
    kind, name = FASTEMBED[tower]
    opened = getattr(fastembed, kind)(name, specific_model_path=str(folder), threads=work.threads)
    session = opened.model.model
    taken = session.get_inputs()[0].name
    return {"fastembed": lambda array: session.run(None, {taken: array})}


# Both towers --------------------------------------------------------------------------------------


def both_rows(work: Work, batches: Sequence[int]) -> list[dict[str, Any]]:
    """Images and texts: optimum's one graph, and our two in float32."""
    theirs = work.plain_session(work.optimum)
    vision, text = work.ours("vision", "fp32"), work.ours("text", "fp32")
    measured = []
    for batch in batches:
        feeds = both_inputs(work, theirs, batch)
        pixels, ids = feeds["pixel_values"], feeds["input_ids"]
        calls = {
            OPTIMUM: lambda feeds=feeds: theirs.run(None, feeds),
            "icclip fp32": lambda pixels=pixels, ids=ids: (vision(pixels), text(ids)),
        }
        measured += rows(work, "both", batch, turns(calls, batch), against=OPTIMUM)
    return measured


def both_inputs(work: Work, session: Any, batch: int) -> dict[str, np.ndarray]:
    """What optimum's graph asks for."""
    values = {tower: work.inputs(tower, batch).numpy() for tower in ("vision", "text")}
    every = {
        "pixel_values": values["vision"],
        "input_ids": values["text"],
        "attention_mask": np.ones_like(values["text"]),
    }
    return {one.name: every[one.name] for one in session.get_inputs()}


# Rows ---------------------------------------------------------------------------------------------


def turns(calls: Mapping[str, Callable[[], object]], batch: int) -> dict[str, list[float]]:
    return take_turns(calls, rounds=ROUNDS.get(batch, 3), warmup=2, rest=REST)


def rows(
    work: Work, tower: str, batch: int, taken: Mapping[str, Sequence[float]], *, against: str
) -> Iterator[dict[str, Any]]:
    """Milliseconds, the fastest round, and how many times faster than `against`."""
    for name, middle in medians(taken).items():
        row = {
            "model": f"{work.family} {'ViT-B/16' if work.size == 'base' else work.size}",
            "tower": tower,
            "batch": batch,
            "runs as": name,
            "ms": round(1000 * middle, 2),
            "fastest ms": round(1000 * min(taken[name]), 2),
            f"times faster than {against}": times_faster(taken, name, against),
            # Within the same rounds; in float32 optimum's, and what rewriting the graph is worth.
            "against optimum": _against(taken, name, OPTIMUM) if name == "icclip fp32" else None,
            "against exported": _against(taken, name, name.replace("icclip", "exported")) if "icclip" in name else None,
        }
        print(*row.values(), flush=True, file=sys.stderr)
        yield row


def _against(taken: Mapping[str, Sequence[float]], name: str, other: str) -> float | None:
    return times_faster(taken, name, other) if other in taken else None


def start_row(work: Work) -> dict[str, Any]:
    """Seconds from the start of Python to one image and one text encoded, and back at the shell."""
    image = work.folder / "image.png"
    Image.new("RGB", (300, 200), "red").save(image)
    names = {
        "bundle": str(work.bundle),
        "checkpoint": str(work.checkpoint),
        "image": str(image),
        "threads": work.threads,
    }
    calls = {name: start(code.format(**names)) for name, code in (("icclip", START_OURS), (TORCH, START_TORCH))}
    taken = take_turns(calls, rounds=STARTS)
    middle = medians(taken)
    return {
        "model": work.family,
        "icclip s": middle["icclip"],
        "torch s": middle[TORCH],
        "times faster than torch": times_faster(taken, "icclip", TORCH),
    }


def start(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)


def size_row(work: Work) -> dict[str, Any]:
    """Megabytes on the disk."""
    ours = {
        precision: sum(work.graph(tower, precision).stat().st_size for tower in ("vision", "text"))
        for precision in PRECISIONS
    }
    every = {
        "safetensors": (work.checkpoint / "model.safetensors").stat().st_size,
        **{f"icclip {precision}": size for precision, size in ours.items()},
        OPTIMUM: work.optimum.stat().st_size,
    }
    return {"model": work.family, **{f"{name} MB": round(size / 1e6, 1) for name, size in every.items()}}


if __name__ == "__main__":
    main()
