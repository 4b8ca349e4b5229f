"""What plugins return: frozen descriptions, and the protocols of what they build.

A spec is data. It is cheap to make (without importing torch, transformers or datasets) and names what it
requires; only its callables do work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from icclip.config import LossFamily

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from datasets import DatasetDict, IterableDatasetDict
    from PIL.Image import Image

    from icclip.config import DatasetConfig, ModelConfig, RelevanceProtocol
    from icclip.console import Reporter
    from icclip.exporting.request import ExportRequest, ExportResult
    from icclip.models.loaded import LoadedModel
    from icclip.retrieval.ranking import RetrievalRanks


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPolicy:
    """How captions become the inputs of one checkpoint's text tower.

    SigLIP was trained on text padded to its full length, without a mask, and SigLIP 2 on lower-cased
    text. CLIP pools at the end-of-text token, so padding does not matter to it. BERT and its relatives
    need the attention mask.
    """

    padding: Literal["longest", "max_length"]
    max_length: int
    """The maximum length in tokens, including special tokens."""
    lowercase: bool = False
    attention_mask: bool = False
    """Whether the tower takes `attention_mask` (int64 [b, length], 0 for padding)."""
    token_types: bool = False
    """Whether the tower takes `token_type_ids` (int64 [b, length], 0 everywhere: a caption is one segment)."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the text tower's inputs."""
        extra = {"attention_mask": self.attention_mask, "token_type_ids": self.token_types}
        return ("input_ids", *(name for name, wanted in extra.items() if wanted))


def numbered_blocks(pattern: str) -> Callable[[Any], tuple[str, ...]]:
    r"""A `TowerLayout.blocks` for towers whose blocks are numbered.

    Args:
        pattern: a regular expression that matches the whole name of each block's module, for example
            `r"vision_model\.encoder\.layers\.\d+"`.
    """
    block = re.compile(pattern)
    return lambda model: tuple(name for name, _ in model.named_modules() if block.fullmatch(name))


def largest_list(tower: str) -> Callable[[Any], tuple[str, ...]]:
    """A `TowerLayout.blocks` for towers of any architecture: the items of its largest list of modules.

    These are the blocks of a transformer, the stages of a ConvNeXt or a Swin, the blocks of an EfficientNet.

    Args:
        tower: the name of the tower's module.
    """

    def blocks(model: Any) -> tuple[str, ...]:
        modules = dict(model.named_modules())
        # Only transformers' own lists are repeated blocks: a Sequential is a small network of its own.
        lists = [
            name
            for name, module in modules.items()
            if name.startswith(f"{tower}.") and type(module).__name__ == "ModuleList"
        ]
        if not lists:
            return ()
        # The first of the largest lists is the outermost one, since lists inside it are at most as large.
        largest = max(lists, key=lambda name: sum(p.numel() for p in modules[name].parameters()))
        return tuple(f"{largest}.{item}" for item, _ in modules[largest].named_children())

    return blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerLayout:
    """Where one tower is in the models of a family, and the names of its exported encoder's input and output.

    Freezing, layer-wise learning rates, adapters, sharding, uint8 pixels and export use these values alone.
    """

    module: str
    """The name of the tower's module inside the model, such as `vision_model`."""
    parameters: tuple[str, ...]
    """The prefixes of the names of the tower's parameters, including its projection."""
    projection: tuple[str, ...] = ()
    """The prefixes of the parameters that project the tower's pooled output; empty if there is no projection.

    These parameters go on training if both towers are frozen.
    """
    freezes_projection: bool = True
    """Whether freezing this tower alone freezes its projection too, so that its embeddings stay as they are."""
    blocks: Callable[[Any], Sequence[str]]
    """A function from the model to the names of the tower's repeated blocks, in their order.

    A parameter of the tower that is defined before its first block belongs to the embeddings; one that
    is in no block and is defined later belongs to the head.
    """
    config: str
    """The attribute of the model's configuration that describes the tower, such as `vision_config`."""
    graph_input: str
    """The name of the exported encoder's only input."""
    graph_output: str
    """The name of the exported encoder's only output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A small architecture to train from scratch, known by name (`clip-tiny`).

    `build(config, captions, vocabulary_seed)` returns an untrained model; `captions` feeds the tokenizer
    unless the config names one. `defaults` are the training options that suit it, by their name in
    `TrainConfig`; whatever the user sets wins.
    """

    name: str
    summary: str
    build: Callable[[ModelConfig, Sequence[str]], LoadedModel]
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """A family of dual-encoder models.

    The differences between families are values of this spec; nothing else in the project depends on the name
    of a model.
    """

    name: str
    summary: str
    model_types: tuple[str, ...]
    """The values of a checkpoint's `config.model_type` that this backend serves."""
    loss: LossFamily
    load: Callable[[ModelConfig], LoadedModel]
    """A function that loads a model from a local directory or a hub id. Raises CheckpointError."""
    text_policy: Callable[[Any, Any], TextPolicy]
    """A function from the transformers config and the tokenizer to the text policy."""
    unwrap: Callable[[Any], Any]
    """A function from the result of `get_image_features` or `get_text_features` to a tensor [batch, dim]."""
    vision: TowerLayout
    """The layout of the vision tower."""
    text: TowerLayout
    """The layout of the text tower."""
    resize: Callable[[Any, Any, int], Any] | None = None
    """A function (model, processor, side) that returns a model for square images of `side` pixels and changes the processor to match.

    Raises UsageError for a side that the model cannot take. None means that images cannot be resized.
    """
    presets: tuple[Preset, ...] = ()
    requires: tuple[str, ...] = ("torch", "transformers")
    install: str = "pip install 'icclip[train]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """A source of captioned images.

    `load` returns splits named train / validation / test (those that the source has) with the
    columns `image` (`datasets.Image`) and `captions` (list of str, at least one). It raises
    DataError for what the user can correct.
    """

    name: str
    summary: str
    load: Callable[[DatasetConfig], DatasetDict | IterableDatasetDict]
    takes_path: bool = False
    """Whether the dataset accepts a path, written `name@path`."""
    recognises: Callable[[Path], bool] | None = None
    """Whether the dataset reads a bare path given as `--dataset`; the first dataset that says yes is used."""
    relevance: RelevanceProtocol = "text"
    """What counts as a right answer unless the user chooses: with `text`, a caption is right for every image that has
    it; with `pair`, a caption for its own row alone, if the published numbers of this dataset are counted so."""
    split_sizes: Mapping[str, Any] = field(default_factory=dict)
    """Split -> (images, captions) as published; an evaluation says where what it reads differs."""
    caption_ids: Callable[[DatasetConfig], Mapping[str, tuple[str, int]]] | None = None
    """The ids of its captions, where published judgements call them so: id -> the file of its image, and which of that
    image's captions it is, from 0."""
    classes: Callable[[DatasetConfig, str], Sequence[str]] | None = None
    """For a classification dataset, the names of the classes of a split, those without images included: the captions
    that `load` gives if `config.template` is None, one for each image. None: its captions are no classes."""
    requires: tuple[str, ...] = ("datasets",)
    install: str = "pip install 'icclip[train]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """A number, or several, computed from the ranks of a retrieval run."""

    name: str
    summary: str
    compute: Callable[[RetrievalRanks], Mapping[str, float]]
    by_query: Callable[[RetrievalRanks], Mapping[str, np.ndarray]] | None = None
    """For a metric that is a mean over queries, the values whose means `compute` returns, under the same names: float64
    [queries], in the order of `ranks.i2t_answers.queries` for names that begin with `i2t_` and of `ranks.t2i_answers.queries`
    for `t2i_`. The metric then has 95 % intervals."""
    requires: tuple[str, ...] = ()
    install: str = ""


@runtime_checkable
class Encoder(Protocol):
    """Turns images and texts into unit vectors, wherever it runs."""

    @property
    def description(self) -> str:
        """A short description of what runs where, for headers: `siglip, 3.1 M parameters, cpu, fp32`."""

    def encode_images(self, images: Sequence[Image], *, batch_size: int = 128) -> np.ndarray:
        """Encode RGB images, which may be decoded lazily. Returns float32 [n, dim] with rows of length 1."""

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        """Encode texts. Returns float32 [n, dim] with rows of length 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """What `ExportTargetSpec.open` is asked to open, and how to run it."""

    path: Path
    """The path of what `export` wrote, which may have been moved since."""
    precision: str | None = None
    """One of the target's precisions; None means the most exact one that was exported."""
    provider: str | None = None
    """Where to run, in the target's own terms (for onnxruntime `tensorrt`, `cuda` or `cpu`); None means the best that works."""
    threads: int | None = None
    """The number of CPU threads; None means a number that suits the machine."""
    hashed: bool = False
    """Whether the content of all files has just been compared with its hashes."""
    reporter: Reporter
    """Shows progress and reports which provider was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTargetSpec:
    """A format that trained encoders are exported to.

    `icclip eval`, `embed` and `verify` open what the target wrote like any other checkpoint. `verify` compares
    it with `golden/` and `parity.json`, which `export` writes beside it (`icclip.bundles`), and with the
    hashes of `icclip.json` if there is one.
    """

    name: str
    summary: str
    precisions: tuple[str, ...]
    """All precisions that the target can export, the most exact one first."""
    export: Callable[[ExportRequest], ExportResult]
    """Exports. Raises UsageError for what the user can correct, and GateError if nothing usable came out."""
    recognises: Callable[[Path], bool]
    """A cheap function that tells whether the target wrote what is at a path; False for anything else, or nothing."""
    open: Callable[[OpenRequest], Encoder]
    """Opens. Raises CheckpointError for damaged files, and UsageError for a precision or provider that is not available.

    The encoder may have an attribute `provider` that names where it runs; `verify` shows it.
    """
    about: Callable[[], str] | None = None
    """Says in one line what `open` runs on here (`OpenVINO 2026.4.1 on AMD EPYC: fp32, bf16`), for `icclip doctor`.

    Raises MissingExtraError if it needs something that is not installed, and UsageError if it cannot run here.
    """
    requires: tuple[str, ...] = ()
    """The modules that `export` needs; `open` itself raises MissingExtraError for what it lacks."""
    install: str = "pip install 'icclip[export]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexWrite:
    """For `IndexTargetSpec.write`: what to write, and where."""

    address: str
    """What follows `NAME://` in `--to`."""
    dim: int
    """The number of values in a vector."""
    fingerprint: str
    """Of the encoder. Keep it: vectors of another encoder cannot be compared with these."""
    batches: Iterator[tuple[Sequence[Mapping[str, Any]], np.ndarray]]
    """Items with their vectors, float32 [n, dim] with rows of length 1.

    An item is a mapping with `path`, `width`, `height`, `captions`, `thumbnail` (a JPEG), all but the path possibly
    None, and with the source's further columns.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexTargetSpec:
    """A vector database that `icclip index MODEL ... --to NAME://ADDRESS` writes to."""

    name: str
    summary: str
    write: Callable[[IndexWrite], int]
    """Writes everything anew, and returns the number of items. Raises UsageError for what the user can correct."""
    search: Callable[[str, np.ndarray, int, str], Sequence[tuple[str, float]]]
    """(address, vector float32 [dim], k, fingerprint) -> paths with cosines, best first.

    Raises UsageError where the fingerprint is not that which was written. The conformance kit searches with it.
    """
    requires: tuple[str, ...] = ()
    install: str = ""


Spec = BackendSpec | DatasetSpec | MetricSpec | ExportTargetSpec | IndexTargetSpec


# Checking ---------------------------------------------------------------------------------------

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The characters of a name; `@` and `/` are not allowed, because `name@path` and `owner/name` have other meanings."""
METRIC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
"""The characters of a metric's name; `@` is allowed, because names such as `nDCG@10` are usual."""


def spec_problems(spec: Any) -> list[str]:
    """List what is wrong with the fields of a spec, because dataclasses do not check what plugins put into them.

    Returns one line per problem, beginning with the field. Nothing of the spec is called.
    """
    found = []
    for field_ in fields(spec):
        value = getattr(spec, field_.name)
        fits, expected = _shape(str(field_.type))
        if not fits(value):
            found.append(f"{field_.name} is {value!r}: expected {expected}")
        elif field_.name == "name" and not (METRIC_NAME if isinstance(spec, MetricSpec) else NAME).fullmatch(value):
            found.append(f"name is {value!r}: use letters, digits, '.', '_' and '-'")
        elif field_.name == "presets":
            found += [f"preset {one.name!r}: {problem}" for one in value for problem in spec_problems(one)]
        elif isinstance(value, TowerLayout):
            found += [f"{field_.name}.{problem}" for problem in [*spec_problems(value), *_layout_problems(value)]]
    return found


def _layout_problems(layout: TowerLayout) -> list[str]:
    """Problems with the names in a layout; a field of the wrong type is reported elsewhere."""
    names = ("module", "config", "graph_input", "graph_output")
    found = [f"{name} is empty: give a name" for name in names if getattr(layout, name) == ""]
    if layout.parameters == () or "" in layout.parameters:
        found.append("parameters must not be empty or contain an empty prefix, which every name starts with")
    return found


def _shape(annotation: str) -> tuple[Callable[[Any], bool], str]:
    """How to recognise a value of an annotation used in this module's specs."""
    if annotation.startswith("Callable"):
        optional = annotation.endswith("| None")
        return (lambda value: callable(value) or (optional and value is None)), "a callable"
    return _SHAPES[annotation]


def _all_of(kind: type, value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, kind) for item in value)


_SHAPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "text"),
    "bool": (lambda value: isinstance(value, bool), "True or False"),
    "tuple[str, ...]": (lambda value: _all_of(str, value), "a tuple of strings"),
    "tuple[Preset, ...]": (lambda value: _all_of(Preset, value), "a tuple of Preset"),
    "Mapping[str, Any]": (lambda value: isinstance(value, Mapping), "a mapping"),
    "TowerLayout": (lambda value: isinstance(value, TowerLayout), "a TowerLayout"),
    "RelevanceProtocol": (lambda value: value in ("text", "pair"), "'text' or 'pair'"),
    "LossFamily": (lambda value: value in get_args(LossFamily), "'softmax' or 'sigmoid'"),
}
