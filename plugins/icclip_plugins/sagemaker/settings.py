"""What `config/sagemaker.yaml` says, completed by the options of a command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from icclip.config import Config
from icclip.errors import ConfigError, MissingExtraError, UsageError

USUAL = Path("config/sagemaker.yaml")
INSTALL = "pip install 'icclip[sagemaker]'"
S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")
ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/.+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Config):
    """The account's side of a command. Every value may stand in the file, and an option wins."""

    region: str | None = None
    """None: the one of the AWS profile or of AWS_REGION."""
    role: str | None = None
    """The ARN of the role that SageMaker works as."""
    default_instance_type: str | None = None
    """For training, deployment and batch transform where no option says otherwise."""
    train_s3: str | None = None
    output_s3: str | None = None
    """Where trained models and results go; None: beside the training data."""
    model_package_group_name: str | None = None
    training_image: str | None = None
    """The container that trains: a PyTorch training container of your region."""
    serving_image: str | None = None
    """The container that serves: the image built from the plugin's Dockerfile."""
    prices: Mapping[str, float] = field(default_factory=dict)
    """Instance type -> cost of an hour, in the currency of your bill."""

    @classmethod
    def read(cls, path: Path | None, **said: Any) -> Self:
        """The file, if there is one, with what was said in its place.

        Args:
            path: of a YAML file; None: `config/sagemaker.yaml`, which may be missing.
            said: values of options; None where an option was not given.

        Raises:
            UsageError: the file is missing though it was named, or is not YAML.
            ConfigError: a key is unknown, or a value has the wrong type.
            MissingExtraError: there is a file, and no YAML reader.
        """
        given = {name: value for name, value in said.items() if value is not None}
        try:
            return cls.from_mapping({**_content(path), **given})
        except ConfigError as error:
            raise ConfigError([f"{path or USUAL}: {problem}" for problem in error.problems]) from error

    def problems(self) -> list[str]:
        """Places that are not in S3, and a role that is not one."""
        places = {"train_s3": self.train_s3, "output_s3": self.output_s3}
        found = [
            f"{name} is {value!r}: write it as s3://BUCKET/PREFIX"
            for name, value in places.items()
            if value and not S3.fullmatch(value)
        ]
        if self.role and not ROLE.fullmatch(self.role):
            found.append(f"role is {self.role!r}: write it as arn:aws:iam::123456789012:role/NAME")
        return found

    def needed(self, name: str, flag: str) -> str:
        """A value that the command cannot do without.

        Raises:
            UsageError: neither the file nor the option says it.
        """
        value = getattr(self, name)
        if not value:
            raise UsageError(f"{name} is not known: give {flag}, or write `{name}: ...` to {USUAL}")
        return str(value)


def _content(path: Path | None) -> dict[str, Any]:
    file = path or USUAL
    if not file.exists():
        if path is not None:
            raise UsageError(f"there is no settings file {path}")
        return {}
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"reading {file}", ["pyyaml"], INSTALL) from error
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise UsageError(f"{file} is not a table of settings: write lines such as `region: eu-central-1`")
    return content or {}
