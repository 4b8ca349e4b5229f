"""Ways to make the convolutions of a tower small: 8 or 7 bits, biases corrected or not, in float32 or in integers.

    python -m benchmarks.static_convolutions BUNDLE --dataset flickr8k@PATH [--images 64] [--rounds 10]

BUNDLE is an export in fp32 of a model whose vision tower is a convolutional network, made from a run on that dataset. Static
quantization is onnxruntime's (QDQ): the ranges of what convolutions read come from images of the training split, and what lies between
two convolutions is computed in integers as well. The other rows have small weights only, from which runtimes compute float32
when they open the graph.

Measured are the size of the graph on the disk, the processor's seconds for one image and for eight with one thread (contestants take
turns; the ratio to float32 is the median over the rounds), and the cosines to float32's embeddings on images of the validation split.
Writes static_convolutions.json.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from benchmarks.cold_start import processor_turns
from benchmarks.support.timing import environment, medians, rounded, show, times_faster, write
from icclip.bundles.manifest import TowerIO, read_manifest
from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.gallery import Gallery
from icclip.data.loading import load_splits
from icclip.plugins.registry import Registry
from icclip.retrieval.agreement import tower_agreement
from icclip.runtime import Encoder
from icclip_export.precisions import graph_name
from icclip_export.quantization.convolutions import Convolutions
from icclip_export.quantization.rounding import changed

FLOAT, SMALL, UNCORRECTED = "float32", "8 bits, in float32, biases corrected", "8 bits, in float32"
STATIC = {
    "8 bits, in integers, biases corrected": (SMALL, False),
    "8 bits, in integers": (FLOAT, False),
    "7 bits, in integers": (FLOAT, True),
}
"""Way -> what it is made from, and whether weights have 7 bits."""
INTEGERS = ("Add", "Clip", "Conv", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Sigmoid")
BATCH = 8
BATCHES = (1, BATCH)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--dataset", required=True, help="as `icclip train` takes it")
    parser.add_argument("--images", type=int, default=64, help="of each split")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    shown, compared = (pixels(options, split) for split in ("train", "validation"))
    io = read_manifest(options.bundle).vision_io
    # The calibrator tells of every tensor.
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        graphs = dict(made(options.bundle / graph_name("vision", "fp32"), io, shown, Path(folder)))
        rows = list(measured(graphs, io, compared, options.rounds))
    show(rows)
    about = environment("icclip", "onnxruntime", "onnx") | {"threads": 1, "images": options.images}
    write(__file__, {"about": about | {"rounds": options.rounds}, "rows": rows})


def pixels(options: argparse.Namespace, split: str) -> np.ndarray:
    """What the tower reads for the first images of a split, float32 [b, 3, h, w]."""
    name, _, path = options.dataset.partition("@")
    config = DatasetConfig(name=name, path=path or None)
    splits: Any = load_splits(Registry.from_environment(), config, Reporter(silent=True))
    gallery = Gallery.of(splits[split], split, config.label)
    with Encoder.open(options.bundle, "fp32", "cpu") as encoder:
        return encoder.preprocessor([gallery.images[row] for row in range(options.images)])


def made(source: Path, io: TowerIO, images: np.ndarray, folder: Path) -> Iterator[tuple[str, Path]]:
    """The graphs, by how they hold their convolutions."""
    found = Convolutions.of(source, io, images)
    graphs = {FLOAT: source, SMALL: folder / "small.onnx", UNCORRECTED: folder / "uncorrected.onnx"}
    changed(source, graphs[SMALL], partial(found.quantize, kept=()))
    as_they_are = {name: np.zeros_like(mean) for name, mean in found.means.items()}
    changed(source, graphs[UNCORRECTED], partial(Convolutions(found.weights, as_they_are).quantize, kept=()))
    yield from graphs.items()
    for number, (name, (base, seven)) in enumerate(STATIC.items()):
        path = folder / f"static_{number}.onnx"
        static(graphs[base], path, io, images, seven=seven)
        yield name, path


def static(source: Path, target: Path, io: TowerIO, images: np.ndarray, *, seven: bool) -> None:
    """Onnxruntime's static quantization of all convolutions."""
    whole = target.with_name(f"whole_{target.name}")
    options = onnxruntime.SessionOptions()
    # Weights that nodes compute are constants afterwards.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(whole)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    quantize_static(
        whole,
        target,
        Images(io, images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(INTEGERS),
        per_channel=True,
        reduce_range=seven,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class Images(CalibrationDataReader):
    """Real images, batch by batch."""

    def __init__(self, io: TowerIO, images: np.ndarray) -> None:
        self.batches = iter([{io.input: images[start : start + BATCH]} for start in range(0, len(images), BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None."""
        return next(self.batches, None)


def measured(graphs: dict[str, Path], io: TowerIO, images: np.ndarray, rounds: int) -> Iterator[dict[str, Any]]:
    """One row for each graph."""
    sessions = {name: opened(path) for name, path in graphs.items()}

    def run(name: str, batch: np.ndarray) -> np.ndarray:
        found: np.ndarray = sessions[name].run([io.output], {io.input: batch})[0]
        return found

    embeddings = {
        name: np.concatenate([run(name, images[start : start + BATCH]) for start in range(0, len(images), BATCH)])
        for name in graphs
    }
    unit = {name: own / np.linalg.norm(own, axis=1, keepdims=True) for name, own in embeddings.items()}
    taken = {
        size: processor_turns(
            {name: (lambda name=name, size=size: run(name, images[:size])) for name in graphs}, rounds
        )
        for size in BATCHES
    }
    for name, path in graphs.items():
        agreement = tower_agreement(unit[FLOAT], unit[name])
        yield {
            "convolutions": name,
            "MB": rounded(path.stat().st_size / 1e6),
            **{f"s, batch {size}": medians(own)[name] for size, own in taken.items()},
            **{f"times faster, batch {size}": times_faster(own, name, FLOAT) for size, own in taken.items()},
            "lowest cosine": round(agreement.min_cosine, 6),
            "mean centred cosine": round(agreement.centred_mean_cosine or 0.0, 6),
        }


def opened(path: Path) -> onnxruntime.InferenceSession:
    """A session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
