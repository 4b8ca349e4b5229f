"""Turn a TrainConfig into transformers' TrainingArguments, for every supported version."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from icclip.config import TrainConfig
from icclip.config.declare import replaced
from icclip.data.cores import cores
from icclip.errors import ConfigError, UnknownNameError, UsageError
from icclip.identity import identity
from icclip.models.encoder import choose_device
from icclip.training.processes.company import PATIENT

FIELDS: Mapping[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(TrainingArguments) if f.init}

OURS: Mapping[str, str] = {
    **replaced(TrainConfig),
    "remove_unused_columns": "the collator turns the columns into model inputs",
    "dataloader_drop_last": "all processes need batches of the same size",
    "logging_nan_inf_filter": "a non-finite loss stops the run",
    "eval_on_start": "the model is always measured before its first step",
    "ignore_data_skip": "a resumed run always continues where it stopped",
    "save_strategy": "use --eval-every and --save-every-steps",
    "load_best_model_at_end": "the directory's root holds the best checkpoint",
    "metric_for_best_model": "the best checkpoint is the one with the highest rsum",
}
"""Arguments that `--set` may not touch, with the reason or the option to use instead."""


def training_arguments(config: TrainConfig, *, workers: int, resuming: bool = False) -> TrainingArguments:
    """Make the arguments of a run. This starts the process group if there are several processes.

    It also sets environment variables for settings of accelerate and TensorBoard that transformers has no argument
    for.

    Args:
        config: the configuration of the run.
        workers: number of processes that load images.
        resuming: whether the run continues from a checkpoint, and so has its baseline already.

    Raises:
        UsageError: transformers refuses something on this machine, such as fp16 without a GPU.
        UnknownNameError, ConfigError: see `converted`.
    """
    device = choose_device(config.device)
    use_cpu = device.type == "cpu"
    if use_cpu and config.precision == "fp16":
        raise UsageError("fp16 needs a GPU: use --bf16 or --fp32")
    values = {
        **_ours(config, workers=workers, use_cpu=use_cpu),
        # In a stream, Trainer would skip from the start of the run instead of the pass, so Schedule skips.
        "ignore_data_skip": config.data.streaming,
        "eval_on_start": not resuming,
        **converted(config.training_args),
    }
    os.environ.update(_environment(config, device))
    try:
        arguments = TrainingArguments(**values)
        # One process uses one device. With more devices visible, Trainer would choose DataParallel,
        # which does not gather embeddings. The device is set up by asking for it.
        if arguments.device.type == "cuda":
            arguments._n_gpu = 1  # noqa: SLF001 # the only way transformers offers
    except (ValueError, ImportError) as error:
        raise UsageError(f"transformers refuses the training arguments: {' '.join(str(error).split())}") from error
    return arguments


def _ours(config: TrainConfig, *, workers: int, use_cpu: bool) -> dict[str, Any]:
    return {
        "output_dir": str(config.output_dir),
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.lr,
        "weight_decay": config.weight_decay,
        "lr_scheduler_type": config.scheduler,
        "per_device_train_batch_size": config.train_bs,
        "per_device_eval_batch_size": config.eval_bs,
        "gradient_accumulation_steps": config.grad_accum,
        "fp16": config.precision == "fp16",
        "bf16": config.precision == "bf16",
        "seed": config.seed,
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "rsum",
        "greater_is_better": True,
        "save_total_limit": config.save_total_limit,
        "report_to": list(config.report_to) or "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_drop_last": True,
        "dataloader_num_workers": workers,
        # Batches of uint8 pixels are small, so more of them can even out images that take long to decode.
        "dataloader_prefetch_factor": 4 if workers else None,
        "dataloader_persistent_workers": workers > 0 and not config.data.streaming,
        "dataloader_pin_memory": not use_cpu,
        # A stream is read by every process, each keeping its share: batches of texts padded to their
        # own longest cannot be put together and sent around.
        "accelerator_config": {"dispatch_batches": False} if config.data.streaming else None,
        "ddp_find_unused_parameters": False,
        # Until the first step; see icclip.training.processes.company.
        "ddp_timeout": int(PATIENT.total_seconds()),
        "use_cpu": use_cpu,
        # Without other processes, naming a backend makes accelerate look for a process group.
        "ddp_backend": "gloo" if use_cpu and identity().size > 1 else None,
        **_version_dependent(config),
    }


def _version_dependent(config: TrainConfig) -> dict[str, Any]:
    """Arguments whose names differ between transformers 4.57 and 5."""
    checkpointing = "activation" if "activation_checkpointing" in FIELDS else "gradient"
    values: dict[str, Any] = {}
    if config.grad_ckpt:
        values[f"{checkpointing}_checkpointing"] = True
        values[f"{checkpointing}_checkpointing_kwargs"] = {"use_reentrant": False}
    if "logging_dir" in FIELDS:
        return {**values, "warmup_ratio": config.warmup_ratio, "logging_dir": _logs(config)}
    # Below 1 it is a share of the steps, and 1 would be a single step.
    return {**values, "warmup_steps": min(config.warmup_ratio, math.nextafter(1.0, 0.0))}


def _environment(config: TrainConfig, device: torch.device) -> dict[str, str]:
    """Set what has no argument: the precision left by an earlier run, a GPU's number, and TensorBoard's directory."""
    # It would outlast the run and override the next one's float32.
    variables = {"ACCELERATE_MIXED_PRECISION": "no"}
    if device.type == "cuda" and device.index is not None:
        variables["ACCELERATE_TORCH_DEVICE"] = str(device)
    if "logging_dir" not in FIELDS:
        variables["TENSORBOARD_LOGGING_DIR"] = _logs(config)
    return variables


def _logs(config: TrainConfig) -> str:
    return str(config.output_dir / "logs")


# --set --------------------------------------------------------------------------------------------


def converted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of `--set` to the types of TrainingArguments.

    Raises:
        UnknownNameError: there is no such field; the message names the nearest one.
        ConfigError: a value has the wrong type, or a field has an option of its own; all problems at once.
    """
    hints = typing.get_type_hints(TrainingArguments)
    result, problems = {}, []
    for name, value in values.items():
        if name in OURS:
            problems.append(f"--set {name}: {OURS[name]}")
        elif name not in FIELDS:
            raise UnknownNameError("training argument", name, FIELDS.keys() - OURS.keys())
        else:
            try:
                result[name] = _convert(hints[name], value) if isinstance(value, str) else value
            except ValueError:
                problems.append(f"--set {name}={value}: expected {_names(hints[name])}")
    if problems:
        raise ConfigError(problems)
    return result


def _boolean(text: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]


def _list(text: str) -> list[Any]:
    return typing.cast("list[Any]", json.loads(text)) if text.startswith("[") else text.split(",")


_CONVERTERS: Mapping[type, Callable[[str], Any]] = {
    bool: _boolean,
    int: int,
    float: float,
    dict: json.loads,
    list: _list,
    str: str,
}
"""In the order in which the members of a union are tried: the strictest first."""


def _convert(hint: Any, text: str) -> Any:
    """Convert `text` to the first possible type of the annotation. Raises ValueError."""
    members = _members(hint)
    if types.NoneType in members and text.lower() == "none":
        return None
    for kind, convert in _CONVERTERS.items():
        if kind in members:
            try:
                return convert(text)
            except (ValueError, KeyError):
                continue
    if set(_CONVERTERS) & members:
        raise ValueError(text)
    return text


def _members(hint: Any) -> set[type]:
    """The plain types in an annotation."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return set().union(*(_members(part) for part in typing.get_args(hint)))
    return {typing.get_origin(hint) or hint}


def _names(hint: Any) -> str:
    return " or ".join(sorted(kind.__name__ for kind in _members(hint) & set(_CONVERTERS)))


def default_workers() -> int:
    """The number of processes that load images: one fewer than this process's share of the cores, and at most 8."""
    return min(8, max(0, cores() // identity().local_size - 1))


def allow_fast_matmul(arguments: TrainingArguments) -> None:
    """Use TF32 for float32 products on GPUs that have it."""
    if arguments.device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def planned_steps(arguments: TrainingArguments, images: int | None) -> int:
    """The number of optimizer steps of the whole run, as Trainer counts them; `images` is None for a stream."""
    if arguments.max_steps > 0 or images is None:
        return arguments.max_steps
    batches = images // (arguments.per_device_train_batch_size * arguments.world_size)
    per_epoch = -(-batches // arguments.gradient_accumulation_steps)
    return int(per_epoch * arguments.num_train_epochs)
