"""The conformance kit: does a plugin keep what its specs promise?

For a plugin author's own pytest:

    import my_plugin
    from icclip.testing import check_dataset, check_plugin

    def test_my_plugin():
        check_plugin(my_plugin)

Each `check_...` returns every `Check` it made, skipped ones with the reason, and raises
`ConformanceError` with all failures in one message. `icclip plugins check NAME` prints the same checks.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from icclip.config import DatasetConfig, ModelConfig, TrainConfig
from icclip.errors import PluginError, UnknownNameError, UsageError
from icclip.plugins.loading import KINDS, Plugin, describe, load_plugin
from icclip.plugins.registry import Registry, missing_requirements, offers
from icclip.plugins.specs import NAME, BackendSpec, DatasetSpec, MetricSpec, Preset, Spec, TextPolicy, spec_problems

if TYPE_CHECKING:
    from icclip.models.loaded import LoadedModel

SPLITS = ("train", "validation", "test")
HEAVY = ("accelerate", "datasets", "onnx", "onnxruntime", "optimum", "pandas", "pyarrow", "torch", "transformers")
"""What importing a plugin must not import: every command would pay for it."""
ROWS = 16
"""Rows of each split that are looked at."""

T = TypeVar("T")
Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    subject: str
    what: str
    status: Status
    detail: str = ""


class ConformanceError(PluginError):
    """A plugin does not keep what it promises; `checks` has everything that was looked at."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = tuple(checks)
        super().__init__("; ".join(f"{c.subject}: {c.what}: {c.detail}" for c in checks if c.status == "failed"))


def check_dataset(spec: DatasetSpec, config: DatasetConfig | None = None) -> tuple[Check, ...]:
    """Load a dataset twice and look at its splits, columns, captions and images.

    Args:
        spec: what the plugin's `icclip_datasets` returns.
        config: what to load; by default the dataset without a path.

    Raises:
        ConformanceError: naming everything that is wrong.
    """
    return _passed(_spec_checks(spec, config=config))


def check_backend(spec: BackendSpec, checkpoint: str | None = None) -> tuple[Check, ...]:
    """Build every preset, encode with it, save and reload it; load `checkpoint` where one is given.

    Raises:
        ConformanceError: naming everything that is wrong.
    """
    return _passed(_spec_checks(spec, checkpoint=checkpoint))


def check_metric(spec: MetricSpec) -> tuple[Check, ...]:
    """Compute a metric on small hand-made rankings.

    Raises:
        ConformanceError: naming everything that is wrong.
    """
    return _passed(_spec_checks(spec))


def check_plugin(module: ModuleType | str) -> tuple[Check, ...]:
    """Everything about a plugin: its import, its hooks, and each spec and command they give.

    Raises:
        ConformanceError: naming everything that is wrong.
    """
    name = module if isinstance(module, str) else module.__name__
    return _passed(_plugin_checks(load_plugin(name, "this test", "", lambda: importlib.import_module(name), name)))


def check_by_name(registry: Registry, name: str, path: Path | None = None) -> tuple[Check, ...]:
    """The checks for a plugin, or for what some plugin offers under `name`; failures are not raised.

    Args:
        registry: where to look.
        name: of a plugin, a distribution, a spec, a preset or a command.
        path: what datasets and backends shall load.

    Raises:
        UnknownNameError: nothing has this name.
    """
    found = [p for p in registry.plugins if name in _names(p)]
    if not found:
        known = {known for plugin in registry.plugins for known in _names(plugin)}
        raise UnknownNameError("plugin", name, known, registry.failures())
    return tuple(
        check
        for plugin in found
        for check in _plugin_checks(plugin, path, None if name in (plugin.name, plugin.origin) else name)
    )


# One plugin -------------------------------------------------------------------------------------


def _names(plugin: Plugin) -> set[str]:
    return {plugin.name, plugin.origin, *(name for _, name, _, _ in offers(plugin))}


def _plugin_checks(plugin: Plugin, path: Path | None = None, only: str | None = None) -> list[Check]:
    """All checks of a plugin, or those of the specs and commands that offer the name `only`."""
    recorder = _Recorder(plugin.name)
    recorder.run("loads and its hooks return specs", _no_problems, plugin.errors)
    recorder.run("imports nothing heavy", _import_light, plugin.module)
    for name, command in plugin.commands.items():
        if only in (None, name):
            _command_checks(_Recorder(name, recorder.checks), command)
    wanted = [s for _, name, _, s in offers(plugin) if s is not None and only in (None, name)]
    # A backend is there once for itself and once for each of its presets.
    for spec in {id(spec): spec for spec in wanted}.values():
        recorder.checks += _spec_checks(spec, path)
    return recorder.checks


def _command_checks(recorder: _Recorder, command: Any) -> None:
    recorder.run(
        "name",
        lambda: _no_problems([] if NAME.fullmatch(recorder.subject) else ["use letters, digits, '.', '_' and '-'"]),
    )
    recorder.run("help", _no_problems, [] if command.help else ["the function has no docstring"])


def _import_light(module: str) -> None:
    """Import the plugin in a fresh interpreter and see what came with it."""
    if not module:
        raise _SkippedError("it is no module")
    code = (
        f"import sys, importlib; importlib.import_module({module!r}); print(*sorted({set(HEAVY)} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(  # noqa: S603 - our own interpreter, the name of an installed module
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    last = (done.stderr.strip() or "no output").splitlines()[-1]
    _no_problems([f"importing {module} in a fresh Python fails: {last}"] if done.returncode else [])
    heavy = done.stdout.split()
    _no_problems([f"importing {module} imports {', '.join(heavy)}: import it inside functions"] if heavy else [])


# One spec ---------------------------------------------------------------------------------------


def _spec_checks(
    spec: Spec, path: Path | None = None, *, config: DatasetConfig | None = None, checkpoint: str | None = None
) -> list[Check]:
    recorder = _Recorder(f"{KINDS[type(spec)][0]} {spec.name}")
    fields_good = recorder.run("fields", lambda: _no_problems(spec_problems(spec)))
    recorder.run("summary is one line", lambda: _no_problems(_summary_problems(spec.summary)))
    if not fields_good:
        return recorder.checks
    missing = missing_requirements(spec)
    if missing:
        recorder.skip("works", f"needs {', '.join(missing)}: {spec.install}")
    elif isinstance(spec, DatasetSpec):
        _dataset_checks(recorder, spec, config or DatasetConfig(name=spec.name, path=str(path) if path else None))
    elif isinstance(spec, BackendSpec):
        _backend_checks(recorder, spec, checkpoint or (str(path) if path else None))
    elif isinstance(spec, MetricSpec):
        _metric_checks(recorder, spec)
    return recorder.checks


def _summary_problems(summary: object) -> list[str]:
    good = isinstance(summary, str) and summary.strip() and "\n" not in summary
    return [] if good else [f"summary is {summary!r}: say in one line what it is"]


# Datasets


def _dataset_checks(recorder: _Recorder, spec: DatasetSpec, config: DatasetConfig) -> None:
    splits = recorder.get("load", _load_dataset, spec, config)
    if splits is None:
        return
    recorder.run("splits", _check_splits, splits)
    if not recorder.run("columns", _check_columns, splits):
        return
    recorder.run("captions", lambda: _no_problems(_caption_problems(splits)))
    seen = recorder.get("images decode", _digests, splits)
    if seen is not None:
        recorder.run("loads the same again", lambda: _same_again(seen, _digests(_load_dataset(spec, config))))


def _load_dataset(spec: DatasetSpec, config: DatasetConfig) -> Mapping[str, Any]:
    try:
        splits = spec.load(config)
    except UsageError as error:
        if spec.takes_path and config.path is None:
            raise _SkippedError(f"without a path it says: {error}; give one with --path") from error
        raise
    if not isinstance(splits, Mapping):
        raise TypeError(f"returned {type(splits).__name__}: return a datasets.DatasetDict")
    return splits


def _check_splits(splits: Mapping[str, Any]) -> None:
    unknown = [name for name in splits if name not in SPLITS]
    empty = [name for name, split in splits.items() if next(iter(split), None) is None]
    _no_problems(
        [f"split {name!r}: call it one of {', '.join(SPLITS)}" for name in unknown]
        + [f"split {name!r} has no rows: leave it out" for name in empty]
        + ([] if splits else ["there is no split"])
    )


def _check_columns(splits: Mapping[str, Any]) -> None:
    from datasets import Image

    problems = []
    for name, split in splits.items():
        columns = sorted(split.column_names)
        if columns != ["captions", "image"]:
            problems.append(f"split {name!r} has the columns {', '.join(columns)}: give exactly captions and image")
        elif not isinstance(split.features["image"], Image):
            problems.append(f"split {name!r}: the feature of image is {split.features['image']}: use datasets.Image()")
    _no_problems(problems)


def _caption_problems(splits: Mapping[str, Any]) -> Iterator[str]:
    for name, split in splits.items():
        for row, captions in enumerate(itertools.islice(split.select_columns("captions"), ROWS)):
            texts = captions["captions"]
            if not isinstance(texts, list) or not texts:
                yield f"split {name!r} row {row}: captions is {texts!r}: give a list with at least one text"
            elif not all(isinstance(text, str) and text.strip() for text in texts):
                yield f"split {name!r} row {row}: a caption is empty or no text: {texts!r}"


def _digests(splits: Mapping[str, Any]) -> dict[str, list[tuple[list[str], str]]]:
    """The captions and a digest of the decoded pixels of the first rows of each split."""
    from datasets import Image

    from icclip.data.images import decode_image

    found: dict[str, list[tuple[list[str], str]]] = {}
    for name, split in splits.items():
        rows = itertools.islice(split.cast_column("image", Image(decode=False)), ROWS)
        for number, row in enumerate(rows):
            source = row["image"]["bytes"] or Path(row["image"]["path"])
            image = decode_image(source, f"split {name!r} row {number}")
            digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
            found.setdefault(name, []).append((row["captions"], digest))
    return found


def _same_again(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    changed = [name for name in first if first[name] != second.get(name)]
    _no_problems([f"split {name!r} differs between two loads with the same configuration" for name in changed])


# Backends


_CAPTIONS = tuple(
    f"a {size} {colour} {thing} on the {place}"
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
    for thing in ("car", "ball")
    for place in ("table", "beach")
)


def _backend_checks(recorder: _Recorder, spec: BackendSpec, checkpoint: str | None) -> None:
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
    _no_problems([f"{name!r} is no option of a training run" for name in preset.defaults if name not in known])


def _build(preset: Preset) -> LoadedModel:
    return preset.build(ModelConfig(name=preset.name), _CAPTIONS)


def _model_checks(recorder: _Recorder, spec: BackendSpec, loaded: LoadedModel, where: str) -> None:
    recorder.run(f"{where}: model type", _check_model_type, spec, loaded)
    recorder.run(f"{where}: text policy", _check_policy, spec, loaded)
    recorder.run(f"{where}: encodes", lambda: _check_features(*_features(loaded)))


def _check_model_type(spec: BackendSpec, loaded: LoadedModel) -> None:
    found = loaded.model.config.model_type
    _no_problems([] if found in spec.model_types else [f"{found!r} is not among its model_types {spec.model_types}"])


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


# Metrics


def _metric_checks(recorder: _Recorder, spec: MetricSpec) -> None:
    values = [
        (recorder.get(f"computes on {what}", _compute, spec, ranks)) for what, ranks in _hand_made_ranks().items()
    ]
    keys = {tuple(value) for value in values if value is not None}
    recorder.run(
        "the same keys whatever the ranks", lambda: _no_problems([f"got {sorted(keys)}"] if len(keys) > 1 else [])
    )


def _hand_made_ranks() -> dict[str, Any]:
    """Rankings of 2 images and 4 captions: all right, all tied, and mixed."""
    import numpy as np

    from icclip.retrieval.captions import CaptionMap
    from icclip.retrieval.ranking import rank

    captions = CaptionMap.from_lists([["a red ball", "a ball"], ["a blue car", "a car"]])
    images = np.eye(2, dtype=np.float32)
    right, tied = images[[0, 0, 1, 1]], np.ones((4, 2), np.float32)
    mixed = np.array([[1, 0], [0.2, 1], [1, 0.1], [0, 1]], np.float32)
    ranks = {
        "a perfect ranking": rank(images, right, captions),
        "a collapsed model": rank(np.ones((2, 2), np.float32), tied, captions),
        "a mixed ranking": rank(images, mixed, captions),
    }
    for one in ranks.values():
        for array in vars(one).values():
            if isinstance(array, np.ndarray):
                # A metric that writes into the ranks spoils those computed after it.
                array.flags.writeable = False
    return ranks


def _compute(spec: MetricSpec, ranks: Any) -> Mapping[str, float]:
    values = spec.compute(ranks)
    if not isinstance(values, Mapping) or not values:
        raise TypeError(f"returned {values!r}: return a mapping of names to numbers")
    for key, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(key, str) or not number:
            raise ValueError(f"{key!r} is {value!r}: expected a name and a finite float")
    return values


# Recording --------------------------------------------------------------------------------------


class _SkippedError(Exception):
    """Why something cannot be looked at here."""


@dataclass
class _Recorder:
    """Runs checks on one subject and keeps what came of them."""

    subject: str
    checks: list[Check] = field(default_factory=list)

    def get(self, what: str, look: Callable[..., T], *arguments: Any) -> T | None:
        """What `look(*arguments)` returns; None, with the reason recorded, where it raises."""
        try:
            found = look(*arguments)
        except KeyboardInterrupt:
            raise
        except _SkippedError as reason:
            self.skip(what, str(reason))
            return None
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self.checks.append(Check(self.subject, what, "failed", describe(error)))
            return None
        self.checks.append(Check(self.subject, what, "ok"))
        return found

    def run(self, what: str, look: Callable[..., None], *arguments: Any) -> bool:
        """Whether `look` raised nothing."""
        self.get(what, look, *arguments)
        return self.checks[-1].status == "ok"

    def skip(self, what: str, reason: str) -> None:
        """Record why something was not looked at."""
        self.checks.append(Check(self.subject, what, "skipped", reason))


def _no_problems(problems: Sequence[str] | Iterator[str]) -> None:
    found = list(problems)
    if found:
        raise ValueError("; ".join(found))


def _passed(checks: Sequence[Check]) -> tuple[Check, ...]:
    if any(check.status == "failed" for check in checks):
        raise ConformanceError(checks)
    return tuple(checks)
