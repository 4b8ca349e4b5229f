"""The same checkpoints through every exporter, on transformers 4.57 and 5: the embeddings, and what the gate measures.

    python -m benchmarks.exporters clip=DIR siglip=DIR dual=DIR --other PYTHON [--bundles DIR]

Each NAME=CHECKPOINT is exported in every precision by this Python with optimum and with torch, and with torch by the
Python of another environment, where transformers 5 is installed. All bundles then encode the golden inputs of the first one
here, and exporters.json records how far they are from it. Exits with 1 if that is more than 1e-5, or a gate fails.
Bundles that are in DIR already, by the name of their checkpoint and the number of the way, are not made again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.support.timing import environment, show, write
from icclip.bundles.golden import read_golden
from icclip.bundles.manifest import read_manifest
from icclip.bundles.parity_record import read_parity
from icclip.runtime import Encoder

LIMIT = 1e-5
PRECISIONS = ("fp32", "fp16", "int8")
Row = dict[str, Any]


def main() -> None:
    """Export, compare, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--other", required=True, metavar="PYTHON", help="of an environment with transformers 5")
    parser.add_argument("--dataset", default="shapes", help="as `icclip export` takes it")
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--bundles", type=Path, help="where the bundles are, or are made")
    options = parser.parse_args()
    ways = ((sys.executable, "optimum"), (sys.executable, "torch"), (options.other, "torch"))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = options.bundles or Path(temporary)
        for name, checkpoint in (one.split("=", 1) for one in options.checkpoints):
            said = ("--dataset", options.dataset, "--sample", options.sample)
            bundles = [_export(checkpoint, place / f"{name}{i}", *way, *said) for i, way in enumerate(ways)]
            rows += [{"checkpoint": name, **row} for row in _rows(bundles)]
    show([{key: value for key, value in row.items() if not isinstance(value, dict)} for row in rows])
    about = environment("icclip", "torch", "onnx", "onnxscript", "onnxruntime", "optimum-onnx")
    write(__file__, {"about": {**about, "dataset": options.dataset, "sample": options.sample}, "rows": rows})
    sys.exit(not all(row["passed"] and row["largest difference"] <= LIMIT for row in rows))


def _export(checkpoint: str, bundle: Path, python: str, exporter: str, *said: object) -> Path:
    """The bundle, of which the gate may say that it failed."""
    precisions = [word for name in PRECISIONS for word in ("--precision", name)]
    command = [python, "-m", "icclip", "export", checkpoint, "-o", bundle, "--exporter", exporter, *precisions, *said]
    if not bundle.exists():
        subprocess.run([*map(str, command), "--provider", "cpu"], check=False)
    return bundle if bundle.exists() else bundle.with_name(f"{bundle.name}.failed")


def _rows(bundles: list[Path]) -> Iterator[Row]:
    first = bundles[0]
    expected = _embeddings(first, first)
    for bundle in bundles:
        manifest, parity = read_manifest(bundle), read_parity(bundle)
        yield {
            "exporter": manifest.exporter,
            "transformers": manifest.versions["transformers"],
            "nodes": sum(_nodes(bundle / graph) for graph in (f"onnx/{t}_model.onnx" for t in ("vision", "text"))),
            "largest difference": float(np.abs(_embeddings(bundle, first) - expected).max()),
            "passed": parity.passed,
            "precisions": {
                one.precision: _measured(one.measured, one.metrics, parity.reference) for one in parity.results
            },
        }


def _embeddings(bundle: Path, golden: Path) -> np.ndarray:
    """Of the golden inputs of a bundle, images and then texts; float32 rows of length 1."""
    inputs, encoder = read_golden(golden), Encoder.open(bundle, "fp32", "cpu")
    return np.concatenate([encoder.encode_images(inputs.images), encoder.encode_texts(inputs.texts)])


def _nodes(graph: Path) -> int:
    return len(onnx.load(str(graph), load_external_data=False).graph.node)


def _measured(measured: Mapping[str, Any], metrics: Mapping[str, Any], reference: Mapping[str, Any]) -> Row:
    recalls = [f"{way}_R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    towers = measured["towers"].values()
    # None where all embeddings of a tower are alike.
    centred = [tower["centred_min_cosine"] for tower in towers if tower["centred_min_cosine"] is not None]
    return {
        "lowest cosine": min(tower["min_cosine"] for tower in towers),
        "lowest centred cosine": min(centred, default=None),
        "largest change of a recall, points": 100 * max(abs(metrics[key] - reference[key]) for key in recalls),
    }


if __name__ == "__main__":
    main()
