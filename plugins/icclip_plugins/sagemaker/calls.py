"""The requests that the commands make of AWS's API, as values: pure functions, tested against the service's own model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["realtime", "async", "serverless"]

VOLUME_GB = 100
DAY = 24 * 60 * 60
CHECKPOINTS = "/opt/ml/checkpoints"
METRICS = {name: rf"{name}=([0-9.eE+-]+)" for name in ("train_loss", "step", "epoch", "validation_rsum")}
"""What the training entry point prints, as SageMaker finds it in the log."""
SERVERLESS_MB = 4096
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    operation: str
    """As boto3 calls its method: `create_training_job`."""
    parameters: Mapping[str, Any]
    service: str = "sagemaker"

    def to_mapping(self) -> dict[str, Any]:
        """For `--dry-run`."""
        return {"service": self.service, "operation": self.operation, "parameters": dict(self.parameters)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training job."""

    name: str
    role: str
    image: str
    train_s3: str
    output_s3: str
    code_s3: str
    """`sourcedir.tar.gz`, as `icclip sagemaker package` writes it."""
    instance_type: str
    instance_count: int = 1
    hyperparameters: Mapping[str, Any]
    channels: Mapping[str, str]
    """Name -> s3://...; beside `train`."""
    max_hours: float = 24.0
    spot: bool = False


def training_request(asked: Training) -> dict[str, Any]:
    """The parameters of `create_training_job`."""
    return {"TrainingJobName": asked.name, **training_arguments(asked)}


def training_arguments(asked: Training) -> dict[str, Any]:
    """The same without the job's name, as a step of a pipeline has them."""
    longest = int(asked.max_hours * 3600)
    # A spot job may wait as long as it runs for its machine.
    stopping = {"MaxRuntimeInSeconds": longest, **({"MaxWaitTimeInSeconds": 2 * longest} if asked.spot else {})}
    script = {"sagemaker_program": "train.py", "sagemaker_submit_directory": asked.code_s3}
    return {
        "RoleArn": asked.role,
        "AlgorithmSpecification": {
            "TrainingImage": asked.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRICS.items()],
        },
        # The container reads each value as JSON.
        "HyperParameters": {name: json.dumps(value) for name, value in {**asked.hyperparameters, **script}.items()},
        "InputDataConfig": [
            _channel(name, place) for name, place in {"train": asked.train_s3, **asked.channels}.items()
        ],
        "OutputDataConfig": {"S3OutputPath": f"{asked.output_s3}/models"},
        "ResourceConfig": {
            "InstanceType": asked.instance_type,
            "InstanceCount": asked.instance_count,
            "VolumeSizeInGB": VOLUME_GB,
        },
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": asked.spot,
        "CheckpointConfig": {"S3Uri": f"{asked.output_s3}/checkpoints/{asked.name}", "LocalPath": CHECKPOINTS},
    }


def _channel(name: str, place: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": place, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An endpoint, its configuration and its model, which carry one name."""

    name: str
    role: str
    image: str
    artifact: str
    """s3://.../model.tar.gz"""
    instance_type: str
    instance_count: int = 1
    mode: Mode = "realtime"
    output_s3: str | None = None
    """Where an asynchronous endpoint writes its answers."""
    environment: Mapping[str, str] = field(default_factory=dict)


def deployment_calls(asked: Deployment) -> list[Call]:
    """Model, configuration, endpoint, in the order in which they are made."""
    config: dict[str, Any] = {"EndpointConfigName": asked.name, "ProductionVariants": [_variant(asked)]}
    if asked.mode == "async":
        config["AsyncInferenceConfig"] = {"OutputConfig": {"S3OutputPath": f"{asked.output_s3}/answers/{asked.name}"}}
    return [
        Call("create_model", model_request(asked)),
        Call("create_endpoint_config", config),
        Call("create_endpoint", {"EndpointName": asked.name, "EndpointConfigName": asked.name}),
    ]


def undoing(call: Call) -> Call | None:
    """The call that removes what this one made; None for one that makes nothing which is left."""
    made = {"create_model": "ModelName", "create_endpoint_config": "EndpointConfigName"}
    if call.operation not in made:
        return None
    name = made[call.operation]
    return Call(call.operation.replace("create", "delete"), {name: call.parameters[name]})


def model_request(asked: Deployment) -> dict[str, Any]:
    """The parameters of `create_model`."""
    container = {"Image": asked.image, "ModelDataUrl": asked.artifact, "Environment": dict(asked.environment)}
    return {"ModelName": asked.name, "ExecutionRoleArn": asked.role, "PrimaryContainer": container}


def _variant(asked: Deployment) -> dict[str, Any]:
    variant: dict[str, Any] = {"VariantName": "AllTraffic", "ModelName": asked.name}
    if asked.mode == "serverless":
        return {**variant, "ServerlessConfig": {"MemorySizeInMB": SERVERLESS_MB, "MaxConcurrency": 5}}
    return {**variant, "InstanceType": asked.instance_type, "InitialInstanceCount": asked.instance_count}


def invocation_call(endpoint: str, body: Mapping[str, Any]) -> Call:
    """`invoke_endpoint` with the seed project's JSON."""
    parameters = {"EndpointName": endpoint, "ContentType": JSON, "Accept": JSON, "Body": json.dumps(body)}
    return Call("invoke_endpoint", parameters, "sagemaker-runtime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """A batch of requests, answered without an endpoint."""

    name: str
    model: str
    source: str
    target: str
    instance_type: str
    instance_count: int = 1


def transform_call(asked: Transform) -> Call:
    """`create_transform_job` over files with one request of JSON a line."""
    data = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": asked.source}}
    return Call(
        "create_transform_job",
        {
            "TransformJobName": asked.name,
            "ModelName": asked.model,
            "BatchStrategy": "SingleRecord",
            "TransformInput": {"DataSource": data, "ContentType": JSON, "SplitType": "Line"},
            "TransformOutput": {"S3OutputPath": asked.target, "Accept": JSON, "AssembleWith": "Line"},
            "TransformResources": {"InstanceType": asked.instance_type, "InstanceCount": asked.instance_count},
        },
    )


def pipeline_call(name: str, training: Training, serving_image: str, group: str, instance_types: Sequence[str]) -> Call:
    """`create_pipeline`: TrainCLIP, then RegisterCLIP, which waits for somebody's approval."""
    container = {"Image": serving_image, "ModelDataUrl": {"Get": "Steps.TrainCLIP.ModelArtifacts.S3ModelArtifacts"}}
    register = {
        "ModelPackageGroupName": group,
        "ModelApprovalStatus": "PendingManualApproval",
        "InferenceSpecification": {
            "Containers": [container],
            "SupportedContentTypes": [JSON],
            "SupportedResponseMIMETypes": [JSON],
            "SupportedRealtimeInferenceInstanceTypes": list(instance_types),
            "SupportedTransformInstanceTypes": list(instance_types),
        },
    }
    definition = {
        "Version": "2020-12-01",
        "Parameters": [{"Name": "TrainS3", "Type": "String", "DefaultValue": training.train_s3}],
        "Steps": [
            {"Name": "TrainCLIP", "Type": "Training", "Arguments": _with_parameter(training_arguments(training))},
            {"Name": "RegisterCLIP", "Type": "RegisterModel", "Arguments": register},
        ],
    }
    text = json.dumps(definition)
    # The same definition makes one pipeline, however often the request is sent.
    token = hashlib.sha256(f"{name}{text}".encode()).hexdigest()
    parameters = {"PipelineName": name, "PipelineDefinition": text, "RoleArn": training.role}
    return Call("create_pipeline", {**parameters, "ClientRequestToken": token})


def _with_parameter(arguments: dict[str, Any]) -> dict[str, Any]:
    """The training data is a parameter, so that a run of the pipeline may name another."""
    first, *others = arguments["InputDataConfig"]
    source = {**first["DataSource"]["S3DataSource"], "S3Uri": {"Get": "Parameters.TrainS3"}}
    return {**arguments, "InputDataConfig": [{**first, "DataSource": {"S3DataSource": source}}, *others]}


def deletion_calls(endpoint: str, config: str, models: Sequence[str]) -> list[Call]:
    """Endpoint, configuration and models, so that nothing that costs is left."""
    return [
        Call("delete_endpoint", {"EndpointName": endpoint}),
        Call("delete_endpoint_config", {"EndpointConfigName": config}),
        *(Call("delete_model", {"ModelName": name}) for name in models),
    ]
