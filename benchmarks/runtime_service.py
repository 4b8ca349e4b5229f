"""What a service that runs a bundle costs: its start in parts, its memory over time, and rows alone in int8.

    python -m benchmarks.runtime_service [--before CHECKOUT] [--parts start memory] [--bundles DIRECTORY]

What is not among the parts stays in the result as it was. Bundles are made in the directory, unless they are there.

A CLIP ViT-B/16 at 224 pixels with random weights, float32, on the CPU.

- **start**: a new process imports the runtime, opens the bundle, loads each tower (hashing its file
  included), and encodes its first and second image and text. `--before` measures another checkout as well.
- **memory** (Linux): resident memory after 5,000 calls of a tiny bundle, after the largest batch of the
  base-size one, with a second base-size bundle, and after both were closed.
- **int8**: a smaller ViT (12 layers of 384) whose products are quantized dynamically. Rows a second for each
  batch, how far a row moves with its neighbours, and the same with a scale for each row in the graph.

Writes runtime_service.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from benchmarks.support.timing import environment, show, write

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from support.bundles import Tiny, clip_style_tokenizer, export_graph, tiny_clip, write_bundle  # noqa: E402

from icclip.bundles.manifest import TextInputs  # noqa: E402

STARTS = 3
CALLS = 5000
LARGEST = 64
BATCHES = (1, 8, 32)
ROUNDS = 5

START = """
import json, sys, time
began = last = time.perf_counter()
parts = {}
def took(name):
    global last
    now = time.perf_counter()
    parts[name] = now - last
    last = now
from icclip.runtime import Encoder
took("import")
encoder = Encoder.open(sys.argv[1], provider="cpu")
took("open")
encoder.session("vision")
took("vision tower")
encoder.session("text")
took("text tower")
for name in ("first", "second"):
    encoder.encode_images([sys.argv[1] + "/golden/000.png"])
    took(name + " image")
    encoder.encode_texts(["two dogs"])
    took(name + " text")
parts["all"] = last - began
print(json.dumps(parts))
"""
MEMORY = """
import json, sys
import numpy as np
from icclip.runtime import Encoder
def held():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return round(int(lines["VmRSS"].split()[0]) / 1024)
tiny, base, other = sys.argv[1:4]
calls, largest = map(int, sys.argv[4:])
image = np.zeros((300, 400, 3), np.uint8)
found = {}
with Encoder.open(tiny, provider="cpu", warm=True) as encoder:
    for call in range(calls):
        encoder.encode_images(image) if call % 2 else encoder.encode_texts(["a dog number %d" % call])
        if call + 1 in (100, calls):
            found["after %d calls" % (call + 1)] = held()
with Encoder.open(base, provider="cpu", warm=True) as encoder:
    found["base, warm"] = held()
    encoder.encode_images([image] * largest, batch_size=largest)
    found["base, after a batch of %d images" % largest] = held()
    with Encoder.open(other, provider="cpu", warm=True) as second:
        second.encode_texts("a dog")
        found["with a second base bundle"] = held()
found["both closed"] = held()
print(json.dumps(found))
"""


PARTS = ("start", "memory", "int8")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, help="another checkout, whose start is measured as well")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--bundles", type=Path, help="where the bundles are, or are left")
    parser.add_argument("--only-bundles", action="store_true", help="make them and end")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # The legacy exporter and its tracer have much to say.
    with tempfile.TemporaryDirectory() as folder:
        root = options.bundles or Path(folder)
        make_bundles(root)
        if not options.only_bundles:
            measure(root, options.parts, options.before)


def make_bundles(root: Path) -> None:
    """A tiny bundle and two of base size."""
    for name, model in {"tiny": tiny_clip, "base": lambda: base_clip(0), "other": lambda: base_clip(1)}.items():
        if not (root / name).exists():
            write_bundle(model(), root / name)


def measure(root: Path, parts: Sequence[str], before: Path | None) -> None:
    """Write the parts anew."""
    path = Path(__file__).with_suffix(".json")
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    threads = {"threads": os.environ.get("OMP_NUM_THREADS")}
    if "start" in parts:
        checkouts = {"now": REPOSITORY, **({} if before is None else {"before": before})}
        found["start_seconds"] = {name: start(checkout, root / "base") for name, checkout in checkouts.items()}
        show([{"checkout": name, **taken} for name, taken in found["start_seconds"].items()])
    if "memory" in parts:
        bundles = (root / name for name in ("tiny", "base", "other"))
        found["memory_mib"] = measured(REPOSITORY, MEMORY, *bundles, CALLS, LARGEST)
        show([found["memory_mib"]])
    if "int8" in parts:
        found["int8"] = int8_rows(root)
        found["about_int8"] = threads
        show(found["int8"])
    if {"start", "memory"} & set(parts):
        found["about"] = {**environment("icclip", "onnxruntime", "numpy", "pillow"), **threads}
    write(__file__, found)


def base_clip(seed: int) -> Tiny:
    """ViT-B/16 at 224 pixels and a text tower of base size, with a small vocabulary's tokenizer."""
    tokenizer = clip_style_tokenizer()
    torch.manual_seed(seed)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = CLIPModel(CLIPConfig(text_config=ids, vision_config={"patch_size": 16})).eval()
    text = TextInputs(padding="longest", max_length=77, lowercase=False, pad_id=tokenizer.pad_token_id)
    return Tiny(model, CLIPImageProcessor(), tokenizer, text, "image_embeds", "text_embeds", "softmax")


def measured(checkout: Path, script: str, *arguments: object) -> dict[str, float]:
    """What a script prints last, run in a fresh process on a checkout's code."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(checkout)},
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def start(checkout: Path, bundle: Path) -> dict[str, float]:
    """Seconds of each part, the fastest of several starts: the file cache is warm, other work is not ours."""
    # The manifest's digest is younger than some checkouts, which would refuse a key that they do not know.
    values = json.loads((bundle / "icclip.json").read_text(encoding="utf-8"))
    older = json.loads(json.dumps({key: value for key, value in values.items() if key != "digest"}))
    for towers in older["precisions"].values():
        towers.pop("dynamic", None)
    (bundle / "icclip.json").write_text(json.dumps(older), encoding="utf-8")
    runs = [measured(checkout, START, bundle) for _ in range(STARTS)]
    (bundle / "icclip.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    return {part: round(min(run[part] for run in runs), 4) for part in runs[0]}


# int8 -----------------------------------------------------------------------------------------------


def int8_rows(root: Path) -> list[dict[str, Any]]:
    """Both towers in float32, in int8, and in int8 with a scale for each row."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rows = []
    for tower, inputs in small_towers(root).items():
        plain, eight, own = (root / f"{tower}{kind}.onnx" for kind in ("", "_int8", "_own"))
        quantize_dynamic(
            plain, eight, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
            op_types_to_quantize=["MatMul", "Gather"],
        )  # fmt: skip
        onnx.save(with_row_scales(onnx.load(eight)), own)
        for kind, path in (("float32", plain), ("int8", eight), ("int8, scales by row in the graph", own)):
            rows.append({"tower": tower, "graph": kind, **speeds(path, inputs)})
    return rows


def small_towers(root: Path) -> Mapping[str, np.ndarray]:
    """Export a ViT-S/16 and its text tower; tower -> 32 inputs."""
    sizes = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_hidden_layers": 12}
    torch.manual_seed(0)
    vision = {**sizes, "image_size": 224, "patch_size": 16}
    config = CLIPConfig(text_config={**sizes, "vocab_size": 1000}, vision_config=vision, projection_dim=256)
    model, draw = CLIPModel(config).eval(), np.random.default_rng(0)
    pixels = draw.standard_normal((32, 3, 224, 224)).astype(np.float32)
    ids = draw.integers(3, 900, (32, 20))
    ids[:, -1] = 999  # The largest id is where the tower pools.
    from support.bundles import _Tower

    for name, features, argument, values in (
        ("vision", "get_image_features", "pixel_values", pixels), ("text", "get_text_features", "input_ids", ids),
    ):  # fmt: skip
        axes = {0: "batch"} if name == "vision" else {0: "batch", 1: "length"}
        tower = _Tower(model, features, argument)
        export_graph(tower, torch.from_numpy(values[:2]), root / f"{name}.onnx", names=["x", "y"], axes=axes)
    return {"vision": pixels, "text": ids}


def with_row_scales(model: Any) -> Any:
    """Every DynamicQuantizeLinear as single operators that take a scale for each row of the last axis."""
    constants = {
        "limit": np.float32(127),
        "zero": np.float32(128),
        "least": np.float32(1e-12),
        "axis": np.array([-1]),
        "point": np.uint8(128),
    }
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v), f"row_{k}") for k, v in constants.items()
    )
    nodes = []
    for number, node in enumerate(list(model.graph.node)):
        nodes += row_quantizer(node, f"row{number}_") if node.op_type == "DynamicQuantizeLinear" else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def row_quantizer(node: Any, own: str) -> list[Any]:
    """X -> round(x / scale) + 128 with scale = max |x| / 127 of each row, under the names of the node's outputs."""
    (x,), (quantized, scale, point) = node.input, node.output
    make = onnx.helper.make_node
    return [
        make("Abs", [x], [own + "abs"]),
        make("ReduceMax", [own + "abs", "row_axis"], [own + "max"], keepdims=1),
        make("Max", [own + "max", "row_least"], [own + "safe"]),
        make("Div", [own + "safe", "row_limit"], [scale]),
        make("Div", [x, scale], [own + "steps"]),
        make("Round", [own + "steps"], [own + "round"]),
        make("Add", [own + "round", "row_zero"], [own + "shifted"]),
        make("Cast", [own + "shifted"], [quantized], to=onnx.TensorProto.UINT8),
        make("Identity", ["row_point"], [point]),
    ]


def speeds(path: Path, inputs: np.ndarray) -> dict[str, Any]:
    """Rows a second for each batch (the fastest of some rounds, in turns), and how far neighbours move a row."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(batch: int) -> np.ndarray:
        parts = [session.run(None, {"x": inputs[at : at + batch]})[0] for at in range(0, len(inputs), batch)]
        rows = np.concatenate(parts)
        unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    moved = float(np.abs(run(1) - run(32)).max())
    seconds = {batch: min(took(lambda batch=batch: run(batch)) for _ in range(ROUNDS)) for batch in BATCHES}
    return {**{f"batch {b}": round(len(inputs) / s, 1) for b, s in seconds.items()}, "moved": round(moved, 6)}


def took(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
