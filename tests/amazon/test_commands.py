"""`icclip sagemaker`: every request is valid by the service's own model, and moto's account ends as it should."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from amazon.conftest import ROLE
from support.bundles import tiny_clip, write_bundle
from support.images import photo

TRAIN = ("sagemaker", "train", "--job-suffix", "one", "--set", "image-resize=32", "--s3-validation", "s3://photos/val")
DEPLOY = ("sagemaker", "deploy", "--endpoint-name", "photos", "--model-artifact", "s3://photos/model.tar.gz")
TRANSFORM = (
    "sagemaker",
    "batch-transform",
    "--model-name",
    "photos",
    "--s3-input",
    "s3://photos/in",
    "--s3-output",
    "s3://photos/answers",
)
PIPELINE = ("sagemaker", "pipeline", "--epochs", "3")
DELETE = ("sagemaker", "delete", "--endpoint", "photos")


def requests(icclip, settings, *arguments):
    outcome = icclip(*arguments, "--config", settings, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["requests"]


def valid(request):
    """What botocore's own description of the service says against a request."""
    pytest.importorskip("botocore")
    from botocore.session import Session
    from botocore.validate import ParamValidator

    model = Session().get_service_model(request["service"])
    operation = "".join(part.title() for part in request["operation"].split("_"))
    return (
        ParamValidator().validate(request["parameters"], model.operation_model(operation).input_shape).generate_report()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        TRAIN, (*TRAIN, "--spot", "--instance-type", "ml.g5.xlarge", "--instance-count", "2"), DEPLOY, (*DEPLOY, "--mode", "async"),
        (*DEPLOY, "--mode", "serverless"), TRANSFORM, PIPELINE, DELETE,
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_request_is_valid_by_the_services_own_model(icclip, settings, arguments):
    found = requests(icclip, settings, *arguments)
    assert found
    for request in found:
        if request["operation"] != "upload_file":  # boto3's own helper, which has no shape
            assert valid(request) == ""


def test_the_check_sees_a_wrong_request():
    request = {"service": "sagemaker", "operation": "create_endpoint", "parameters": {"EndpointName": 3}}
    assert "EndpointConfigName" in valid(request)


def test_a_training_job_gets_options_as_the_container_reads_them(icclip, settings):
    upload, job = requests(icclip, settings, *TRAIN, "--model-name", "clip-tiny", "--epochs", "2", "--batch-size", "16")
    assert upload["parameters"]["Key"] == "out/code/icclip-one/sourcedir.tar.gz"
    wanted = job["parameters"]
    assert (wanted["TrainingJobName"], wanted["RoleArn"]) == ("icclip-one", ROLE)
    given = {name: json.loads(value) for name, value in wanted["HyperParameters"].items()}
    assert given == {
        "model": "clip-tiny", "epochs": 2, "train-bs": 16, "image-resize": "32", "sagemaker_program": "train.py",
        "sagemaker_submit_directory": "s3://photos/out/code/icclip-one/sourcedir.tar.gz",
    }  # fmt: skip
    assert [one["ChannelName"] for one in wanted["InputDataConfig"]] == ["train", "validation"]


def test_a_pipeline_trains_and_then_registers(icclip, settings):
    _, call = requests(icclip, settings, *PIPELINE)
    definition = json.loads(call["parameters"]["PipelineDefinition"])
    assert [step["Name"] for step in definition["Steps"]] == ["TrainCLIP", "RegisterCLIP"]
    register = definition["Steps"][1]["Arguments"]
    assert (register["ModelApprovalStatus"], register["ModelPackageGroupName"]) == ("PendingManualApproval", "photos")


def test_from_a_job_to_an_endpoint_and_back_to_nothing(icclip, settings, aws):
    outcome = icclip(*TRAIN, "--config", settings)
    assert outcome.code == 0, outcome.err
    assert "Training job: icclip-one" in outcome.out
    code = io.BytesIO()
    aws.client("s3").download_fileobj("photos", "out/code/icclip-one/sourcedir.tar.gz", code)
    with tarfile.open(fileobj=io.BytesIO(code.getvalue())) as archive:
        assert archive.getnames() == ["requirements.txt", "train.py"]
    client = aws.client("sagemaker")
    assert client.describe_training_job(TrainingJobName="icclip-one")["RoleArn"] == ROLE

    outcome = icclip(*DEPLOY, "--config", settings, "--instance-type", "ml.g4dn.xlarge", "--instance-count", "2")
    assert outcome.code == 0, outcome.err
    assert "Cost: 2.80 an hour (2 x ml.g4dn.xlarge)" in outcome.out
    assert "status: InService" in outcome.err
    assert client.describe_endpoint(EndpointName="photos")["EndpointStatus"] == "InService"

    outcome = icclip(*DELETE, "--config", settings)
    assert outcome.code == 0, outcome.err
    assert client.list_endpoints()["Endpoints"] == []
    assert client.list_endpoint_configs()["EndpointConfigs"] == []
    assert client.list_models()["Models"] == []


def test_a_deployment_that_is_refused_leaves_nothing(icclip, settings, aws):
    outcome = icclip(*DEPLOY, "--config", settings, "--instance-type", "ml.nothing")
    assert outcome.code == 2
    assert outcome.err.startswith("error: AWS refuses create_endpoint_config (ValidationException): Value 'ml.nothing'")
    assert len(outcome.err) < 500
    assert aws.client("sagemaker").list_models()["Models"] == []


def test_a_pipeline_of_the_same_name_gets_the_new_definition(icclip, settings, aws):
    for epochs in ("3", "4"):
        outcome = icclip(*PIPELINE[:-1], epochs, "--config", settings)
        assert outcome.code == 0, outcome.err
    definition = aws.client("sagemaker").describe_pipeline(PipelineName="icclip")["PipelineDefinition"]
    assert json.loads(definition)["Steps"][0]["Arguments"]["HyperParameters"]["epochs"] == "4"


def test_invoke_prints_the_ranked_texts(icclip, settings, aws, tmp_path, monkeypatch):
    photo(8, 8).save(tmp_path / "a.jpg")
    sent = {}

    def answer(_account, call):
        sent.update(call.parameters)
        return {"Body": io.BytesIO(b'{"top_k": [{"text": "a dog", "score": 0.9}]}')}

    monkeypatch.setattr("icclip_plugins.sagemaker.account.Account.make", answer)
    asked = (
        "sagemaker",
        "invoke",
        "--endpoint",
        "photos",
        "--image",
        tmp_path / "a.jpg",
        "--texts",
        "a dog",
        "--texts",
        "a cat",
    )
    outcome = icclip(*asked, "--config", settings)
    assert outcome.out == "0.9000  a dog\n"
    body = json.loads(sent["Body"])
    assert (body["task"], body["texts"], body["top_k"]) == ("rank", ["a dog", "a cat"], 5)
    assert "image_b64" in body


@pytest.mark.parametrize(
    ("arguments", "values", "expected"),
    [
        (TRAIN, {"train_s3": None}, "train_s3 is not known: give --s3-train, or write `train_s3: ...` to config/sagemaker.yaml"),
        (TRAIN, {"role": None}, "role is not known: give --role"),
        (TRAIN, {"training_image": None}, "training_image is not known: give --image"),
        (DEPLOY, {"serving_image": None}, "serving_image is not known: give --image"),
        ((*DEPLOY, "--mode", "async"), {"output_s3": None}, "output_s3 is not known: give --s3-output"),
        (PIPELINE, {"model_package_group_name": None}, "model_package_group_name is not known"),
        (TRAIN, {"role": "admin"}, "role is 'admin': write it as arn:aws:iam::123456789012:role/NAME"),
        (TRAIN, {"train_s3": "/data"}, "train_s3 is '/data': write it as s3://BUCKET/PREFIX"),
        (TRAIN, {"regoin": "x"}, "unknown key 'regoin' (did you mean 'region'?)"),
        ((*TRAIN, "--set", "lr"), {}, "--set lr: write it as --set NAME=VALUE"),
        ((*TRAIN, "--wheel", "absent.whl"), {}, "--wheel absent.whl: there is no such wheel"),
        (("sagemaker", "invoke", "--endpoint", "e", "--image", "absent.jpg", "--texts", "a"), {}, "--image absent.jpg: No such file"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_one_line(icclip, settings, arguments, values, expected):
    content = {**json.loads(settings.read_text()), **values}
    settings.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    outcome = icclip(*arguments, "--config", settings, "--dry-run")
    assert (outcome.code, outcome.out) == (2, "")
    assert expected in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "there is no settings file"), ("a: [", "cannot be read as YAML"), ("- a", "is not a table of settings")],
)
def test_a_settings_file_that_cannot_be_used(icclip, tmp_path, content, expected):
    path = tmp_path / "s.yaml"
    if content is not None:
        path.write_text(content)
    outcome = icclip(*DELETE, "--config", path, "--dry-run")
    assert outcome.code == 2
    assert expected in outcome.err
    assert outcome.err.count("\n") == 1


def test_what_aws_refuses_is_one_line(icclip, settings, aws, monkeypatch):
    outcome = icclip(*DELETE, "--config", settings)
    assert outcome.code == 2
    assert outcome.err.startswith("error: AWS refuses describe_endpoint (ValidationException): ")
    assert outcome.err.count("\n") == 1
    settings.write_text(
        json.dumps(
            {**json.loads(settings.read_text()), "train_s3": "s3://elsewhere/x", "output_s3": None, "region": None}
        )
    )
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    outcome = icclip(*DELETE, "--config", settings)
    assert outcome.err == "error: no AWS region is known: give --region, or set AWS_REGION\n"


def test_without_credentials_one_line_says_what_to_do(icclip, settings, monkeypatch, tmp_path):
    pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    outcome = icclip(*DELETE, "--config", settings)
    assert outcome.code == 2
    assert outcome.err.startswith("error: AWS does not know who you are")
    assert outcome.err.count("\n") == 1


def test_a_package_holds_the_bundle_and_the_code(icclip, tmp_path):
    write_bundle(tiny_clip(), tmp_path / "bundle")
    wheel = tmp_path / "icclip-1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    packages = []
    for name in ("first", "second"):
        outcome = icclip("sagemaker", "package", tmp_path / "bundle", "-o", tmp_path / name, "--wheel", wheel, "--json")
        assert outcome.code == 0, outcome.err
        packages.append((tmp_path / name / "model.tar.gz").read_bytes())
    assert packages[0] == packages[1]
    with tarfile.open(tmp_path / "first" / "model.tar.gz") as archive:
        names = archive.getnames()
        requirements = archive.extractfile("code/requirements.txt").read().decode()
    assert {"icclip.json", "onnx/vision_model.onnx", "code/inference.py", f"code/{wheel.name}"} <= set(names)
    assert requirements == f"./{wheel.name}[onnx]\n"
    compile((tmp_path / "first" / "train_job.py").read_text(), "train_job.py", "exec")
    outcome = icclip("sagemaker", "package", tmp_path, "-o", tmp_path / "third")
    assert outcome.err == f"error: {tmp_path} is neither a bundle nor a run directory: give one of them\n"
