"""The functions for Python programs: train on your own dataset, and encode with the result.

    import icclip

    icclip.train("clip-tiny", splits, "runs/mine", epochs=2)       # splits: a datasets.DatasetDict
    encoder = icclip.open_encoder("runs/mine")                      # or a hub id, or an exported bundle
    vectors = encoder.encode_images([PIL.Image.open("photo.jpg")])  # float32 [1, dim], rows of length 1

The functions do what `icclip train` and `icclip embed` do, with the same checks and errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import EncoderConfig
from icclip.console import Reporter
from icclip.encoders import open_encoder as open_configured
from icclip.errors import DataError
from icclip.files import atomic_directory
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from icclip.training.result import TrainResult

SPLITS = ("train", "validation", "test")


def train(model: str, dataset: str | Path | DatasetDict, output_dir: str | Path, **options: Any) -> TrainResult:
    """Train a model, keep the best checkpoint, and measure it, as `icclip train` does.

    Args:
        model: a hub id, a directory or a preset.
        dataset: anything that `--dataset` takes, or a DatasetDict with the splits train, validation and test (the last
            two are created if they are missing), a column of images and a column of captions. It is written to
            `<output_dir>-data` as parquet files, so that the run can be evaluated, resumed and repeated later.
        output_dir: the directory of the run.
        **options: fields of `icclip.config.TrainConfig` (`epochs=3`, `train_bs=128`, `gentle={"freeze": "vision"}`).

    Returns:
        The metrics before training, of the best checkpoint and on the test split. The result is the same whether
        training helped or not: `result.verdict()` raises GateError if it did not.

    Raises:
        UsageError: something that you can correct, such as an unknown option, an existing run or an unreadable image.
        TrainingStoppedError: a loss, gradient or weight was not finite.
    """
    from icclip.training.request import train_config
    from icclip.training.run import train as run

    registry = Registry.from_environment()
    directory = Path(output_dir)
    if not isinstance(dataset, str | Path):
        dataset = save_dataset(dataset, directory.with_name(f"{directory.name}-data"))
    config = train_config(registry, None, model, str(dataset), {**options, "output_dir": directory})
    return run(config, registry, Reporter.for_this_process())


def save_dataset(splits: DatasetDict, directory: str | Path) -> Path:
    """Write a DatasetDict as one parquet file per split, including its images, for `--dataset DIRECTORY`.

    Args:
        splits: the splits, named train, validation or test.
        directory: the directory to write; an existing one is replaced once everything is written.

    Returns:
        The directory.

    Raises:
        DataError: a split has another name.
        UsageError: the directory cannot be written.
    """
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise DataError(f"the splits are called {', '.join(splits)}: rename {', '.join(unknown)} to one of {SPLITS}")
    path = Path(directory)
    with atomic_directory(path) as staging:
        for name, split in splits.items():
            _self_contained(split).to_parquet(staging / f"{name}.parquet")
    return path


def open_encoder(checkpoint: str | Path, **options: Any) -> Encoder:
    """Open a run directory, a transformers directory, a hub id or an exported bundle, ready to encode.

    Args:
        checkpoint: the checkpoint to open.
        **options: fields of `icclip.config.EncoderConfig`: `device` and `precision` of a checkpoint, `precision`,
            `provider` and `threads` of a bundle.

    Returns:
        An encoder, whose `encode_images` takes PIL images and `encode_texts` takes strings; both return float32 [n, dim] with rows
        of length 1, so that a matrix product is the cosine.

    Raises:
        UsageError: the checkpoint does not exist, or cannot be used as it is.
    """
    # A program's images are already decoded, so worker processes would only cost time.
    config = EncoderConfig.from_mapping({"checkpoint": str(checkpoint), "workers": 0, **options})
    return open_configured(Registry.from_environment(), config, Reporter(silent=True))


def _self_contained(split: Dataset) -> Dataset:
    """The same rows with the bytes of every image, because a file that is only named may be deleted later."""
    from datasets.table import embed_table_storage

    embedded = split.with_format("arrow").map(embed_table_storage, batched=True, batch_size=256, keep_in_memory=False)
    return embedded.with_format(None)
