"""What each subcommand does: calls in order, and what to say about them."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.console import Reporter
from icclip.errors import UsageError
from icclip_plugins.sagemaker import calls
from icclip_plugins.sagemaker.account import Account
from icclip_plugins.sagemaker.asked import (
    AccountConfig,
    DeleteConfig,
    DeployConfig,
    InvokeConfig,
    PackageConfig,
    PipelineConfig,
    TrainJobConfig,
    TransformConfig,
)
from icclip_plugins.sagemaker.calls import Call, Deployment, Training, Transform
from icclip_plugins.sagemaker.packaging import CODE_ARCHIVE, code_archive
from icclip_plugins.sagemaker.packaging import package as write_package
from icclip_plugins.sagemaker.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

TRAIN_TYPE, DEPLOY_TYPE, TRANSFORM_TYPE = "ml.p4d.24xlarge", "ml.g5.xlarge", "ml.m5.xlarge"
"""The seed project's machines, where nothing says otherwise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did, or would do."""

    calls: list[Call]
    lines: list[str] = field(default_factory=list)
    answer: Mapping[str, Any] = field(default_factory=dict)
    dry: bool = False

    def to_mapping(self) -> Mapping[str, Any]:
        """The requests where they are only shown; otherwise the answer."""
        return {"requests": [call.to_mapping() for call in self.calls]} if self.dry else dict(self.answer)

    def renderables(self) -> Iterable[RenderableType]:
        """Lines for people; of a dry run the JSON itself."""
        from rich.text import Text

        if self.dry:
            return [Text(json.dumps(self.to_mapping(), indent=2))]
        return [Text(line) for line in self.lines]

    def verdict(self) -> None:
        """What AWS refuses has raised already."""


@dataclass
class Work:
    """Makes calls, or only keeps them for a dry run; it connects when the first one is made."""

    config: AccountConfig
    settings: Settings
    reporter: Reporter
    calls: list[Call] = field(default_factory=list)

    @cached_property
    def account(self) -> Account:
        """The account that the calls are made in."""
        return Account(self.settings, self.reporter)

    def do(self, *wanted: Call) -> list[Any]:
        """What the calls answer; nothing in a dry run."""
        self.calls += wanted
        return [] if self.config.dry_run else [self.account.make(call) for call in wanted]

    def do_all_or_none(self, *wanted: Call) -> None:
        """As `do`; where one is refused, what the ones before it made is removed again."""
        done: list[Call] = []
        try:
            for call in wanted:
                self.do(call)
                done.append(call)
        except UsageError:
            for call in reversed(done):
                if (undo := calls.undoing(call)) is not None:
                    self.account.make(undo)
            raise

    def wait(self, look: Call, status: str) -> None:
        """As `Account.wait`; a dry run has nothing to wait for."""
        if not self.config.dry_run:
            self.account.wait(look, status, "FailureReason")

    def outcome(self, lines: list[str], answer: Mapping[str, Any]) -> Outcome:
        """What was done, and what to say of it."""
        return Outcome(self.calls, lines, answer, self.config.dry_run)


def train(config: TrainJobConfig, reporter: Reporter) -> Outcome:
    """Upload the code and start the job."""
    settings = config.account.read(
        train_s3=config.s3_train, output_s3=config.s3_output, training_image=config.machines.image
    )
    name = f"icclip-{config.job_suffix or _now()}"
    hyperparameters = {"model": config.model_name, "epochs": config.epochs, "train-bs": config.batch_size}
    channels = {"validation": config.s3_validation, "test": config.s3_test}
    asked = _training(
        settings, name, config.machines.instance_type,
        instance_count=config.machines.instance_count, max_hours=config.max_hours, spot=config.spot,
        hyperparameters={**hyperparameters, **_pairs(config.others)},
        channels={split: place for split, place in channels.items() if place},
    )  # fmt: skip
    work = Work(config.account, settings, reporter)
    _with_code(work, asked, config.wheel, Call("create_training_job", calls.training_request(asked)))
    if config.wait:
        work.wait(Call("describe_training_job", {"TrainingJobName": name}), "TrainingJobStatus")
    lines = [f"Training job: {name}", f"Its model will be {asked.output_s3}/models/{name}/output/model.tar.gz"]
    return work.outcome([*lines, *_cost(settings, asked.instance_type, asked.instance_count)], {"training_job": name})


def deploy(config: DeployConfig, reporter: Reporter) -> Outcome:
    """Make model, configuration and endpoint, and wait until it is in service."""
    settings = config.account.read(output_s3=config.s3_output, serving_image=config.machines.image)
    asked = Deployment(
        name=config.endpoint_name,
        role=settings.needed("role", "--role"),
        image=settings.needed("serving_image", "--image"),
        artifact=config.model_artifact,
        instance_type=config.machines.instance_type or settings.default_instance_type or DEPLOY_TYPE,
        instance_count=config.machines.instance_count,
        mode=config.mode,
        output_s3=settings.needed("output_s3", "--s3-output").rstrip("/") if config.mode == "async" else None,
    )
    work = Work(config.account, settings, reporter)
    work.do_all_or_none(*calls.deployment_calls(asked))
    if not config.no_wait:
        work.wait(Call("describe_endpoint", {"EndpointName": asked.name}), "EndpointStatus")
    cost = [] if asked.mode == "serverless" else _cost(settings, asked.instance_type, asked.instance_count)
    gone = f"Remove it with: icclip sagemaker delete --endpoint {asked.name}"
    return work.outcome([f"Endpoint: {asked.name} ({asked.mode})", *cost, gone], {"endpoint": asked.name})


def invoke(config: InvokeConfig, reporter: Reporter) -> Outcome:
    """Ask an endpoint which texts fit a picture."""
    try:
        picture = base64.b64encode(config.image.read_bytes()).decode()
    except OSError as error:
        raise UsageError(f"--image {config.image}: {error.strerror}") from error
    body = {"task": "rank", "image_b64": picture, "texts": list(config.texts), "top_k": config.top_k}
    work = Work(config.account, config.account.read(), reporter)
    answers = work.do(calls.invocation_call(config.endpoint, body))
    answer = json.loads(answers[0]["Body"].read()) if answers else {}
    return work.outcome([f"{row['score']:.4f}  {row['text']}" for row in answer.get("top_k", ())], answer)


def batch_transform(config: TransformConfig, reporter: Reporter) -> Outcome:
    """Answer requests from files."""
    settings = config.account.read()
    asked = Transform(
        name=f"{config.model_name}-{_now()}",
        model=config.model_name,
        source=config.s3_input,
        target=config.s3_output,
        instance_type=config.machines.instance_type or settings.default_instance_type or TRANSFORM_TYPE,
        instance_count=config.machines.instance_count,
    )
    work = Work(config.account, settings, reporter)
    work.do(calls.transform_call(asked))
    if config.wait:
        work.wait(Call("describe_transform_job", {"TransformJobName": asked.name}), "TransformJobStatus")
    lines = [f"Transform job: {asked.name}", f"Its answers: {asked.target}"]
    return work.outcome(
        [*lines, *_cost(settings, asked.instance_type, asked.instance_count)], {"transform_job": asked.name}
    )


def pipeline(config: PipelineConfig, reporter: Reporter) -> Outcome:
    """Make the pipeline, or give the one of that name its new definition."""
    settings = config.account.read(
        train_s3=config.s3_train,
        output_s3=config.s3_output,
        training_image=config.machines.image,
        serving_image=config.serving_image,
        model_package_group_name=config.model_package_group_name,
    )
    group = settings.needed("model_package_group_name", "--model-package-group-name")
    serving = settings.needed("serving_image", "--serving-image")
    asked = _training(
        settings, config.name, config.machines.instance_type,
        instance_count=config.machines.instance_count, hyperparameters={"epochs": config.epochs}, channels={},
    )  # fmt: skip
    work = Work(config.account, settings, reporter)
    call = calls.pipeline_call(config.name, asked, serving, group, [DEPLOY_TYPE, TRANSFORM_TYPE])
    if _has_pipeline(work, config.name):
        kept = ("PipelineName", "PipelineDefinition", "RoleArn")
        call = Call("update_pipeline", {name: call.parameters[name] for name in kept})
    _with_code(work, asked, config.wheel, call)
    return work.outcome([f"Pipeline: {config.name}"], {"pipeline": config.name})


def _has_pipeline(work: Work, name: str) -> bool:
    """Whether there is a pipeline of that name; a dry run asks nobody."""
    if work.config.dry_run:
        return False
    found = work.account.make(Call("list_pipelines", {"PipelineNamePrefix": name}))["PipelineSummaries"]
    return any(one["PipelineName"] == name for one in found)


def delete(config: DeleteConfig, reporter: Reporter) -> Outcome:
    """Remove an endpoint and all that belongs to it."""
    work = Work(config.account, config.account.read(), reporter)
    own, models = config.endpoint, [config.endpoint]
    if not config.account.dry_run:
        make = work.account.make
        own = make(Call("describe_endpoint", {"EndpointName": config.endpoint}))["EndpointConfigName"]
        variants = make(Call("describe_endpoint_config", {"EndpointConfigName": own}))["ProductionVariants"]
        models = [variant["ModelName"] for variant in variants]
    work.do(*calls.deletion_calls(config.endpoint, own, models))
    lines = [f"Removed: {' '.join(call.parameters.values())} ({call.operation})" for call in work.calls]
    return work.outcome(lines, {"deleted": config.endpoint})


def package(config: PackageConfig) -> Outcome:
    """Write the archives."""
    files = write_package(config.source, config.output_dir, wheel=config.wheel)
    answer = {name: {"path": str(path), "bytes": path.stat().st_size} for name, path in files.items()}
    return Outcome([], [f"{path} ({path.stat().st_size:,} bytes)" for path in files.values()], answer)


def _training(settings: Settings, name: str, instance_type: str | None, **details: Any) -> Training:
    source = settings.needed("train_s3", "--s3-train").rstrip("/")
    target = (settings.output_s3 or f"{source}-output").rstrip("/")
    return Training(
        name=name,
        role=settings.needed("role", "--role"),
        image=settings.needed("training_image", "--image"),
        train_s3=source,
        output_s3=target,
        code_s3=f"{target}/code/{name}/{CODE_ARCHIVE}",
        instance_type=instance_type or settings.default_instance_type or TRAIN_TYPE,
        **details,
    )


def _with_code(work: Work, asked: Training, wheel: Path | None, call: Call) -> None:
    """Upload what the container runs, then make the call that names it."""
    bucket, _, key = asked.code_s3.removeprefix("s3://").partition("/")
    with tempfile.TemporaryDirectory() as scratch:
        code = Path(scratch) / CODE_ARCHIVE
        code_archive(code, wheel)
        work.do(Call("upload_file", {"Filename": str(code), "Bucket": bucket, "Key": key}, "s3"), call)


def _pairs(assignments: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not name or not equals:
            raise UsageError(f"--set {assignment}: write it as --set NAME=VALUE")
        pairs[name.strip().removeprefix("--")] = value
    return pairs


def _cost(settings: Settings, instance_type: str, count: int) -> list[str]:
    """The price of an hour, where the settings know it."""
    price = settings.prices.get(instance_type)
    if price is None:
        return []
    return [f"Cost: {price * count:.2f} an hour ({count} x {instance_type}), by the prices in your settings"]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d-%H-%M-%S")
