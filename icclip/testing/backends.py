"""Checks that a backend builds, encodes, saves and reloads its models, and that its layout fits them."""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from icclip.config import ModelConfig, TrainConfig
from icclip.plugins.specs import BackendSpec, Preset, TextPolicy, TowerLayout
from icclip.testing.record import Recorder, no_problems

if TYPE_CHECKING:
    from icclip.models.loaded import LoadedModel

_CAPTIONS = tuple(
    f"a {size} {colour} {thing} on the {place}"
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
    for thing in ("car", "ball")
    for place in ("table", "beach")
)


def backend_checks(recorder: Recorder, spec: BackendSpec, checkpoint: str | None) -> None:
    """Check a backend and record the results."""
    recorder.run("unwrap takes what transformers 4 and 5 return", _check_unwrap, spec)
    for preset in spec.presets:
        recorder.run(f"preset {preset.name}: defaults", _check_defaults, preset)
        loaded = recorder.get(f"preset {preset.name}: builds", _build, preset)
        if loaded is not None:
            _model_checks(recorder, spec, loaded, f"preset {preset.name}")
            recorder.run(f"preset {preset.name}: reloads exactly", _check_reload, spec, loaded)
    if checkpoint is None:
        recorder.skip("loads a checkpoint", "give one with --path")
        return
    loaded = recorder.get("loads a checkpoint", lambda: spec.load(ModelConfig(name=checkpoint)))
    if loaded is not None:
        _model_checks(recorder, spec, loaded, "checkpoint")


def _check_unwrap(spec: BackendSpec) -> None:
    import torch

    features = torch.arange(6.0).reshape(2, 3)
    for kind, given in (
        ("a tensor", features),
        ("an output with pooler_output", SimpleNamespace(pooler_output=features)),
    ):
        if spec.unwrap(given) is not features:
            raise ValueError(f"given {kind} it does not return the tensor")


def _check_defaults(preset: Preset) -> None:
    known = {f.name for f in fields(TrainConfig)}
    no_problems([f"{name!r} is not a training option" for name in preset.defaults if name not in known])


def _build(preset: Preset) -> LoadedModel:
    return preset.build(ModelConfig(name=preset.name), _CAPTIONS)


def _model_checks(recorder: Recorder, spec: BackendSpec, loaded: LoadedModel, where: str) -> None:
    recorder.run(f"{where}: model type", _check_model_type, spec, loaded)
    recorder.run(f"{where}: text policy", _check_policy, spec, loaded)
    for name, layout in (("vision", spec.vision), ("text", spec.text)):
        recorder.run(f"{where}: {name} layout", _check_layout, layout, loaded)
    recorder.run(f"{where}: encodes", lambda: _check_features(*_features(loaded)))


def _check_model_type(spec: BackendSpec, loaded: LoadedModel) -> None:
    found = loaded.model.config.model_type
    no_problems([] if found in spec.model_types else [f"{found!r} is not among its model_types {spec.model_types}"])


def _check_layout(layout: TowerLayout, loaded: LoadedModel) -> None:
    """Check that the names in a layout exist in the model."""
    model = loaded.model
    modules, parameters = dict(model.named_modules()), [name for name, _ in model.named_parameters()]
    unused = [one for one in layout.parameters if not any(name.startswith(one) for name in parameters)]
    blocks = list(layout.blocks(model))
    problems = [f"no parameter's name begins with {one!r}" for one in unused]
    problems += [f"blocks gives {name!r}, which is not a module of the model" for name in blocks if name not in modules]
    if not blocks:
        problems.append("blocks gives no name: freezing, adapters and sharding have nothing to work on")
    outside = [name for name in blocks if not f"{name}.".startswith(layout.parameters)]
    problems += [f"the block {name!r} is outside the tower's parameters" for name in outside]
    if layout.module not in modules:
        problems.append(f"the model has no module {layout.module!r}")
    if not hasattr(model.config, layout.config):
        problems.append(f"the model's config has no {layout.config!r}")
    no_problems(problems)


def _check_policy(spec: BackendSpec, loaded: LoadedModel) -> None:
    policy = spec.text_policy(loaded.model.config, loaded.feeder.processor.tokenizer)
    if not isinstance(policy, TextPolicy):
        raise TypeError(f"text_policy returned {type(policy).__name__}: return a TextPolicy")
    if policy.padding not in ("longest", "max_length") or policy.max_length < 1:
        raise ValueError(f"{policy}: give padding 'longest' or 'max_length', and a max_length of at least 1")


def _features(loaded: LoadedModel) -> tuple[Any, Any]:
    """Tensors [2, dim] of two images and two texts."""
    import torch
    from PIL import Image

    loaded.model.eval()
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    with torch.no_grad():
        return (
            loaded.image_features(loaded.feeder.image_inputs(images)),
            loaded.text_features(loaded.feeder.text_inputs(_CAPTIONS[:2])),
        )


def _check_features(images: Any, texts: Any) -> None:
    if images.ndim != 2 or images.shape != texts.shape:  # noqa: PLR2004 - batch and width
        raise ValueError(f"image features {tuple(images.shape)}, text features {tuple(texts.shape)}: give [batch, dim]")
    if not (images.isfinite().all() and texts.isfinite().all()):
        raise ValueError("the features are not finite")


def _check_reload(spec: BackendSpec, loaded: LoadedModel) -> None:
    before = _features(loaded)
    with tempfile.TemporaryDirectory() as directory:
        loaded.save(Path(directory))
        after = _features(spec.load(ModelConfig(name=directory)))
    if not all(one.equal(other) for one, other in zip(before, after, strict=True)):
        raise ValueError("saved and loaded again, it encodes differently")
