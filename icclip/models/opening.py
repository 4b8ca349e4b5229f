"""Open a model by name: a preset, a directory or a hub repository.

A hub repository is first downloaded (only JSON, text, tokenizer and safetensors files), so that everything
afterwards works on directories, with one set of checks and messages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from icclip.config import ModelConfig
from icclip.errors import CheckpointError, UnknownNameError, UsageError, shorten
from icclip.foreign_files import read_json as read_foreign
from icclip.foreign_files import reason
from icclip.hub import HUB_ID, download
from icclip.models.attention import set_attention
from icclip.models.checking import (
    check_config,
    check_expansion,
    check_files,
    check_preprocessing,
    check_runs,
    check_size,
)
from icclip.models.convolutions import lay_out_channels_last
from icclip.models.loaded import LoadedModel
from icclip.models.quiet import quiet_transformers
from icclip.plugins.registry import Registry
from icclip.plugins.specs import BackendSpec
from icclip.runs.checkpoints import HALF_WRITTEN

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
)
ADAPTER = "adapter_config.json"
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def open_model(
    registry: Registry, config: ModelConfig, captions: Callable[[], Sequence[str]] | None = None
) -> LoadedModel:
    """Open the model that `config` names, in float32 on the CPU, with its processor.

    Args:
        registry: the registry in which backends and presets are looked up.
        config: a preset's name, a local directory (a HF directory, a run directory or a checkpoint in
            it) or a hub id.
        captions: a function that returns the texts that a preset's tokenizer is trained on; called only for a preset
            without a tokenizer of its own.

    Raises:
        UnknownNameError: there is no such model, or no backend serves its model type.
        CheckpointError: the model exists, but cannot be used as it is.
    """
    found = registry.preset(config.name)
    if found is not None:
        return found[1].build(config, _captions(config, captions))
    directory = resolve(config, registry.preset_names())
    backend = registry.backend_for(model_type(directory), config.name)
    loaded = backend.load(dataclasses.replace(config, name=str(directory), revision=None))
    return dataclasses.replace(loaded, source=source_label(config))


def load_pretrained(config: ModelConfig, backend: BackendSpec) -> LoadedModel:
    """Load a model that transformers' Auto classes know; backends use it as their `load`.

    Raises:
        CheckpointError: something is missing or damaged, or does not fit together.
    """
    directory = resolve(config)
    check_files(directory)
    check_config(directory / "config.json", read_json(directory / "config.json", _where_else(directory)))
    for name in PREPROCESSORS:
        check_preprocessing(directory / name)
    model = _load_weights(directory, config)
    processor = load_processor(directory, trust_remote_code=config.trust_remote_code)
    if config.image_resize is not None:
        model = _resized(model, processor, config.image_resize, backend)
    set_attention(model, config.attention)
    embeddings = getattr(model.config, backend.text.config).vocab_size
    check_vocabulary(processor.tokenizer, embeddings, source_label(config))
    lay_out_channels_last(model.get_submodule(backend.vision.module))
    loaded = LoadedModel.of(model.eval(), processor, backend, source_label(config))
    check_runs(loaded, directory)
    return loaded


def _resized(model: Any, processor: Any, side: int, backend: BackendSpec) -> Any:
    if backend.resize is None:
        raise UsageError(f"models of the backend {backend.name!r} cannot be resized: leave out --image-resize")
    return backend.resize(model, processor, side)


def source_label(config: ModelConfig) -> str:
    """The name of the model in records and messages."""
    return f"{config.name}@{config.revision}" if config.revision else config.name


# Finding the files ------------------------------------------------------------------------------


def resolve(config: ModelConfig, presets: Sequence[str] = ()) -> Path:
    """Find the local directory that holds the model; if `config.name` is a hub id, the model is downloaded first.

    Args:
        config: the model's configuration, of which `name` and `revision` are used.
        presets: names to suggest when there is no such model.

    Raises:
        UnknownNameError: the name is neither a directory nor a hub id.
        CheckpointError: the hub does not have the model or cannot be reached, or a run was killed while it
            replaced its model.
    """
    path = Path(config.name).expanduser()
    if (path / HALF_WRITTEN).exists():
        raise CheckpointError(
            f"{path} is still being written, or its run was killed while writing it{_last_checkpoint(path)}; "
            "repeat the `icclip train` command with --resume to complete it"
        )
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file: give the directory that holds config.json and the weights")
    if HUB_ID.fullmatch(config.name):
        return _download(config)
    note = "or give a hub id OWNER/NAME, or a directory that exists"
    raise UnknownNameError("model", config.name, presets, note)


def _download(config: ModelConfig) -> Path:
    patterns = [*HUB_FILES, "*.py"] if config.trust_remote_code else [*HUB_FILES]
    # Files in subfolders are other formats of the same weights.
    return download(config.name, config.revision, allow=patterns, ignore=["*/*"])


def model_type(directory: Path) -> str:
    """The `model_type` in a directory's config.json.

    Raises:
        CheckpointError: config.json is missing, is not a JSON object, or has no model type.
    """
    values = read_json(directory / "config.json", _where_else(directory))
    found = values.get("model_type")
    if not isinstance(found, str):
        raise CheckpointError(f"{directory / 'config.json'} has no model_type: it is not a transformers configuration")
    return found


def read_json(path: Path, hint: str = "") -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        CheckpointError: the file is missing (the message then ends with `hint`), unreadable, or not a JSON object.
    """
    try:
        values = read_foreign(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}{hint}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {reason(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return values


def _where_else(directory: Path) -> str:
    """Why there is no config.json: it is an adapter, or an interrupted run, of which only the checkpoints are complete."""
    if (directory / ADAPTER).is_file():
        return f": it holds an adapter ({ADAPTER}), not a model: merge it into its model, and save that"
    return _last_checkpoint(directory) or ": it is not a model directory"


def _last_checkpoint(directory: Path) -> str:
    inside = [path.parent for path in directory.glob("checkpoint-*/config.json")]
    return f": its last checkpoint is {max(inside, key=_step)}" if inside else ""


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


# Weights ----------------------------------------------------------------------------------------


def _load_weights(directory: Path, config: ModelConfig) -> Any:
    """Load the model in float32; every weight must come from the file, because random weights give wrong numbers."""
    model, info = read_weights(directory, config)
    _check_keys(directory, info)
    return model


def read_weights(directory: Path, config: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """Load the model of a directory in float32, with transformers' loading info (missing and unexpected names, ...).

    Raises:
        CheckpointError: the weights are missing, damaged, or do not fit the model.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel

    if not any((directory / name).exists() for name in WEIGHTS):
        raise CheckpointError(_no_weights(directory))
    check_size(directory, trust_remote_code=config.trust_remote_code)
    try:
        with quiet_transformers():
            model, info = AutoModel.from_pretrained(
                directory,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=config.trust_remote_code,
                local_files_only=True,
            )
    except SafetensorError as error:
        raise CheckpointError(f"the weights in {directory} are damaged or incomplete: {shorten(str(error))}") from error
    # What the library raises for a configuration that makes no model, or a shard that is absent.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, ZeroDivisionError,
            StrictDataclassError, MemoryError) as error:  # fmt: skip
        raise CheckpointError(f"{directory} cannot be loaded: {type(error).__name__}: {shorten(str(error))}") from error
    return model, info


def _no_weights(directory: Path) -> str:
    if any((directory / name).exists() for name in PICKLES):
        return (
            f"{directory} has its weights only as a pickle, which can run code when it is opened: convert them to "
            "safetensors (https://huggingface.co/spaces/safetensors/convert)"
        )
    return f"{directory} has no weights: expected {' or '.join(WEIGHTS)}"


def _check_keys(directory: Path, info: dict[str, Any]) -> None:
    """`info`: transformers' loading info; its values are lists or sets, of names or (name, shape, shape)."""
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    # Old checkpoints carry these constant buffers, which models no longer save.
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith(".position_ids")]
    problems = {"missing": info["missing_keys"], "unexpected": unexpected, "of the wrong shape": mismatched}
    found = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in problems.items() if keys]
    if found:
        raise CheckpointError(f"the weights in {directory} do not fit its config.json: {'; '.join(found)}")


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = sorted(names)[:most]
    return ", ".join(shown) + (", ..." if len(names) > most else "")


# Processor --------------------------------------------------------------------------------------


def load_processor(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """Load a directory's processor, which has an image processor and a tokenizer.

    Raises:
        CheckpointError: files are missing or cannot be read.
    """
    from transformers import AutoProcessor

    if not any((directory / name).exists() for name in PREPROCESSORS):
        raise CheckpointError(f"{directory} has no {PREPROCESSORS[0]}: copy it from the model it was trained from")
    processor = _from_files(AutoProcessor, directory, "processor", trust_remote_code=trust_remote_code)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise CheckpointError(
            f"{directory} describes a {type(processor).__name__}, which does not prepare both images and texts"
        )
    return processor


def load_tokenizer(config: ModelConfig, name: str) -> Any:
    """Load the tokenizer of a directory or hub repository, for a model trained from scratch.

    Raises:
        UnknownNameError, CheckpointError: see `resolve`; also if files are missing or cannot be read.
    """
    return tokenizer_in(resolve(dataclasses.replace(config, name=name, revision=None)), config)


def tokenizer_in(directory: Path, config: ModelConfig) -> Any:
    """Load a directory's tokenizer. Raises CheckpointError if files are missing or cannot be read."""
    from transformers import AutoTokenizer

    return _from_files(AutoTokenizer, directory, "tokenizer", trust_remote_code=config.trust_remote_code)


def image_processor_in(directory: Path, config: ModelConfig) -> Any:
    """Load a directory's image processor. Raises CheckpointError if there is none, or if it cannot be read."""
    from transformers import AutoImageProcessor

    if not any((directory / name).exists() for name in PREPROCESSORS):
        raise CheckpointError(f"{directory} has no {PREPROCESSORS[0]}, which says how images are prepared for it")
    return _read(AutoImageProcessor, directory, "image processor", trust_remote_code=config.trust_remote_code)


def _from_files(auto: Any, directory: Path, what: str, *, trust_remote_code: bool) -> Any:
    if not any(all((directory / name).exists() for name in names) for names in TOKENIZERS):
        kinds = ", ".join("+".join(names) for names in TOKENIZERS)
        raise CheckpointError(f"{directory} has no tokenizer: expected one of {kinds}")
    return _read(auto, directory, what, trust_remote_code=trust_remote_code)


def _read(auto: Any, directory: Path, what: str, *, trust_remote_code: bool) -> Any:
    try:
        with quiet_transformers():
            made = auto.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    # The tokenizers library raises plain Exception for a broken file, and so this cannot be narrower.
    except Exception as error:
        raise CheckpointError(
            f"the {what} in {directory} cannot be read: {type(error).__name__}: {shorten(str(error))}"
        ) from error
    check_expansion(getattr(made, "tokenizer", made), directory)
    return made


def check_vocabulary(tokenizer: Any, embeddings: int, source: str) -> None:
    """Check that every token has a row in the text tower's embedding table.

    Raises:
        CheckpointError: the tokenizer has ids beyond the table, or it cannot pad.
    """
    largest = max(tokenizer.get_vocab().values())
    if largest >= embeddings:
        raise CheckpointError(
            f"{source}: the tokenizer has ids up to {largest}, but the model has only {embeddings} embeddings: "
            "they do not belong together"
        )
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"{source}: the tokenizer has no padding token, which batches of captions need")


def _captions(config: ModelConfig, captions: Callable[[], Sequence[str]] | None) -> Sequence[str]:
    if config.tokenizer is not None:
        return ()
    if captions is None:
        raise CheckpointError(
            f"{config.name} is an untrained preset: train it first (icclip train --model {config.name}), "
            "or give the directory of a trained model"
        )
    return captions()
