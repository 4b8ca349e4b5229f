"""What a run is asked to do: frozen dataclasses, checked together, in and out of TOML and JSON.

    TrainConfig
    ├── model: ModelConfig
    ├── data: DatasetConfig
    ├── gentle: GentleConfig
    └── lora: LoraConfig
    EvalConfig
    └── data: DatasetConfig
    ExportConfig
    └── data: DatasetConfig
    BlendConfig
    ├── other: ModelConfig
    └── validation: EvalConfig

`from_mapping` takes nested tables as TOML gives them. All problems (unknown keys, wrong types, values
out of range) are collected and raised as one ConfigError.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from icclip.errors import ConfigError, UsageError

Precision = Literal["fp32", "fp16", "bf16"]
OnBadImage = Literal["fail", "skip"]
Tower = Literal["vision", "text"]
CaptionPolicy = Literal["random", "all", "round-robin"]
Augmentation = Literal["off", "light"]
CacheImages = Literal["auto", "on", "off"]
DuplicatePolicy = Literal["mask", "soft", "off"]

MAX_DISTANCE = 16
"""A quarter of a hash's bits; unrelated images differ in half of them."""
MAX_VAL_FRACTION = 0.5
"""A validation and a test split of this size each would leave nothing to train on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the configs share: checked building from, and turning into, plain values."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from nested plain values.

        Raises:
            ConfigError: every problem at once, each with the key it is about.
        """
        problems: list[str] = []
        config = _build(cls, values, "", problems)
        if problems or config is None:
            raise ConfigError(problems)
        return config

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; `from_mapping` reads them back."""
        return typing.cast("dict[str, Any]", _plain(self))

    def problems(self) -> list[str]:
        """What is wrong with values that have the right type. Overridden by each config."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Config):
    """Which model, and how it is loaded."""

    name: str
    """A hub id, a local directory, or a preset (`clip-tiny`)."""
    revision: str | None = None
    tokenizer: str | None = None
    """For presets: a directory or hub id with a tokenizer, instead of one trained on the captions."""
    image_resize: int | None = None
    """Side in pixels; goes through the processor and is saved with it."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    seed: int = 42
    """Of a preset's initial weights."""
    trust_remote_code: bool = False

    def problems(self) -> list[str]:
        """Values out of range."""
        return _at_least(self, image_resize=16, seed=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig(Config):
    """Which captioned images, and how they are read."""

    name: str
    """A dataset plugin's name."""
    path: str | None = None
    """What followed the @, or the path given instead of a name."""
    revision: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    val_fraction: float = 0.1
    """Share of the images, of a source without a validation (or test) split, that becomes one."""
    seed: int = 42
    """Of the made splits, and of a generated dataset's images."""
    streaming: bool = False
    on_bad_image: OnBadImage = "fail"
    allow_outside_root: bool = False
    image_root: str | None = None
    """The folder that image names start from; None: the folder of the manifest."""
    download: bool = False
    """Fetch images that are named by URL, into the cache."""
    template: str | None = None
    """The caption of a class folder, `{}` standing for its name: `a photo of a {}`."""
    trust_remote_code: bool = False

    def problems(self) -> list[str]:
        """Values out of range, and options that exclude each other."""
        found = _at_least(self, seed=0)
        if self.template is not None and "{}" not in self.template:
            found.append(f"template is {self.template!r}: write {{}} where the name of the class goes")
        if not 0 < self.val_fraction < MAX_VAL_FRACTION:
            found.append(f"val_fraction is {self.val_fraction}: give a fraction between 0 and {MAX_VAL_FRACTION}")
        return found

    @property
    def label(self) -> str:
        """As the user writes it: `flickr8k@path`, `shapes`."""
        return f"{self.name}@{self.path}" if self.path else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class GentleConfig(Config):
    """What of a pretrained model changes, and how fast. By default all of it, at one rate."""

    freeze: Tower | None = None
    """A tower that does not train (LiT)."""
    freeze_blocks: int = 0
    """So many first blocks of each tower, and the embeddings before them, do not train."""
    layer_decay: float = 1.0
    """Each layer's rate is this times the rate of the one above it (BEiT)."""
    vision_lr: float | None = None
    text_lr: float | None = None
    """Of one tower, instead of `lr`."""
    ema: float | None = None
    """Decay per step of the averaged weights that are measured and saved; None: the trained ones are."""

    def problems(self) -> list[str]:
        """Values out of range."""
        found = _at_least(self, freeze_blocks=0, vision_lr=0, text_lr=0)
        if not 0 < self.layer_decay <= 1:
            found.append(f"layer_decay is {self.layer_decay}: give a factor above 0, at most 1")
        if self.ema is not None and not 0 < self.ema < 1:
            found.append(f"ema is {self.ema}: give a decay between 0 and 1, such as 0.999")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig(Config):
    """Low-rank adapters instead of the whole model (arXiv:2106.09685)."""

    rank: int | None = None
    """None: no adapters."""
    alpha: float | None = None
    """What an adapter adds is scaled by alpha / rank; None: twice the rank."""
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Linear layers of the blocks, by the last part of their names; empty: all of them."""

    def problems(self) -> list[str]:
        """Values out of range, and options of adapters without adapters."""
        found = _at_least(self, rank=1)
        if self.alpha is not None and self.alpha <= 0:
            found.append(f"alpha is {self.alpha}: give a number above 0")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout is {self.dropout}: give a fraction from 0 to below 1")
        if self.rank is None and self != LoraConfig():
            found.append("rank is missing: give --lora-rank with the other options of adapters")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Config):
    """One training run. Defaults are the seed project's, but for gradient accumulation."""

    model: ModelConfig
    data: DatasetConfig
    output_dir: Path
    epochs: int = 5
    max_steps: int | None = None
    """Stop after so many optimizer steps; needed with streaming data."""
    lr: float = 1e-5
    weight_decay: float = 0.1
    warmup_ratio: float = 0.05
    scheduler: str = "cosine"
    train_bs: int = 64
    """Images per process and step: what each positive meets, times the processes, less one."""
    micro_batch: int | None = None
    """Images encoded at once within a batch, exactly, at the price of encoding twice; None: all."""
    eval_bs: int = 128
    grad_accum: int = 1
    precision: Precision = "fp32"
    grad_ckpt: bool = False
    fsdp: bool = False
    """Divide weights, gradients and the optimizer's state among the processes."""
    seed: int = 42
    eval_every: int = 1
    """Epochs between retrieval evaluations on the validation split."""
    guard: Literal["on", "off"] = "on"
    """Whether a run that loses what the model could before it is stopped, and fails."""
    patience: int = 3
    """Evaluations in a row below that of step 0 that end the run."""
    save_every_steps: int | None = None
    """Optimizer steps between checkpoints that serve to go on after a kill and are not evaluated."""
    save_total_limit: int = 2
    """Evaluated checkpoints that are kept."""
    logging_steps: int = 50
    workers: int | None = None
    """Processes that load images; None chooses from the cores."""
    cache_images: CacheImages = "auto"
    """Keep decoded and resized images on the disk; auto: where there is room, and each is seen twice or more."""
    device: str | None = None
    """None: the GPU where there is one."""
    report_to: tuple[str, ...] = ("tensorboard",)
    overwrite: bool = False
    resume: bool = False
    captions: CaptionPolicy = "random"
    """Which of an image's captions an epoch shows: one by chance, one in turn, or each once."""
    augment: Augmentation = "off"
    duplicates: DuplicatePolicy = "mask"
    """Pairs that share a caption or an image: no negatives of each other, positives too, or negatives after all."""
    near_duplicates: int | None = None
    """Images whose difference hashes of 64 bits differ in at most so many are the same too; None: the same files are."""
    gentle: GentleConfig = field(default_factory=GentleConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    training_args: Mapping[str, Any] = field(default_factory=dict)
    """Any other field of transformers' TrainingArguments, from `--set`."""

    def problems(self) -> list[str]:
        """Values out of range, and options that exclude each other."""
        found = _at_least(
            self,
            epochs=1, max_steps=1, lr=0, weight_decay=0, train_bs=2, micro_batch=1, eval_bs=1, grad_accum=1, seed=0,
            eval_every=1, patience=1, save_every_steps=1, save_total_limit=1, logging_steps=1, workers=0,
            near_duplicates=0,
        )  # fmt: skip
        if not 0 <= self.warmup_ratio < 1:
            found.append(f"warmup_ratio is {self.warmup_ratio}: give a fraction from 0 to below 1")
        if self.micro_batch is not None and self.micro_batch > self.train_bs:
            found.append(f"micro_batch is {self.micro_batch}: give at most train_bs, which is {self.train_bs}")
        if self.near_duplicates is not None and self.near_duplicates > MAX_DISTANCE:
            found.append(f"near_duplicates is {self.near_duplicates}: give at most {MAX_DISTANCE} of the 64 bits")
        return found + [problem for problem, there in self._exclusions().items() if there]

    def _exclusions(self) -> dict[str, bool]:
        """What does not go together, and whether it is so here."""
        streaming, near = self.data.streaming, self.near_duplicates is not None
        return {
            "fp16 scales the loss by what one process sees: with --fsdp use --bf16": (
                self.fsdp and self.precision == "fp16"
            ),
            "overwrite and resume exclude each other: choose one": self.overwrite and self.resume,
            "streaming data has no known length: give --max-steps": streaming and self.max_steps is None,
            "captions is 'all': with streaming data choose random or round-robin": streaming and self.captions == "all",
            "streaming data cannot be cached: leave out --cache-images": streaming and self.cache_images == "on",
            "images of streaming data cannot be compared: leave out --near-duplicates": streaming and near,
            "near_duplicates does nothing where duplicates is 'off': leave out one": near and self.duplicates == "off",
            "augmentation works on whole images: leave out --augment or --cache-images": (
                self.augment != "off" and self.cache_images == "on"
            ),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(Config):
    """One evaluation of a checkpoint on a split."""

    checkpoint: str
    data: DatasetConfig
    revision: str | None = None
    split: str = "test"
    output_dir: Path | None = None
    eval_bs: int = 128
    precision: Precision = "fp32"
    bundle_precision: str | None = None
    """Which of a bundle's encoders run; None: fp32, or the first that it holds."""
    provider: Literal["tensorrt", "cuda", "cpu"] | None = None
    """What runs a bundle; None: the first that works."""
    workers: int | None = None
    device: str | None = None
    bootstrap: int = 1000
    """Resamples behind the confidence intervals; 0 leaves them out."""
    seed: int = 42
    """Of the resamples."""
    metrics: tuple[str, ...] = ()
    """Metrics of plugins to compute beside the default ones."""
    trust_remote_code: bool = False

    def problems(self) -> list[str]:
        """Values out of range."""
        return _at_least(self, eval_bs=1, bootstrap=0, seed=0, workers=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig(Config):
    """One export of a checkpoint, and the split that it is proven on."""

    checkpoint: str
    data: DatasetConfig
    output_dir: Path
    target: str = "onnx"
    precisions: tuple[str, ...] = ("fp32",)
    revision: str | None = None
    split: str = "test"
    sample: int = 1000
    """Images compared where the split has more."""
    seed: int = 42
    """Of the sample."""
    provider: Literal["tensorrt", "cuda", "cpu"] | None = None
    """That has to run the encoders when they are compared; None: the first that works."""
    device: str | None = None
    """Of the checkpoint in torch."""
    workers: int | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Replace those of every precision."""
    overwrite: bool = False
    """Replace the bundle in `output_dir`."""
    trust_remote_code: bool = False

    def problems(self) -> list[str]:
        """Values out of range, and precisions that are missing or named twice."""
        found = _at_least(self, sample=1, seed=0, workers=0)
        if not self.precisions:
            found.append("precisions is empty: give at least one")
        twice = sorted({name for name in self.precisions if self.precisions.count(name) > 1})
        return found + [f"precision {name!r} is given twice" for name in twice]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendConfig(Config):
    """The way between two checkpoints of one architecture, and where on it to stop."""

    checkpoint: str
    other: ModelConfig
    """What `checkpoint` was trained from, or another one."""
    output_dir: Path
    alphas: tuple[float, ...] = tuple(tenth / 10 for tenth in range(11))
    """Shares of `checkpoint` to try; the best on the validation split is kept."""
    validation: EvalConfig | None = None
    """How they are measured; not needed for one alone."""

    def problems(self) -> list[str]:
        """Shares out of range, and a choice without a measure."""
        found = [f"alpha is {alpha}: give a share from 0 to 1" for alpha in self.alphas if not 0 <= alpha <= 1]
        if not self.alphas:
            found.append("alphas is empty: give at least one")
        if len(self.alphas) > 1 and (self.validation is None or self.validation.split == "test"):
            found.append("validation is missing: alpha is chosen on a split that is not the test split")
        return found


C = TypeVar("C", bound=Config)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        UsageError: it is missing or is no TOML (with the line).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win, table by table. A None in a layer means 'not said' and never wins."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if value is None:
                continue
            if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
                result[key] = merged(result[key], value)
            else:
                result[key] = merged(value) if isinstance(value, Mapping) else value
    return result


# Building from plain values ---------------------------------------------------------------------


def _build(cls: type[C], values: Mapping[str, Any], where: str, problems: list[str]) -> C | None:
    """An instance of `cls`, or None; the reasons are appended to `problems`.

    What has the wrong type is left out, so that the other values are looked at as well.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values.keys() - fields.keys():
        near = difflib.get_close_matches(key, fields, n=1)
        problems.append(f"unknown key {where + key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    arguments: dict[str, Any] = {}
    complete = True
    for name, spec in fields.items():
        before = len(problems)
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if name in values:
            value = _convert(hints[name], values[name], where + name, problems)
            if len(problems) == before or isinstance(value, Config):
                arguments[name] = value
        elif required:
            problems.append(f"missing {where + name!r}")
        complete = complete and (name in arguments or not required)
    if not complete:
        return None
    config = cls(**arguments)
    problems.extend(where + problem for problem in config.problems())
    return config


def _convert(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """`value` as the annotated type, or None with the reason appended to `problems`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _convert(inner, value, where, problems)
    if origin is Literal:
        if value not in arguments:
            problems.append(f"{where} is {value!r}: choose one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple or (origin is Mapping and isinstance(value, Mapping)):
        return _convert_items(arguments, value, where, problems)
    if isinstance(hint, type) and issubclass(hint, Config):
        return _build_table(hint, value, where, problems)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    return _scalar(hint, origin, value, where, problems)


def _convert_items(hints: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    """The items of a tuple (one alone stands for itself), or of a mapping, as their annotated types."""
    if isinstance(value, Mapping):
        return {key: _convert(hints[1], item, f"{where}.{key}", problems) for key, item in value.items()}
    items = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(_convert(hints[0], item, where, problems) for item in items)


def _build_table(hint: type[Config], value: Any, where: str, problems: list[str]) -> Config | None:
    if isinstance(value, hint):
        return value
    if not isinstance(value, Mapping):
        problems.append(f"{where} must be a table")
        return None
    return _build(hint, value, f"{where}.", problems)


_SCALARS: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


def _scalar(hint: Any, origin: Any, value: Any, where: str, problems: list[str]) -> Any:
    if hint is Any:
        return value
    accepted = _SCALARS.get(hint, (Mapping,) if origin is Mapping else (object,))
    # bool is a subclass of int: `epochs = true` is a mistake, not 1.
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        problems.append(f"{where} is {value!r}: expected {getattr(hint, '__name__', hint)}")
        return None
    return float(typing.cast("float", value)) if hint is float else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _at_least(config: Config, **minimums: float) -> list[str]:
    """One line for every named field that is set and below its minimum."""
    return [
        f"{name} is {getattr(config, name)}: give at least {minimum}"
        for name, minimum in minimums.items()
        if getattr(config, name) is not None and getattr(config, name) < minimum
    ]
