"""A bundle of base size with random weights, made without the parity gate: speed does not depend on values."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.bundles import tiny_clip, write_bundle

from benchmarks.runtime_service import base_clip
from icclip.bundles.manifest import TowerFiles, read_manifest, seal
from icclip_export.precisions import graph_name, precision

TOWERS = ("vision", "text")


def make(root: Path, size: str = "base") -> Path:
    """A CLIP ViT-B/16 at 224 pixels (or a tiny model, which shows that a script works) in fp32 and int8, unless it is there.

    Every product is quantized in int8: where the gate leaves some in float32, a graph is slower.
    """
    bundle = root / size
    if (bundle / "icclip.json").exists():
        return bundle
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The legacy exporter and its tracer have much to say.
        manifest = write_bundle(base_clip(0) if size == "base" else tiny_clip(), bundle)
        for tower in TOWERS:
            precision("int8").recipe.build(bundle / graph_name(tower, "fp32"), bundle / graph_name(tower, "int8"), ())
    int8 = TowerFiles(vision=graph_name("vision", "int8"), text=graph_name("text", "int8"))
    seal(bundle, dataclasses.replace(read_manifest(bundle), precisions={**manifest.precisions, "int8": int8}))
    return bundle
