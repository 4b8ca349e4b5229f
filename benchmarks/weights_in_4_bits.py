"""Weights in blocks of 4 and 8 bits (onnxruntime's MatMulNBits) beside float32 and our int8, on the CPU.

    OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.weights_in_4_bits [--bundles DIRECTORY] [--rounds 10 3]

Both towers of a CLIP ViT-B/16 with random weights, rewritten as `icclip export` does it. MatMulNBits has the weights of each
product in blocks of 32 with a scale for each block, and activations in float32 (accuracy level 0) or, block by
block, in int8 (level 4). Embedding tables stay in float32 there; our int8 has them in 8 bits.

Measured are the size on the disk, the processor's seconds for one run with one thread (contestants take turns, and the
ratio to float32 is the median over the rounds), and the cosines to float32's embeddings of random inputs, as they are and
after subtracting the mean. Real weights have outliers, which random ones have not, so cosines are lower there. Writes
weights_in_4_bits.json; with `--size tiny`, which only shows that the script works, nothing.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from benchmarks.cold_start import processor_turns
from benchmarks.support import base_bundle
from benchmarks.support.timing import environment, medians, rounded, show, times_faster, write
from icclip.bundles.manifest import Manifest, read_manifest
from icclip.retrieval.agreement import tower_agreement
from icclip_export.precisions import graph_name, int8
from icclip_export.rewriting.pipeline import rewrite

FLOAT, OURS = "float32", "icclip's int8"
BLOCK = 32
BITS, LEVELS = (4, 8), (0, 4)
COMPARED = 8
"""Inputs whose embeddings are compared."""
BATCHES = (1, 8)
WORDS = 256
"""Ids below it, other than the first two, are no special tokens."""
Row = dict[str, Any]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundles", type=Path, help="where the bundle is, or is left")
    parser.add_argument("--rounds", nargs=2, type=int, default=(10, 3), help="for one input, and for eight")
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = base_bundle.make(options.bundles or Path(folder), options.size)
        rows = [row for tower in base_bundle.TOWERS for row in measured(bundle, tower, Path(folder), options.rounds)]
    show(rows)
    if options.size == "base":
        about = {**environment("icclip", "onnxruntime", "onnx"), "threads": 1, "block": BLOCK}
        write(
            __file__,
            {"about": about, "rounds": dict(zip(map(str, BATCHES), options.rounds, strict=True)), "rows": rows},
        )


def measured(bundle: Path, tower: str, folder: Path, rounds: Sequence[int]) -> Iterator[Row]:
    """One row for each way to hold a tower's weights."""
    graphs = made(bundle, tower, folder)
    sessions = {name: opened(path) for name, path in graphs.items()}
    manifest = read_manifest(bundle)
    embeddings = {name: run(session, inputs(manifest, tower, COMPARED)) for name, session in sessions.items()}
    taken = {
        batch: timed(sessions, inputs(manifest, tower, batch), count)
        for batch, count in zip(BATCHES, rounds, strict=True)
    }
    for name, path in graphs.items():
        agreement = tower_agreement(embeddings[FLOAT], embeddings[name])
        yield {
            "tower": tower,
            "weights": name,
            "MB": rounded(path.stat().st_size / 1e6),
            **{f"s, batch {batch}": medians(own)[name] for batch, own in taken.items()},
            **{f"times faster, batch {batch}": times_faster(own, name, FLOAT) for batch, own in taken.items()},
            "lowest cosine": round(agreement.min_cosine, 6),
            "lowest centred cosine": round(agreement.centred_min_cosine or 0.0, 6),
        }


def made(bundle: Path, tower: str, folder: Path) -> dict[str, Path]:
    """A tower's graphs, by how they hold their weights."""
    # It tells of every node.
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    graphs = {FLOAT: folder / f"{tower}.onnx", OURS: folder / f"{tower}_int8.onnx"}
    rewrite(bundle / graph_name(tower, "fp32"), graphs[FLOAT])
    int8.build(graphs[FLOAT], graphs[OURS], ())
    for bits in BITS:
        for level in LEVELS:
            path = folder / f"{tower}_{bits}_{level}.onnx"
            quantizer = MatMulNBitsQuantizer(
                onnx.load(graphs[FLOAT]), bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=level
            )
            quantizer.process()
            quantizer.model.save_model_to_file(str(path))
            graphs[f"{bits} bits, level {level}"] = path
    return graphs


def opened(path: Path) -> onnxruntime.InferenceSession:
    """A session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inputs(manifest: Manifest, tower: str, batch: int) -> np.ndarray:
    """Noise, or texts of the full length that end with the end-of-text token, which is also the padding."""
    rng = np.random.default_rng(batch)
    if tower == "vision":
        return rng.standard_normal((batch, 3, *manifest.image.size)).astype(np.float32)
    ids = rng.integers(2, WORDS, (batch, manifest.text.max_length))
    ids[:, -1] = manifest.text.pad_id
    return ids


def run(session: onnxruntime.InferenceSession, array: np.ndarray) -> np.ndarray:
    """The embeddings, [b, dim]."""
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: array})[0]
    return found


def timed(
    sessions: Mapping[str, onnxruntime.InferenceSession], array: np.ndarray, rounds: int
) -> dict[str, list[float]]:
    """The processor's seconds of each session, in turns."""
    return processor_turns({name: (lambda own=own: run(own, array)) for name, own in sessions.items()}, rounds)


if __name__ == "__main__":
    main()
