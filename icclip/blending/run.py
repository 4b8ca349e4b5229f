"""Between a fine-tuned model and what it was trained from: how far to go is decided on the validation split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import BlendConfig, EvalConfig, ModelConfig, merged
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.evaluating.request import dataset_identity, eval_config, leaking_options
from icclip.files import atomic_directory
from icclip.plugins.registry import Registry
from icclip.runs.directory import RunDirectory
from icclip.runs.record import write_record

if TYPE_CHECKING:
    from icclip.blending.mixture import Blend


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendResult:
    """What was written, and how it was chosen."""

    output_dir: Path
    alpha: float
    """The share of the fine-tuned model."""
    rsums: Mapping[float, float]
    """Alpha -> rsum on the validation split; empty where there was nothing to choose."""

    def to_mapping(self) -> dict[str, Any]:
        """For JSON."""
        tried = [{"alpha": alpha, "rsum": rsum} for alpha, rsum in self.rsums.items()]
        return {"output_dir": str(self.output_dir), "alpha": self.alpha, "validation": tried}


# The request --------------------------------------------------------------------------------------


def blend_config(
    registry: Registry,
    checkpoint: str,
    other: str | None,
    dataset: str | None,
    data_options: Mapping[str, Any],
    *,
    output_dir: Path,
    alphas: Sequence[float] | None,
    options: Mapping[str, Any],
) -> BlendConfig:
    """The whole request.

    Args:
        registry: knows presets and datasets.
        checkpoint: the fine-tuned model.
        other: what to blend it with; None: what its run began with.
        dataset: as on the command line; None: the run's own.
        data_options: fields of DatasetConfig; None means not said.
        output_dir: where the result appears.
        alphas: None: the default ones.
        options: fields of EvalConfig; None means not said.

    Raises:
        UsageError: it is not known what the run began with, or what to measure on; an option is wrong.
    """
    trust = {"trust_remote_code": options.get("trust_remote_code")}
    model = step_zero(registry, checkpoint) if other is None else {"name": other}
    values = {"checkpoint": checkpoint, "other": merged(model, trust), "output_dir": output_dir, "alphas": alphas}
    if alphas is None or len(alphas) > 1 or dataset is not None:
        asked = {**options, "split": "validation"}
        values["validation"] = eval_config(registry, checkpoint, dataset, data_options, asked)
    return BlendConfig.from_mapping(merged(values))


def shares(alpha: float | None, alphas: str | None) -> list[float] | None:
    """`--alpha 0.5` or `--alphas 0,0.5,1` as numbers; None where neither is given. Raises UsageError."""
    if alpha is not None and alphas is not None:
        raise UsageError("--alpha and --alphas exclude each other: choose one")
    if alphas is None:
        return None if alpha is None else [alpha]
    try:
        return [float(share) for share in alphas.split(",")]
    except ValueError as error:
        raise UsageError(f"--alphas {alphas}: write it as --alphas 0,0.5,1") from error


def step_zero(registry: Registry, checkpoint: str) -> Mapping[str, Any]:
    """The model that a run began with, as its `icclip.json` names it: fields of ModelConfig.

    Raises:
        UsageError: the run does not say, or began with random weights.
    """
    model = RunDirectory.open(checkpoint).config.get("model")
    if not isinstance(model, Mapping):
        raise UsageError(f"{checkpoint} is no run that says what it was trained from: check the path, or give --with")
    if registry.preset(model["name"]) is not None:
        raise UsageError(
            f"{checkpoint} was trained from scratch ({model['name']}), and blending with random weights gives nothing: "
            "give --with another checkpoint"
        )
    return model


# The work -----------------------------------------------------------------------------------------


def blend(config: BlendConfig, registry: Registry, reporter: Reporter) -> BlendResult:
    """Write the best mixture of two models as a checkpoint that evaluates and exports as it is.

    Of mixtures with the same rsum the one nearest to the other model is kept.

    Raises:
        UsageError: something is in the way of the result, or a model or the data cannot be used.
        CheckpointError: the models differ in more than their weights.
    """
    from icclip.blending.mixture import Blend
    from icclip.models.opening import open_model

    _refuse_existing(config.output_dir)
    run = RunDirectory.open(config.checkpoint)
    tuned = ModelConfig(name=config.checkpoint, trust_remote_code=config.other.trust_remote_code)
    mixture = Blend(open_model(registry, config.other), open_model(registry, tuned))
    alphas = sorted(set(config.alphas))
    rsums = (
        {}
        if config.validation is None
        else _measure(mixture, alphas, run, config.validation, registry=registry, reporter=reporter)
    )
    best = max(alphas, key=lambda alpha: rsums.get(alpha, 0.0))
    result = BlendResult(output_dir=config.output_dir, alpha=best, rsums=rsums)
    with atomic_directory(config.output_dir) as staging:
        mixture.at(best).save(staging)
        write_record(staging, _record(config, run, mixture, result, registry))
    reporter.note(f"wrote {config.output_dir}: {best:g} of {config.checkpoint}, the rest {config.other.name}")
    return result


def _refuse_existing(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is there already: give another --output-dir")


def _measure(
    mixture: Blend,
    alphas: Sequence[float],
    run: RunDirectory,
    validation: EvalConfig,
    *,
    registry: Registry,
    reporter: Reporter,
) -> dict[float, float]:
    """Alpha -> rsum."""
    from icclip.data.gallery import load_gallery
    from icclip.evaluating.run import evaluate_split
    from icclip.models.encoder import TorchEncoder

    for option in leaking_options(registry, run, validation):
        reporter.warn(f"{option} is not the one of training: a made split may hold images that were trained on")
    gallery = load_gallery(registry, validation.data, validation.split, reporter)
    rsums = {}
    with reporter.progress("alphas", len(alphas)) as advance:
        for alpha in alphas:
            encoder = TorchEncoder(
                mixture.at(alpha),
                device=validation.device,
                precision=validation.precision,
                workers=validation.workers,
            )
            metrics = evaluate_split(
                encoder, gallery.images, gallery.captions, image_batch=validation.eval_bs, bootstrap=0
            )
            rsums[alpha] = metrics["rsum"]
            advance(1)
    return rsums


def _record(
    config: BlendConfig, run: RunDirectory, mixture: Blend, result: BlendResult, registry: Registry
) -> dict[str, Any]:
    """The `icclip.json`: the run's own configuration, so that it is evaluated on the run's data, and the blend."""
    from icclip.runs.record import FORMAT, versions

    measured = config.validation
    about = {
        "checkpoint": config.checkpoint,
        "with": config.other.to_mapping(),
        "alpha": result.alpha,
        "chosen_on": measured and f"{dataset_identity(registry, measured.data)}, {measured.split}, by rsum",
        "validation": result.to_mapping()["validation"],
    }
    return {
        "format": FORMAT,
        "status": "blend",
        "config": dict(run.config),
        "versions": versions(),
        "model": mixture.loaded.describe(),
        "text_policy": dataclasses.asdict(mixture.loaded.feeder.text_policy),
        "blend": about,
    }
