"""Requests to AWS go to moto, in this process; nothing leaves the machine."""

from __future__ import annotations

import json

import pytest
from support.bundle_fixtures import bundle, bundles, family, fresh, tinies, tiny
from support.images import photo

__all__ = ["bundle", "bundles", "family", "fresh", "tinies", "tiny"]

ROLE = "arn:aws:iam::123456789012:role/icclip"
IMAGES = {
    "training_image": "1.dkr.ecr.eu-west-1.amazonaws.com/train:1",
    "serving_image": "1.dkr.ecr.eu-west-1.amazonaws.com/serve:1",
}
SETTINGS = {
    "region": "eu-west-1",
    "role": ROLE,
    "train_s3": "s3://photos/train",
    "output_s3": "s3://photos/out",
    "model_package_group_name": "photos",
    "prices": {"ml.g4dn.xlarge": 1.4},
    **IMAGES,
}


@pytest.fixture
def settings(tmp_path):
    """A settings file that says everything; JSON is YAML."""
    path = tmp_path / "sagemaker.yaml"
    path.write_text(json.dumps(SETTINGS))
    return path


@pytest.fixture
def aws(monkeypatch):
    """An empty account with the bucket `photos`."""
    moto = pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr("icclip_plugins.sagemaker.account.POLL_SECONDS", 0.0)
    with moto.mock_aws():
        session = boto3.Session(region_name="eu-west-1")
        session.client("s3").create_bucket(
            Bucket="photos", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        yield session


@pytest.fixture(scope="session")
def channel(tmp_path_factory):
    """The seed project's layout: manifest.jsonl and a folder of images."""
    return write_channel(tmp_path_factory.mktemp("channel"), 48, 0)


def write_channel(folder, number, seed):
    (folder / "images").mkdir(parents=True)
    rows = []
    for row in range(number):
        photo(40, 40, seed=seed + row).save(folder / "images" / f"img_{row:04}.jpg")
        rows.append({"image": f"images/img_{row:04}.jpg", "text": f"picture number {seed + row}"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
