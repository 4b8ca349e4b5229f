"""A model of useful size from scratch on the whole of Flickr8k, then its encoders on the CUDA provider.

    python -m benchmarks.gpu.real_run --dataset flickr8k@PATH [--epochs N]
    python -m benchmarks.gpu.real_run --dataset shapes --device cpu --size tiny      shows that it works

ViT-S/16 at 224 pixels beside a text tower of the same width (6 layers), random weights, a tokenizer
trained on the captions; bf16, every image in one batch of 1,024 pairs at once. 6,000 images are few:
what it shows is that the whole way works and how far it gets in minutes, not what CLIP can do. The test
split is measured once, at the end. Then `icclip export` in float32 and fp16 with its gate. Give the
epochs for the minutes there are; the first evaluations tell how long one takes. Writes real_run.json.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from benchmarks.gpu.common import parser, write_result
from benchmarks.support.checkpoints import ends
from benchmarks.support.timing import rounded, show
from icclip.config import DatasetConfig, EncoderConfig, ExportConfig, ModelConfig
from icclip.console import Reporter
from icclip.data.loading import dataset_config, load_splits
from icclip.data.split import caption_map
from icclip.exporting.request import ExportResult
from icclip.exporting.run import export
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.runs.history import HISTORY, read_history
from icclip.training.request import train_config
from icclip.training.run import TrainResult, train

TOWER = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
RECIPE: Mapping[str, Any] = {
    "lr": 1e-3,
    "weight_decay": 0.2,
    "warmup_ratio": 0.1,
    "precision": "bf16",
    "eval_every": 5,
    "logging_steps": 5,
    "augment": "light",
    "report_to": (),
}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "base": {"train_bs": 1024, "epochs": 60},
    "tiny": {"train_bs": 32, "epochs": 1, "max_steps": 10},
}
KEYS = ("i2t_R@1", "i2t_R@5", "i2t_R@10", "t2i_R@1", "t2i_R@5", "t2i_R@10", "rsum")


def main() -> None:
    """Train, export, print, write."""
    made = parser(__doc__)
    made.add_argument("--dataset", required=True, help="as `icclip train` takes it")
    made.add_argument("--epochs", type=int)
    options = made.parse_args()
    registry, reporter = Registry.from_environment(), Reporter.for_this_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = dataset_config(registry, options.dataset)
        checkpoint = write_checkpoint(folder / "start", options.size, registry, data)
        config = {**RECIPE, **SIZES[options.size], "output_dir": folder / "run", "device": options.device}
        if options.epochs is not None:
            config["epochs"] = options.epochs
        result = train(train_config(registry, None, str(checkpoint), options.dataset, config), registry, reporter)
        shown = curve(folder / "run")
        exported = exported_bundle(options, folder, data, registry, reporter)
    show([metrics_row("validation, before", result.baseline), metrics_row("validation, best", result.best),
          metrics_row("test", result.test)])  # fmt: skip
    show([parity_row(one) for one in exported.parity.results])
    about = {name: value for name, value in config.items() if name not in ("output_dir", "report_to", "device")}
    write_result(__file__, options, {"training": about, **outcome(result, shown, exported)})


def write_checkpoint(folder: Path, size: str, registry: Registry, data: DatasetConfig) -> Path:
    """Random weights, and a tokenizer of the training captions."""
    captions = caption_map(load_splits(registry, data, Reporter(silent=True))["train"]).texts
    preset = open_model(registry, ModelConfig(name="clip-tiny"), lambda: captions)
    if size == "tiny":
        preset.save(folder)
        return folder
    tokenizer = preset.feeder.processor.tokenizer
    text = {**TOWER, "num_hidden_layers": 6, "max_position_embeddings": 48, "vocab_size": len(tokenizer)}
    vision = {**TOWER, "num_hidden_layers": 12, "image_size": 224, "patch_size": 16}
    config = CLIPConfig(text_config=text | ends(tokenizer), vision_config=vision, projection_dim=384)
    for part in (CLIPModel(config), CLIPImageProcessor(), tokenizer):
        part.save_pretrained(folder)
    return folder


def curve(run: Path) -> dict[str, list[list[float]]]:
    """[step, value] of the loss and of rsum on the validation split."""
    history = read_history(run / HISTORY)
    names = {"loss": "loss", "rsum": "eval_rsum"}
    found = {
        key: [[line["step"], rounded(line[name])] for line in history if name in line] for key, name in names.items()
    }
    assert all(math.isfinite(value) for points in found.values() for _, value in points)
    return found


def exported_bundle(
    options: argparse.Namespace, folder: Path, data: DatasetConfig, registry: Registry, reporter: Reporter
) -> ExportResult:
    """Through the gate, on the test split; raises GateError where it refuses."""
    config = ExportConfig(
        encoder=EncoderConfig(
            checkpoint=str(folder / "run"), provider="cpu" if options.device == "cpu" else "cuda", device=options.device
        ),
        data=data, output_dir=folder / "bundle", precisions=("fp32", "fp16"),
    )  # fmt: skip
    return export(config, registry, reporter)


def metrics_row(split: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    return {"split": split, **{key: rounded(metrics[key]) for key in KEYS}}


def parity_row(one: Any) -> dict[str, Any]:
    row = {"precision": one.precision, "provider": one.provider, "passed": one.passed}
    lowest = {f"{name} lowest cosine": tower["min_cosine"] for name, tower in one.measured["towers"].items()}
    return row | lowest | {key: rounded(one.metrics[key]) for key in ("i2t_R@1", "t2i_R@1")}


def outcome(result: TrainResult, shown: Mapping[str, Any], exported: ExportResult) -> dict[str, Any]:
    return {
        "steps": result.steps,
        "best step": result.best_step,
        "seconds": round(result.seconds, 1),
        "metrics": [metrics_row("validation", result.best), metrics_row("test", result.test)],
        "curve": shown,
        "parity": [parity_row(one) for one in exported.parity.results],
    }


if __name__ == "__main__":
    main()
