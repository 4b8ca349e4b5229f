from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from icclip.blending.request import blend_config
from icclip.blending.run import blend, chosen
from icclip.config import ModelConfig
from icclip.errors import CheckpointError, ConfigError, UsageError
from icclip.evaluating.request import eval_config
from icclip.evaluating.run import evaluate
from icclip.models.opening import open_model
from icclip.runs.directory import RunDirectory
from icclip.training.run import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory, registry, tiny, data):
    """A run that fine-tuned the tiny CLIP for an epoch."""
    from icclip.config import DatasetConfig, TrainConfig
    from icclip.console import Reporter

    config = TrainConfig(
        model=ModelConfig(name=str(tiny["softmax"])),
        data=DatasetConfig(name="hub", path=str(data), val_fraction=0.25, seed=5),
        output_dir=tmp_path_factory.mktemp("finished") / "run",
        epochs=1, lr=1e-2, train_bs=4, eval_bs=4, workers=0, device="cpu", report_to=(),
    )  # fmt: skip
    train(config, registry, Reporter(silent=True))
    return config.output_dir


@pytest.fixture
def blended(registry, quiet, tmp_path):
    def of(checkpoint, other=None, dataset=None, alphas=None, out="blend"):
        encoder = {"checkpoint": str(checkpoint), "device": "cpu", "workers": 0}
        said = {"encoder": encoder, "other": other, "data": {"name": dataset}, "output_dir": tmp_path / out}
        config = blend_config(registry, {**said, "alphas": alphas})
        return config, blend(config, registry, quiet)

    return of


def weights(directory):
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_a_mixture_by_hand(blended, finished, tiny, alpha):
    _, result = blended(finished, alphas=[alpha])
    before, after, mixed = weights(tiny["softmax"]), weights(finished), weights(result.output_dir)
    assert mixed.keys() == before.keys() == after.keys()
    for name, weight in mixed.items():
        expected = (1 - alpha) * before[name] + alpha * after[name]
        torch.testing.assert_close(weight, expected, atol=1e-7, rtol=1e-6)
        if alpha in (0.0, 1.0):
            assert torch.equal(weight, (before if alpha == 0.0 else after)[name])
    assert result.rsums == {}


def test_the_share_is_chosen_on_the_validation_split(blended, finished, registry, quiet):
    config, result = blended(finished)
    assert config.other.to_mapping() == RunDirectory.open(finished).config["model"]
    assert config.data is not None
    assert list(result.rsums) == [tenth / 10 for tenth in range(11)]
    assert result.rsums[result.alpha] == max(result.rsums.values())
    assert result.alpha == min(alpha for alpha, rsum in result.rsums.items() if rsum == max(result.rsums.values()))
    # It needs nothing but its directory, and scores there what the table says.
    encoder = {"checkpoint": str(result.output_dir), "workers": 0}
    asked = eval_config(registry, {"encoder": encoder, "split": "validation", "bootstrap": 0})
    assert asked.data.seed == 5
    assert evaluate(asked, registry, quiet).metrics["rsum"] == result.rsums[result.alpha]
    record = json.loads((result.output_dir / "icclip.json").read_text())
    assert record["status"] == "blend"
    assert record["blend"]["alpha"] == result.alpha
    assert record["blend"]["chosen_on"].endswith("validation, by rsum")
    assert len(record["blend"]["validation"]) == 11


def test_the_ends_of_the_line_score_what_the_run_measured(blended, finished):
    _, result = blended(finished, alphas=[0.0, 1.0])
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    measured = [line["eval_rsum"] for line in lines if "eval_rsum" in line]
    assert list(result.rsums.values()) == measured


def test_nothing_of_a_given_share_is_measured_unless_data_is_named(blended, finished, data):
    _, result = blended(finished, dataset=str(data), alphas=[0.5])
    assert list(result.rsums) == [0.5]


def test_a_checkpoint_in_a_run_and_any_other_model(blended, finished, tiny):
    _, result = blended(finished / "checkpoint-2", other=str(tiny["softmax"]), alphas=[1.0])
    assert all(torch.equal(one, other) for one, other in zip(
        weights(result.output_dir).values(), weights(finished / "checkpoint-2").values(), strict=True))  # fmt: skip


def test_a_run_from_scratch_has_nothing_to_blend_with(blended, finished, tmp_path):
    (run := tmp_path / "scratch").mkdir()
    record = json.loads((finished / "icclip.json").read_text())
    record["config"]["model"]["name"] = "clip-tiny"
    (run / "icclip.json").write_text(json.dumps(record))
    with pytest.raises(
        UsageError, match=r"was trained from scratch \(clip-tiny\), .*: give another checkpoint with --with"
    ):
        blended(run)


def test_what_is_not_known_has_to_be_said(blended, tiny):
    with pytest.raises(
        UsageError, match=r"does not record which model it was trained from: check the path, or give --with"
    ):
        blended(tiny["softmax"])
    with pytest.raises(UsageError, match=r"does not say what it was trained on: give --dataset"):
        blended(tiny["softmax"], other=str(tiny["softmax"]))


def test_nothing_is_overwritten(blended, finished, tmp_path):
    (tmp_path / "blend").mkdir()
    (tmp_path / "blend" / "mine").touch()
    with pytest.raises(UsageError, match=r"blend already exists: choose another --output-dir"):
        blended(finished, alphas=[0.5])


def test_models_that_do_not_belong_together(blended, finished, tiny, tmp_path, registry):
    with pytest.raises(CheckpointError, match=r"cannot be blended: one is siglip, the other clip"):
        blended(finished, other=str(tiny["sigmoid"]), alphas=[0.5])

    wider = open_model(registry, ModelConfig(name=str(tiny["softmax"]), image_resize=64))
    wider.save(tmp_path / "wider")
    with pytest.raises(
        CheckpointError, match=r"position_embedding.weight is \[65, 32\] in one, \[17, 32\] in the other"
    ):
        blended(finished, other=str(tmp_path / "wider"), alphas=[0.5])

    brighter = open_model(registry, ModelConfig(name=str(tiny["softmax"])))
    brighter.feeder.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    brighter.save(tmp_path / "brighter")
    with pytest.raises(CheckpointError, match=r"their image processors differ in image_mean"):
        blended(finished, other=str(tmp_path / "brighter"), alphas=[0.5])

    shutil.copytree(tiny["softmax"], tmp_path / "words")
    file = tmp_path / "words" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = [token for token in vocabulary if token.startswith("a")][:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"their tokenizers differ"):
        blended(finished, other=str(tmp_path / "words"), alphas=[0.5])


def test_shares_out_of_range(blended, finished):
    with pytest.raises(ConfigError, match=r"alphas is 1.5: it must be at least 0 and at most 1"):
        blended(finished, alphas=[1.5])


def test_a_share_is_not_chosen_without_data(blended, finished):
    config, _ = blended(finished, alphas=[0.0, 1.0])
    with pytest.raises(ConfigError, match=r"data is missing: alpha is chosen on a validation split"):
        type(config).from_mapping({**config.to_mapping(), "data": None})


def test_shares_are_numbers(icclip, tmp_path):
    outcome = icclip("blend", tmp_path, "--output-dir", tmp_path / "out", "--alphas", "0,much")
    assert (outcome.code, outcome.err) == (2, "error: --alphas 0,much: write it as --alphas 0,0.5,1\n")


def test_the_command(icclip, finished, tmp_path):
    outcome = icclip("blend", finished, "--output-dir", tmp_path / "out", "--alphas", "0,1", "--workers", 0)
    assert outcome.code == 0, outcome.err
    assert "kept" in outcome.out
    said = icclip("blend", finished, "--output-dir", tmp_path / "half", "--alpha", 0.5, "--json")
    assert json.loads(said.out) == {"output_dir": str(tmp_path / "half"), "alpha": 0.5, "validation": []}
    assert icclip("eval", tmp_path / "out", "--bootstrap", 0).code == 0


# Under a limit of forgetting --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, 1.0), (50, 1.0), (3, 0.75), (2, 0.5), (1, 0.25), (0, 0.25)],
)
def test_the_best_share_that_forgets_no_more_than_it_may(limit, expected):
    rsums = {0.0: 300.0, 0.25: 310.0, 0.5: 320.0, 0.75: 330.0, 1.0: 340.0}
    # 100 images: a point is an image, and floats make 0.52 - 0.50 a little more than two points.
    top1s = {0.0: 0.52, 0.25: 0.53, 0.5: 0.50, 0.75: 0.49, 1.0: 0.10}
    assert chosen(rsums, rsums, top1s, limit) == expected


def test_no_share_may_be_left():
    assert chosen([0.5, 1.0], {0.5: 320.0, 1.0: 340.0}, {0.0: 0.52, 0.5: 0.50, 1.0: 0.10}, 1) is None
    assert chosen([0.5], {}, {0.0: 0.52, 0.5: 0.51}, 1) == 0.5


@pytest.fixture(scope="module")
def classes(tmp_path_factory, pictures):
    """Two classes of eight of the pictures, one of them under another name."""
    root = tmp_path_factory.mktemp("classes")
    for number, image in enumerate(pictures):
        (root / ("red_square", "grey_square")[number % 2]).mkdir(exist_ok=True)
        image.save(root / ("red_square", "grey_square")[number % 2] / f"{number}.png")
    return root


def test_forgetting_is_measured_from_the_other_model(icclip, finished, tiny, classes, tmp_path):
    asked = ("blend", finished, "-o", tmp_path / "out", "--alphas", "0.5,1", "--workers", 0, "--device", "cpu")
    limited = ("--forget-at-most", 100, "--zero-shot-dataset", classes, "--json")
    outcome = icclip(*asked, *limited)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    rows = {row["alpha"]: row for row in found["validation"]}
    assert ("rsum" in rows[0.0], list(rows), found["forget_at_most"]) == (False, [0.0, 0.5, 1.0], 100)
    for model, alpha in ((tiny["softmax"], 0.0), (finished, 1.0)):
        alone = icclip("eval", model, "--zero-shot", "--dataset", classes, "--workers", 0, "--device", "cpu",
                       "-o", tmp_path / f"{alpha}", "--json")  # fmt: skip
        assert json.loads(alone.out)["top1"] == rows[alpha]["top1"]
    assert f"; zero-shot top-1 {100 * (rows[found['alpha']]['top1'] - rows[0.0]['top1']):+.2f} points" in " ".join(
        outcome.err.split()
    )
    record = json.loads((tmp_path / "out" / "icclip.json").read_text())["blend"]
    assert record["forgetting"] == {"dataset": f"classes@{classes.name}", "at_most": 100}
    assert record["chosen_on"].endswith(", validation, by rsum")


def measured_as(monkeypatch, top1s):
    """Top-1 of the mixtures in their order, whatever the model."""
    values = iter(top1s)
    monkeypatch.setattr("icclip.blending.run._top1_on", lambda *_: lambda _encoder: next(values))


def test_the_gate_fails_where_every_share_forgets_too_much(icclip, finished, classes, tmp_path, monkeypatch):
    measured_as(monkeypatch, [0.8, 0.75, 0.5])
    outcome = icclip(
        "blend", finished, "-o", tmp_path / "out", "--alphas", "0.5,1", "--forget-at-most", 1, "--zero-shot-dataset", classes,
        "--workers", 0,
    )  # fmt: skip
    assert outcome.code == 3
    assert (
        "error: every mixture forgets more than --forget-at-most 1 allows: the best one, alpha 0.5, has a zero-shot top-1 "
        "5.00 points lower than that of alpha 0; nothing was written; add smaller shares to --alphas, or allow more"
    ) in outcome.err
    assert outcome.out.count("forgets too much") == 2
    assert not (tmp_path / "out").exists()


def test_a_single_share_is_held_to_the_limit_without_other_data(icclip, finished, classes, tmp_path, monkeypatch):
    measured_as(monkeypatch, [0.8, 0.795])
    outcome = icclip(
        "blend", finished, "-o", tmp_path / "out", "--alpha", "0.5", "--forget-at-most", 1, "--zero-shot-dataset", classes,
        "--workers", 0,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "out, zero-shot" in outcome.out
    (row,) = [line.split() for line in outcome.out.splitlines() if "kept" in line]
    assert row == ["0.5", "79.5", "%", "-0.50", "kept"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--forget-at-most", "1"), "--zero-shot-dataset is missing: --forget-at-most needs it"),
        (("--zero-shot-dataset", "shapes"), "--forget-at-most is missing: --zero-shot-dataset needs it"),
        (("--templates", "a.txt"), "--templates is for --zero-shot-dataset: give both, or leave it out"),
        (("--forget-at-most", "-1", "--zero-shot-dataset", "shapes"), "--forget-at-most is -1.0: it must be at least 0"),
        (("--forget-at-most", "1", "--zero-shot-dataset", "shapes"), "shapes has captions and no classes: give a directory"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be_kept(icclip, finished, tmp_path, options, says):
    outcome = icclip("blend", finished, "-o", tmp_path / "out", "--workers", 0, *options)
    assert outcome.code == 2
    assert says in outcome.err
