"""What the subcommands of `icclip sagemaker` are asked for; each field is an option."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icclip.config import Config
from icclip.config.declare import BATCH, MODEL_AND_DATA, OUTPUT, REQUIRED, SCHEDULE, argument, nested, option
from icclip_plugins.sagemaker.calls import Mode
from icclip_plugins.sagemaker.settings import Settings

MACHINES = "Machines"
ACCOUNT = "AWS account"
MANIFEST = "Folder in S3 with manifest.jsonl and its images"
WHEEL = "Wheel of icclip for the container to install."
SETTINGS = "from the settings"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountConfig(Config):
    """Whose account it is, and whether anything is done there."""

    settings: Path | None = option(
        "Settings file (YAML).", None, panel=ACCOUNT, flags=("--config",), metavar="FILE", unset="config/sagemaker.yaml"
    )
    region: str | None = option("AWS region.", None, panel=ACCOUNT, metavar="REGION", unset="that of your profile")
    role: str | None = option(
        "ARN of the role that SageMaker works as.", None, panel=ACCOUNT, metavar="ARN", unset=SETTINGS
    )
    dry_run: bool = option("Print the exact requests as JSON, and make none of them.", False, panel=OUTPUT)

    def read(self, **said: Any) -> Settings:
        """The settings file, with what was said in its place."""
        return Settings.read(self.settings, region=self.region, role=self.role, **said)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig(Config):
    """What it runs on."""

    instance_type: str | None = option(
        "Machine type, such as ml.g5.xlarge.", None, panel=MACHINES, metavar="TYPE", unset=SETTINGS
    )
    instance_count: int = option("Number of machines.", 1, panel=MACHINES, metavar="N", at_least=1)
    image: str | None = option("Container image.", None, panel=MACHINES, metavar="URI", unset=SETTINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJobConfig(Config):
    """A training job."""

    account: AccountConfig = nested(AccountConfig)
    machines: MachineConfig = nested(MachineConfig)
    s3_train: str | None = option(f"{MANIFEST}.", None, panel=MODEL_AND_DATA, metavar="S3", unset=SETTINGS)
    s3_validation: str | None = option(f"{MANIFEST}, for validation.", None, panel=MODEL_AND_DATA, metavar="S3")
    s3_test: str | None = option(f"{MANIFEST}, for the test split.", None, panel=MODEL_AND_DATA, metavar="S3")
    s3_output: str | None = option(
        "Place in S3 for models and checkpoints.",
        None,
        panel=MODEL_AND_DATA,
        metavar="S3",
        unset="beside the training data",
    )
    model_name: str = option(
        "Hub id or preset to start from.", "openai/clip-vit-base-patch16", panel=MODEL_AND_DATA,
        flags=("--model-name", "--pretrained"), metavar="MODEL",
    )  # fmt: skip
    job_suffix: str | None = option(
        "End of the job's name.", None, panel=MODEL_AND_DATA, metavar="NAME", unset="the time"
    )
    epochs: int = option("Passes over the training images.", 10, panel=SCHEDULE, metavar="N", at_least=1)
    batch_size: int = option("Images per process and step.", 128, panel=BATCH, metavar="N", at_least=1)
    others: tuple[str, ...] = option(
        "Any other option of `icclip train`; may be repeated.",
        (),
        panel=SCHEDULE,
        flags=("--set",),
        metavar="NAME=VALUE",
    )
    spot: bool = option("Use spot machines: they cost less, and an interrupted job goes on from its last checkpoint.", False, panel=MACHINES)  # fmt: skip
    max_hours: float = option("Stop the job after this time.", 24.0, panel=MACHINES, metavar="HOURS", above=0)
    wheel: Path | None = option(WHEEL, None, panel=MACHINES, metavar="FILE", unset="this version by its name")
    wait: bool = option("Wait until the job has ended.", False, panel=OUTPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployConfig(Config):
    """An endpoint."""

    account: AccountConfig = nested(AccountConfig)
    machines: MachineConfig = nested(MachineConfig)
    endpoint_name: str = option("Name of the endpoint.", REQUIRED, panel=MODEL_AND_DATA, metavar="NAME")
    model_artifact: str = option(
        "Archive in S3 (model.tar.gz) with a bundle or a checkpoint.", REQUIRED, panel=MODEL_AND_DATA, metavar="S3"
    )
    mode: Mode = option("How requests are answered.", "realtime", panel=MACHINES)
    s3_output: str | None = option(
        "Place in S3 for the answers of an asynchronous endpoint.",
        None,
        panel=MODEL_AND_DATA,
        metavar="S3",
        unset=SETTINGS,
    )
    no_wait: bool = option("Return before the endpoint is in service.", False, panel=OUTPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvokeConfig(Config):
    """A question to an endpoint."""

    account: AccountConfig = nested(AccountConfig, leave_out=("role",))
    endpoint: str = option("Name of the endpoint.", REQUIRED, panel=MODEL_AND_DATA, metavar="NAME")
    image: Path = option("Picture to rank the texts for.", REQUIRED, panel=MODEL_AND_DATA, metavar="FILE")
    texts: tuple[str, ...] = option("A text; may be repeated.", REQUIRED, panel=MODEL_AND_DATA, metavar="TEXT")
    top_k: int = option("Number of texts in the answer.", 5, panel=OUTPUT, metavar="N", at_least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformConfig(Config):
    """A batch of requests from files."""

    account: AccountConfig = nested(AccountConfig, leave_out=("role",))
    machines: MachineConfig = nested(MachineConfig, leave_out=("image",))
    model_name: str = option("Name of the model, as `deploy` made it.", REQUIRED, panel=MODEL_AND_DATA, metavar="NAME")
    s3_input: str = option("Files in S3 with one request of JSON a line.", REQUIRED, panel=MODEL_AND_DATA, metavar="S3")
    s3_output: str = option("Place in S3 for the answers.", REQUIRED, panel=MODEL_AND_DATA, metavar="S3")
    wait: bool = option("Wait until the job has ended.", False, panel=OUTPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig(Config):
    """A pipeline that trains and registers."""

    account: AccountConfig = nested(AccountConfig)
    machines: MachineConfig = nested(MachineConfig)
    name: str = option("Name of the pipeline.", "icclip", panel=MODEL_AND_DATA, metavar="NAME")
    s3_train: str | None = option(f"{MANIFEST}.", None, panel=MODEL_AND_DATA, metavar="S3", unset=SETTINGS)
    s3_output: str | None = option(
        "Place in S3 for models and checkpoints.",
        None,
        panel=MODEL_AND_DATA,
        metavar="S3",
        unset="beside the training data",
    )
    model_package_group_name: str | None = option(
        "Group that trained models are registered in.", None, panel=MODEL_AND_DATA, metavar="NAME", unset=SETTINGS
    )
    epochs: int = option("Passes over the training images.", 10, panel=SCHEDULE, metavar="N", at_least=1)
    serving_image: str | None = option(
        "Container image that serves.", None, panel=MACHINES, metavar="URI", unset=SETTINGS
    )
    wheel: Path | None = option(WHEEL, None, panel=MACHINES, metavar="FILE", unset="this version by its name")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteConfig(Config):
    """An endpoint that is to go."""

    account: AccountConfig = nested(AccountConfig, leave_out=("role",))
    endpoint: str = option("Name of the endpoint.", REQUIRED, panel=MODEL_AND_DATA, metavar="NAME")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageConfig(Config):
    """Archives for the containers."""

    source: Path = argument("Bundle or run directory.", complete="file")
    output_dir: Path = option(
        "Directory for the archives.",
        Path("sagemaker"),
        panel=MODEL_AND_DATA,
        flags=("--output-dir", "-o"),
        metavar="DIR",
    )
    wheel: Path | None = option(WHEEL, None, panel=MODEL_AND_DATA, metavar="FILE", unset="this version by its name")
