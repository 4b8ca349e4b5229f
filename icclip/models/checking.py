"""What a foreign model directory says, held against what can be: before anything large is made of it, and once it is.

Every number is looked at where it stands, so that a message names the file and the field; what no table of
fields can foresee shows when the model encodes one small image and one short text.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.errors import CheckpointError
from icclip.foreign_files import (
    LARGEST_EXPANSION,
    MAX_BYTES,
    MAX_TOKENIZER_BYTES,
    check_regular,
    expansion,
    read_json,
    reason,
)
from icclip.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from icclip.models.loaded import LoadedModel

SECTIONS = ("text_config", "vision_config")
WHOLE: Mapping[str, int] = {
    "hidden_size": 100_000, "intermediate_size": 1_000_000, "num_hidden_layers": 1_000, "num_attention_heads": 10_000,
    "image_size": 10_000, "patch_size": 10_000, "num_channels": 1_000, "vocab_size": 10_000_000,
    "max_position_embeddings": 1_000_000, "projection_dim": 100_000, "projection_size": 100_000,
}  # fmt: skip
"""Fields that hold a whole number (or a height and a width) from 1 on, and the largest that is believed."""
NUMBERS = frozenset(
    {"layer_norm_eps", "attention_dropout", "dropout", "hidden_dropout_prob", "attention_probs_dropout_prob",
     "initializer_range", "initializer_factor", "logit_scale_init_value"}
)  # fmt: skip
TEXTS = frozenset({"hidden_act", "model_type"})
SIDES, LARGEST_SIDE = ("size", "crop_size"), 10_000
SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
FILTERS = range(6)
"""As PIL numbers them."""
CHANNELS = 3
LARGEST_HEADER = 100 << 20
"""Bytes of a safetensors header; the library's own limit."""


# Files --------------------------------------------------------------------------------------------


def check_files(directory: Path) -> None:
    """Look at every file that transformers may open, without opening it.

    Raises:
        CheckpointError: one is a pipe, a device or a directory, is far too large, or names files elsewhere.
    """
    for path in sorted(directory.iterdir()):
        limit = _limit(path.name)
        if limit == 0:
            continue
        try:
            check_regular(path, limit)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be used: {reason(error)}") from error
        if path.suffix == ".json" and limit == MAX_BYTES:
            _table(path)


def _limit(name: str) -> int | None:
    """Bytes that a file may have, by its name; 0: nobody opens it."""
    if name in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"):
        return MAX_TOKENIZER_BYTES
    if name.endswith((".safetensors", ".model")):
        return None
    return MAX_BYTES if name.endswith((".json", ".txt", ".jinja")) else 0


def _table(path: Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be used: {reason(error)}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {reason(error)}") from error


# config.json --------------------------------------------------------------------------------------


def check_config(path: Path, values: Mapping[str, Any]) -> None:
    """Hold the numbers of a config.json to what a model can have.

    Raises:
        CheckpointError: names the field.
    """
    if values.get("quantization_config") is not None:
        raise CheckpointError(
            f"{path}: quantization_config: the weights are quantised, which cannot be trained, measured or exported: "
            "give the checkpoint in float32 or half precision"
        )
    for name in SECTIONS:
        if values.get(name) is not None and not isinstance(values[name], Mapping):
            raise CheckpointError(f"{path}: {name} is {values[name]!r:.80}: expected a table")
    found = [
        *_wrong_fields(values, ""),
        *(one for name in SECTIONS for one in _wrong_fields(values.get(name) or {}, f"{name}.")),
    ]
    if found:
        raise CheckpointError(f"{path}: {'; '.join(found[:3])}")


def _wrong_fields(values: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, value in values.items():
        if value is None:
            continue
        if name in WHOLE:
            items = value if name in ("image_size", "patch_size") and isinstance(value, list) else [value]
            if not items or len(items) > 2 or not all(_is_whole(item, 1, WHOLE[name]) for item in items):  # noqa: PLR2004  height and width
                yield f"{where}{name} is {value!r:.80}: give a whole number from 1 to {WHOLE[name]:,}"
        elif name in NUMBERS and not _is_number(value):
            yield f"{where}{name} is {value!r:.80}: give a number"
        elif name in TEXTS and not isinstance(value, str):
            yield f"{where}{name} is {value!r:.80}: give a name"


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Weights ------------------------------------------------------------------------------------------


def check_size(directory: Path, *, trust_remote_code: bool) -> None:
    """Compare the number of weights that config.json asks for with those in the files, before memory is taken for them.

    Raises:
        CheckpointError: a file is no safetensors file, or the configuration asks for far more than there is.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    have = sum(_elements(path) for path in _weight_files(directory))
    if trust_remote_code:
        # Its code has to run to know.
        return
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(directory, local_files_only=True)
            model = AutoModel.from_config(config)
    # Whatever a configuration leads the library into, it is this configuration's fault.
    except Exception as error:
        raise CheckpointError(
            f"{directory / 'config.json'} describes no model that can be made: {type(error).__name__}: {reason(error)}"
        ) from error
    needed = sum(parameter.numel() for parameter in model.parameters())
    if needed > 2 * have + 1_000_000:
        raise CheckpointError(
            f"{directory / 'config.json'} describes a model of {needed:,} weights, and the files beside it hold {have:,}: "
            "they do not belong together"
        )


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    single = directory / "model.safetensors"
    if single.exists() or not index.exists():
        return [single] if single.exists() else []
    shards = _table(index).get("weight_map") if isinstance(_table(index), Mapping) else None
    if not isinstance(shards, Mapping) or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{index}: weight_map does not say which file holds which weight")
    for name in set(shards.values()):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: weight_map names {name!r:.80}, which is not a file beside it")
    return [directory / name for name in sorted(set(shards.values()))]


def _elements(path: Path) -> int:
    """The number of weights in a safetensors file, from its header."""
    try:
        header = _header(path)
        return sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the weights in {path} are damaged or incomplete: {reason(error)}") from error


def _header(path: Path) -> dict[str, Any]:
    """Name -> type, shape and place of each tensor of a safetensors file. Raises OSError or ValueError."""
    check_regular(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(LARGEST_HEADER, path.stat().st_size):
            raise ValueError(f"its header of {length:,} bytes does not fit into it")
        header: dict[str, Any] = json.loads(file.read(length))
    return header


# Preprocessing and tokenizer ----------------------------------------------------------------------


def check_preprocessing(path: Path) -> None:
    """Hold the values of a preprocessor_config.json or processor_config.json to what an image processor can do.

    Raises:
        CheckpointError: names the field.
    """
    if not path.exists():
        return
    values = _table(path)
    if isinstance(values, Mapping) and isinstance(values.get("image_processor"), Mapping):
        values = values["image_processor"]
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{path} does not hold a JSON object")
    found = [*_wrong_sides(values), *_wrong_values(values)]
    if found:
        raise CheckpointError(f"{path}: {'; '.join(found[:3])}")


def _wrong_sides(values: Mapping[str, Any]) -> Iterator[str]:
    for name in SIDES:
        value = values.get(name)
        sides = list(value.values()) if isinstance(value, Mapping) else [value]
        for side in sides:
            if side is not None and not _is_whole(side, 1, LARGEST_SIDE):
                yield f"{name} is {value!r:.80}: give whole numbers of pixels from 1 to {LARGEST_SIDE:,}"
                break


def _wrong_values(values: Mapping[str, Any]) -> Iterator[str]:
    for name in SWITCHES:
        if not isinstance(values.get(name), bool | None):
            yield f"{name} is {values[name]!r:.80}: give true or false"
    if values.get("resample") is not None and not _is_whole(values["resample"], 0, FILTERS[-1]):
        yield f"resample is {values['resample']!r:.80}: give one of PIL's filters, 0 to {FILTERS[-1]}"
    factor = values.get("rescale_factor")
    if factor is not None and not (_is_number(factor) and factor):
        yield f"rescale_factor is {factor!r:.80}: give a number that is not 0"
    for name in ("image_mean", "image_std"):
        if (value := values.get(name)) is not None:
            yield from _wrong_channels(name, value)


def _wrong_channels(name: str, value: Any) -> Iterator[str]:
    items = value if isinstance(value, list) else [value] * CHANNELS
    zero = name == "image_std" and any(item == 0 for item in items)
    if len(items) != CHANNELS or not all(map(_is_number, items)) or zero:
        yield f"{name} is {value!r:.80}: give {CHANNELS} numbers{', none of them 0' if zero else ''}"


def check_expansion(tokenizer: Any, directory: Path) -> None:
    """Refuse a tokenizer that makes much more of a text than it was: memory would go to its intermediate results.

    Raises:
        CheckpointError: its normalizer replaces characters by long texts.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = getattr(backend, "normalizer", None)
    if normalizer is None:
        return
    factor = expansion(json.loads(normalizer.__getstate__()))
    if factor > LARGEST_EXPANSION:
        raise CheckpointError(
            f"{directory / 'tokenizer.json'}: normalizer: its replacements make up to {factor:,.0f} characters of one: "
            "give the tokenizer that the model was trained with"
        )


# Running ------------------------------------------------------------------------------------------


def check_runs(loaded: LoadedModel, directory: Path) -> None:
    """Encode one small image and one short text.

    Raises:
        CheckpointError: either tower cannot, or they give embeddings of different widths.
    """
    from PIL import Image

    image = _tried(
        f"{directory}: the image tower cannot encode what {_preprocessor(directory)} makes of an image",
        lambda: loaded.image_features(loaded.feeder.image_inputs([Image.new("RGB", (24, 16), (90, 120, 150))])),
        lambda: _other_sides(loaded, directory),
    )
    text = _tried(
        f"{directory}: the text tower cannot encode what the tokenizer makes of a text",
        lambda: loaded.text_features(loaded.feeder.text_inputs(["a dog"])),
    )
    if image != text:
        raise CheckpointError(
            f"{directory}: images become embeddings of shape {image} and texts of {text}: config.json does not describe "
            "two towers that belong together"
        )


def _tried(what: str, encode: Callable[[], Any], explain: Callable[[], str] = lambda: "") -> tuple[int, ...]:
    import torch

    try:
        with torch.inference_mode(), quiet_transformers():
            features = encode()
    # A foreign model raises whatever its parts raise where they do not fit.
    except Exception as error:
        said = f"{type(error).__name__}: {reason(error)}"
        # What cannot be encoded may be impossible to look at, too.
        with contextlib.suppress(Exception):
            said = explain() or said
        raise CheckpointError(f"{what}: {said}") from error
    if not isinstance(features, torch.Tensor) or features.dim() != 2:  # noqa: PLR2004  [b, dim]
        raise CheckpointError(f"{what}: it gives no embedding; the model may lack its projection or pooling head")
    return tuple(features.shape)


def _preprocessor(directory: Path) -> str:
    return "preprocessor_config.json" if (directory / "preprocessor_config.json").exists() else "processor_config.json"


def _other_sides(loaded: LoadedModel, directory: Path) -> str:
    """Where images do not have the size of the model, which is the commonest reason."""
    from PIL import Image

    config = getattr(loaded.model.config, loaded.backend.vision.config, None)
    wanted = getattr(config, "image_size", None)
    if not isinstance(wanted, int):
        return ""
    pixels = loaded.feeder.image_inputs([Image.new("RGB", (24, 16))])["pixel_values"]
    height, width = pixels.shape[-2:]
    if (height, width) == (wanted, wanted):
        return ""
    return (
        f"size and crop_size of {_preprocessor(directory)} make images of {width} x {height} pixels, and "
        f"vision_config.image_size of config.json is {wanted}"
    )
