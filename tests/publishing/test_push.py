"""`icclip push`: the real client against a hub on loopback, in processes of their own."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from icclip.bundles.manifest import read_manifest, seal
from icclip.bundles.parity_record import read_parity, write_parity

TOKEN = "hf_secretsecretsecret"


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    """A short real run with a checkpoint, logs, and everything else that a run leaves."""
    from icclip.cli import main

    directory = tmp_path_factory.mktemp("runs") / "best"
    arguments = "train --model clip-tiny --dataset shapes --max-steps 4 --train-bs 8 --workers 0 --image-resize 32"
    with pytest.raises(SystemExit) as exit_:
        main([*arguments.split(), "--output-dir", str(directory), "--logging-steps", "1"])
    assert exit_.value.code in (0, 3)
    return directory


@pytest.fixture(scope="module")
def bundle(run_directory, tmp_path_factory):
    from icclip.cli import main

    directory = tmp_path_factory.mktemp("bundles") / "bundle"
    with pytest.raises(SystemExit) as exit_:
        main(["export", str(run_directory), "--output-dir", str(directory), "--precision", "fp32"])
    assert exit_.value.code == 0
    return directory


@pytest.fixture
def push(hub, tmp_path):
    hub.token = TOKEN

    def run(*arguments, token=TOKEN):
        return hub.run(
            "-m", "icclip", "push", *arguments, home=tmp_path / "home", **({"HF_TOKEN": token} if token else {})
        )

    return run


def published(hub, name="me/best"):
    folder = hub.root / "models" / name
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_goes_to_a_private_repository_and_gives_the_same_numbers_from_there(hub, push, run_directory, tmp_path):
    result = push(run_directory, "me/best", "--license", "mit", "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["private"], told["published"], told["kind"]) == (True, True, "run")
    assert hub.private == {"me/best": True}
    files = published(hub)
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "icclip.json",
        "metrics.jsonl",
        "test_metric.json",
    } <= files
    assert files == {file["path"] for file in told["files"]}
    assert not [
        name for name in files if "optimizer" in name or "checkpoint" in name or "logs" in name or "local" in name
    ]
    assert TOKEN not in result.stdout + result.stderr

    options = ["--dataset", "shapes", "--output-dir", tmp_path / "out", "--json"]
    measured = hub.run("-m", "icclip", "eval", "me/best", *options, home=tmp_path / "home", HF_TOKEN=TOKEN)
    assert measured.returncode == 0, measured.stderr
    here = json.loads((run_directory / "test_metric.json").read_text())
    there = json.loads(measured.stdout)
    assert {k: v for k, v in here.items() if k != "about"} == {k: v for k, v in there.items() if k != "about"}

    options = ["--dataset", "shapes", "--output-dir", tmp_path / "bundle", "--precision", "fp32", "--json"]
    exported = hub.run("-m", "icclip", "export", "me/best", *options, home=tmp_path / "home", HF_TOKEN=TOKEN)
    assert exported.returncode == 0, exported.stderr
    assert read_parity(tmp_path / "bundle").passed


@pytest.mark.slow
def test_the_card_says_to_the_hub_what_was_measured(hub, push, run_directory, tmp_path):
    picture = tmp_path / "two dogs.png"
    Image.new("RGB", (8, 8)).save(picture)
    asked = ["--license", "mit", "--base-model", "openai/clip-vit-base-patch16", "--example", f"{picture}=a dog, a cat"]
    assert push(run_directory, "me/best", *asked).returncode == 0
    data = ModelCard.load(hub.root / "models" / "me/best" / "README.md").data
    assert (data.license, data.base_model, data.pipeline_tag) == (
        "mit",
        "openai/clip-vit-base-patch16",
        "zero-shot-image-classification",
    )
    metrics = json.loads((run_directory / "test_metric.json").read_text())
    told = {result.metric_name: result.metric_value for result in data.eval_results}
    assert told["text to image R@10"] == round(100 * metrics["t2i_R@10"], 2)
    assert {(result.dataset_name, result.dataset_split) for result in data.eval_results} == {("shapes", "test")}
    (example,) = data.widget
    assert example["candidate_labels"] == "a dog, a cat"
    assert "examples/two dogs.png" in published(hub)


@pytest.mark.slow
def test_a_killed_upload_goes_on_where_it_was(hub, push, run_directory, tmp_path):
    hub.large, hub.hold_at_upload, hub.token = 500, 3, TOKEN
    command = [sys.executable, "-m", "icclip", "push", str(run_directory), "me/best"]
    environment = hub.environment(tmp_path / "home") | {"HF_TOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        assert hub.held.wait(120)
        client.kill()
    assert (len(hub.blobs), hub.commits) == (2, [])
    before = set(hub.blobs)

    result = push(run_directory, "me/best")
    assert result.returncode == 0, result.stderr
    sent_again = [
        request for request in hub.requests if request.startswith("PUT") and request.partition("?")[0][-64:] in before
    ]
    assert len(sent_again) == len(before)
    assert len(hub.commits) == 1


@pytest.mark.slow
def test_a_bundle_is_evaluated_embedded_and_verified_by_its_name_on_the_hub(hub, push, bundle, tmp_path):
    result = push(bundle, "me/bundle")
    assert result.returncode == 0, result.stderr
    assert "The card names no licence" in result.stderr
    assert {"README.md", "icclip.json", *read_manifest(bundle).files} == published(hub, "me/bundle")
    card = (hub.root / "models/me/bundle/README.md").read_text()
    assert "| fp32 on cpu |" in card
    assert 'snapshot_download("me/bundle")' in card

    def icclip(*arguments):
        done = hub.run("-m", "icclip", *arguments, "--json", home=tmp_path / "home", HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    there = icclip("eval", "me/bundle", "--dataset", "shapes", "--output-dir", tmp_path / "out")
    assert there["t2i_R@1"] == read_parity(bundle).results[0].metrics["t2i_R@1"]
    assert icclip("verify", "me/bundle")["passed"] is True
    (tmp_path / "texts.txt").write_text("a red square\n")
    icclip("embed", "me/bundle", "--texts", tmp_path / "texts.txt", "--output", tmp_path / "e.npy")
    assert (tmp_path / "e.npy").exists()


@pytest.mark.slow
def test_files_of_an_earlier_publication_go_and_other_files_stay(hub, push, run_directory):
    hub.private["me/best"] = True
    there = hub.repository("models", "me/best")
    for name in ("model-00001-of-00002.safetensors", "NOTES.md"):
        (there / name).write_text("old")
    result = push(run_directory, "me/best", "--json")
    assert json.loads(result.stdout)["removed"] == ["model-00001-of-00002.safetensors"]
    assert "NOTES.md" in published(hub)
    assert "model-00001-of-00002.safetensors" not in published(hub)


@pytest.mark.slow
def test_a_branch_is_made(hub, push, run_directory):
    result = push(run_directory, "me/best", "--branch", "trial", "--message", "second try")
    assert result.returncode == 0, result.stderr
    (commit,) = hub.commits
    assert (commit["revision"], commit["summary"]) == ("trial", "second try")


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_line(hub, push, run_directory):
    (hub.repository("models", "me/open") / "config.json").write_text("{}")
    cases = {
        "your token may not write to me/best": (["me/best"], "hf_other"),
        "the hub does not accept your token, or there is none": (["me/best"], None),
        "me/open is public already: give --public": (["me/open"], TOKEN),
    }
    for expected, (arguments, token) in cases.items():
        result = push(run_directory, *arguments, "--license", "mit", token=token)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith(f"error: {expected}"), result.stderr
        assert result.stderr.count("\n") == 1
    assert hub.commits == []
    hub.url = "http://127.0.0.1:9"
    result = push(run_directory, "me/best", "--license", "mit")
    assert result.stderr.startswith("error: the connection to the hub broke"), result.stderr


@pytest.mark.slow
def test_a_name_that_leads_nowhere_is_one_line_where_there_is_no_hub(hub, tmp_path):
    hub.url = "http://127.0.0.1:9"
    result = hub.run("-m", "icclip", "eval", "runs/nothing", "--dataset", "shapes", home=tmp_path / "home")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: runs/nothing is not a directory here, is not in the cache")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_large_file_that_the_hub_does_not_take_is_one_line(hub, push, run_directory):
    hub.refuse_uploads = True
    result = push(run_directory, "me/best", "--license", "mit")
    assert result.returncode == 2
    assert result.stderr.startswith("error: an upload to the hub failed (403"), result.stderr
    assert result.stderr.endswith("what was uploaded stays on the hub: repeat the command to go on\n")
    assert result.stderr.count("\n") == 1
    assert "signature" not in result.stderr
    assert hub.commits == []


def test_a_dry_run_lists_the_files_and_asks_nobody(icclip, run_directory, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    outcome = icclip("push", run_directory, "me/best", "--dry-run", "--json")
    told = json.loads(outcome.out)
    assert (outcome.code, told["published"]) == (0, False)
    sizes = {file["path"]: file["size"] for file in told["files"]}
    assert sizes["model.safetensors"] == (run_directory / "model.safetensors").stat().st_size
    assert "logs" not in " ".join(sizes)
    outcome = icclip("push", run_directory, "me/best", "--dry-run", "--logs")
    assert "logs/events" in outcome.out
    assert "Nothing was published: this was a dry run." in outcome.out


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_a_picture_of_what_is_found_is_published_if_asked_for(icclip, run_directory, bundle, kind):
    from icclip.config import PushConfig
    from icclip.console import Reporter
    from icclip.plugins.registry import Registry
    from icclip.publishing.request import publication

    source = {"run": run_directory, "bundle": bundle}[kind]
    config = PushConfig(source=source, repository="me/best", picture=True)
    items = {item.path: item.content for item in publication(config, Registry(), Reporter(silent=True)).items}
    with Image.open(io.BytesIO(items["retrieval.png"])) as picture:
        assert picture.width > 500
    assert items["README.md"].decode().rstrip().endswith("(retrieval.png)")
    assert "retrieval.png" not in icclip("push", source, "me/best", "--dry-run", "--json").out


def test_a_picture_needs_the_data(icclip, run_directory, tmp_path):
    moved = shutil.copytree(run_directory, tmp_path / "moved")
    record = json.loads((moved / "icclip.json").read_text())
    record["config"]["data"] |= {"name": "jsonl", "path": str(tmp_path / "gone.jsonl")}
    (moved / "icclip.json").write_text(json.dumps(record))
    outcome = icclip("push", moved, "me/best", "--dry-run", "--picture")
    assert outcome.code == 2
    assert "gone.jsonl" in outcome.err


def test_what_cannot_be_published_is_one_line(icclip, run_directory, bundle, tmp_path):
    unfinished = shutil.copytree(run_directory, tmp_path / "unfinished")
    record = json.loads((unfinished / "icclip.json").read_text())
    (unfinished / "icclip.json").write_text(json.dumps({**record, "status": "interrupted"}))
    weightless = shutil.copytree(run_directory, tmp_path / "weightless")
    (weightless / "model.safetensors").unlink()
    failed = shutil.copytree(bundle, tmp_path / "failed")
    parity = read_parity(failed)
    result = dataclasses.replace(parity.results[0], passed=False, failures=("vision.cosine",))
    write_parity(failed, dataclasses.replace(parity, results=(result,)))
    seal(failed, read_manifest(bundle))
    (tmp_path / "empty").mkdir()
    cases = {
        (tmp_path / "absent", "me/best"): "absent is not a directory",
        (tmp_path / "empty", "me/best"): "empty has no icclip.json",
        (unfinished, "me/best"): "unfinished is not finished",
        (weightless, "me/best"): "weightless has no weights",
        (failed, "me/best"): "failed did not pass its gate",
        (run_directory, "best"): "write it as OWNER/NAME",
        (run_directory, "me/best", "--example", "absent.jpg=a,b"): "there is no such file",
        (run_directory, "me/best", "--example", "absent.jpg"): "write it as IMAGE=LABEL,LABEL",
    }
    for arguments, expected in cases.items():
        outcome = icclip("push", *arguments, "--dry-run")
        assert outcome.code == 2
        assert expected in outcome.err
        assert outcome.err.count("\n") == 1
