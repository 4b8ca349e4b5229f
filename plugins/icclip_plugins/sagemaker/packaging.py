"""The archives that SageMaker's containers unpack."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from icclip import __version__
from icclip.bundles.manifest import NAME, check_files, is_bundle, read_manifest
from icclip.errors import UsageError
from icclip.files import atomic_write_text
from icclip.publishing.files import run_files

MODEL_ARCHIVE, CODE_ARCHIVE, TRAIN_JOB = "model.tar.gz", "sourcedir.tar.gz", "train_job.py"

TRAIN = '''"""What the training container runs; the hyperparameters are options of `icclip train`."""

from icclip_plugins.sagemaker.training import main

main()
'''
INFERENCE = '''"""What a container with the seed project's handlers runs."""

from icclip_plugins.sagemaker.handlers import input_fn, model_fn, output_fn, predict_fn  # noqa: F401
'''
MODEL_TRAINER = '''"""Start the training job with version 3 of SageMaker's SDK, in an environment of its own.

    pip install "sagemaker>=3"
    python train_job.py --role arn:aws:iam::123456789012:role/NAME --image IMAGE --train s3://BUCKET/PREFIX

icclip itself starts jobs with boto3 alone: `icclip sagemaker train`.
"""

import argparse

from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode

parser = argparse.ArgumentParser()
parser.add_argument("--role", required=True)
parser.add_argument("--image", required=True, help="a PyTorch training container of your region")
parser.add_argument("--train", required=True, help="s3://BUCKET/PREFIX with manifest.jsonl and its images")
parser.add_argument("--instance-type", default="ml.g5.xlarge")
parser.add_argument("--epochs", default="5")
arguments = parser.parse_args()

trainer = ModelTrainer(
    training_image=arguments.image,
    role=arguments.role,
    # The directory with train.py and requirements.txt: unpack sourcedir.tar.gz there.
    source_code=SourceCode(source_dir="code", entry_script="train.py", requirements="requirements.txt"),
    compute=Compute(instance_type=arguments.instance_type, instance_count=1),
    hyperparameters={"epochs": arguments.epochs},
)
trainer.train(input_data_config=[InputData(channel_name="train", data_source=arguments.train)])
'''


def package(source: Path, directory: Path, *, wheel: Path | None = None) -> dict[str, Path]:
    """Write `model.tar.gz`, `sourcedir.tar.gz` and `train_job.py`.

    Args:
        source: a bundle or a run directory.
        directory: where the files go; made if it is missing.
        wheel: of icclip, which goes into both archives; None: the containers install this version by its name.

    Returns:
        What each file is -> where it is.

    Raises:
        UsageError: the source is neither, or the wheel is missing.
        CheckpointError: a file of the bundle is missing or was changed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    extra = "onnx" if is_bundle(source) else "train"
    model = {**model_files(source), **_code(wheel, extra, {"code/inference.py": INFERENCE}, "code/")}
    _archive(directory / MODEL_ARCHIVE, model)
    code_archive(directory / CODE_ARCHIVE, wheel)
    atomic_write_text(directory / TRAIN_JOB, MODEL_TRAINER)
    return {name: directory / name for name in (MODEL_ARCHIVE, CODE_ARCHIVE, TRAIN_JOB)}


def code_archive(path: Path, wheel: Path | None = None) -> None:
    """Write the archive that the training container runs `train.py` of.

    Raises:
        UsageError: the wheel is missing.
    """
    _archive(path, _code(wheel, "train", {"train.py": TRAIN}, ""))


def model_files(source: Path) -> dict[str, Path | bytes]:
    """Name in the archive -> file, for what the container finds in /opt/ml/model.

    Raises:
        UsageError: the source is neither a bundle nor a run.
        CheckpointError: a file of the bundle is missing or was changed.
    """
    if is_bundle(source):
        manifest = read_manifest(source)
        check_files(source, manifest)
        return {name: source / name for name in (NAME, *sorted(manifest.files))}
    if not (source / "config.json").is_file():
        raise UsageError(f"{source} is neither a bundle nor a run directory: give one of them")
    return {item.path: item.content for item in run_files(source, logs=False)}


def _code(wheel: Path | None, extra: str, scripts: Mapping[str, str], folder: str) -> dict[str, Path | bytes]:
    """The scripts, and what the container has to install for them."""
    if wheel is not None and not (wheel.is_file() and wheel.suffix == ".whl"):
        raise UsageError(f"--wheel {wheel}: there is no such wheel; build one with `python -m build --wheel`")
    files: dict[str, Path | bytes] = {name: text.encode() for name, text in scripts.items()}
    wanted = f"icclip[{extra}]=={__version__}"
    if wheel is not None:
        files[f"{folder}{wheel.name}"] = wheel
        wanted = f"./{wheel.name}[{extra}]"
    return {**files, f"{folder}requirements.txt": f"{wanted}\n".encode()}


def _archive(path: Path, files: Mapping[str, Path | bytes]) -> None:
    """Write a .tar.gz with the same bytes for the same files, complete or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for member, content in _members(files):
                with content:
                    archive.addfile(member, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _members(files: Mapping[str, Path | bytes]) -> Iterator[tuple[tarfile.TarInfo, io.BufferedIOBase]]:
    for name, content in sorted(files.items()):
        member = tarfile.TarInfo(name)
        member.size = len(content) if isinstance(content, bytes) else content.stat().st_size
        member.mode = 0o644
        yield member, io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
