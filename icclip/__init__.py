"""Fine-tune CLIP and SigLIP for retrieval, measure it honestly, ship encoders that are proven to match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icclip.plugins.hooks import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import DatasetDict

    from icclip.plugins.specs import Encoder
    from icclip.training.result import TrainResult

__version__ = "0.1.0"
__all__ = [
    "__version__", "compute_retrieval_metrics", "hookimpl", "load_image_text_dataset", "open_encoder", "save_dataset",
    "train",
]  # fmt: skip


def load_image_text_dataset(name: str, **options: Any) -> DatasetDict:
    """Load a dataset as `icclip train` does; see `icclip.data.loading.load_image_text_dataset`."""
    # Imported when called, so that `import icclip` stays free of the heavy libraries.
    from icclip.data.loading import load_image_text_dataset as load

    return load(name, **options)


def compute_retrieval_metrics(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Retrieval metrics of a model on a split; see `icclip.evaluating.api.compute_retrieval_metrics`."""
    from icclip.evaluating.api import compute_retrieval_metrics as compute

    return compute(*arguments, **options)


def train(model: str, dataset: str | Path | DatasetDict, output_dir: str | Path, **options: Any) -> TrainResult:
    """Train a model on a dataset of the hub, the disk or the memory; see `icclip.api.train`."""
    from icclip.api import train as run

    return run(model, dataset, output_dir, **options)


def save_dataset(splits: DatasetDict, directory: str | Path) -> Path:
    """Write a DatasetDict where `--dataset` can read it; see `icclip.api.save_dataset`."""
    from icclip.api import save_dataset as save

    return save(splits, directory)


def open_encoder(checkpoint: str | Path, **options: Any) -> Encoder:
    """Open a run, a checkpoint or a bundle, ready to encode images and texts; see `icclip.api.open_encoder`."""
    from icclip.api import open_encoder as open_checkpoint

    return open_checkpoint(checkpoint, **options)
