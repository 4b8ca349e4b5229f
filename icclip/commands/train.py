"""`icclip train`, and its options for whatever else asks for a run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import typer  # noqa: TC002 # it reads the annotations at run time

from icclip.commands import options as o
from icclip.config import TrainConfig
from icclip.console import Reporter


def requested(
    context: typer.Context,
    model: o.Model = None, dataset: o.Dataset = None, output_dir: o.RunDirectory = None, config: o.ConfigFile = None,
    epochs: o.Epochs = None, max_steps: o.MaxSteps = None, lr: o.LearningRate = None, train_bs: o.TrainBatch = None,
    micro_batch: o.MicroBatch = None,
    eval_bs: o.EvalBatch = None, grad_accum: o.Accumulation = None, warmup_ratio: o.Warmup = None,
    weight_decay: o.WeightDecay = None, scheduler: o.Scheduler = None, image_resize: o.ImageResize = None,
    tokenizer: o.Tokenizer = None, fp16: o.Fp16 = False, bf16: o.Bf16 = False, grad_ckpt: o.Checkpointing = None,
    fsdp: o.Fsdp = None,
    seed: o.Seed = None, eval_every: o.EvalEvery = None, save_every_steps: o.SaveEvery = None,
    guard: o.Guard = None, patience: o.Patience = None, logging_steps: o.LoggingSteps = None,
    report_to: o.ReportTo = None, workers: o.Workers = None, cache_images: o.CacheImages = None,
    duplicates: o.Duplicates = None, near_duplicates: o.NearDuplicates = None,
    device: o.Device = None, resume: o.Resume = None, overwrite: o.Overwrite = None, setting: o.Set = None,
    revision: o.Revision = None, image_column: o.ImageColumn = None, caption_column: o.CaptionColumn = None,
    dataset_revision: o.DatasetRevision = None, val_fraction: o.ValFraction = None, split_seed: o.SplitSeed = None,
    streaming: o.Streaming = None, on_bad_image: o.OnBadImage = None,
    image_root: o.ImageRoot = None, download: o.Download = None, template: o.Template = None,
    allow_outside_root: o.AllowOutsideRoot = None, trust_remote_code: o.TrustRemoteCode = None,
    freeze: o.Freeze = None, freeze_blocks: o.FreezeBlocks = None, layer_decay: o.LayerDecay = None,
    vision_lr: o.VisionRate = None, text_lr: o.TextRate = None, lora_rank: o.LoraRank = None,
    lora_alpha: o.LoraAlpha = None, lora_dropout: o.LoraDropout = None, lora_targets: o.LoraTargets = None,
    ema: o.Ema = None, captions: o.Captions = None, augment: o.Augment = None,
) -> TrainConfig:  # fmt: skip
    """What the options of `icclip train` ask for, complete and checked."""
    from icclip.training.request import listed, settings, train_config

    data = {
        "image_column": image_column, "caption_column": caption_column, "revision": dataset_revision,
        "val_fraction": val_fraction, "seed": split_seed, "streaming": streaming, "on_bad_image": on_bad_image,
        "image_root": image_root, "download": download, "template": template,
        "allow_outside_root": allow_outside_root, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    model_options = {
        "revision": revision, "tokenizer": tokenizer, "image_resize": image_resize, "seed": seed,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    gentle = {
        "freeze": freeze, "freeze_blocks": freeze_blocks, "layer_decay": layer_decay, "vision_lr": vision_lr,
        "text_lr": text_lr, "ema": ema,
    }  # fmt: skip
    lora = {"rank": lora_rank, "alpha": lora_alpha, "dropout": lora_dropout, "targets": listed(lora_targets)}
    said = {
        "model": model_options, "data": data, "output_dir": output_dir, "epochs": epochs, "max_steps": max_steps,
        "lr": lr, "train_bs": train_bs, "micro_batch": micro_batch, "eval_bs": eval_bs, "grad_accum": grad_accum,
        "warmup_ratio": warmup_ratio,
        "weight_decay": weight_decay, "scheduler": scheduler, "precision": o.precision(fp16=fp16, bf16=bf16),
        "grad_ckpt": grad_ckpt, "fsdp": fsdp, "seed": seed, "eval_every": eval_every, "logging_steps": logging_steps,
        "guard": guard, "patience": patience, "save_every_steps": save_every_steps,
        "report_to": listed(report_to), "workers": workers, "cache_images": cache_images, "device": device,
        "resume": resume, "overwrite": overwrite, "captions": captions, "augment": augment, "gentle": gentle,
        "duplicates": duplicates, "near_duplicates": near_duplicates, "lora": lora,
        "training_args": settings(setting or ()),
    }  # fmt: skip
    return train_config(context.find_root().obj, config, model, dataset, said)


def with_train_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options of `icclip train` beside its own, and a function that says what they ask for.

    The function takes values for options that the user did not give.
    """
    options = inspect.signature(requested, eval_str=True).parameters
    own = {name: one for name, one in inspect.signature(command, eval_str=True).parameters.items() if name != "request"}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        mine = {name: values[name] if name in options else values.pop(name) for name in own}

        def request(**defaults: Any) -> TrainConfig:
            said = {name: value for name, value in values.items() if value is not None}
            return requested(**{**defaults, **said})

        command(request, **mine)

    together = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in {**options, **own}.values()]
    run.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined] # what Typer reads
    return run


@with_train_options
def train(request: Callable[..., TrainConfig], context: typer.Context, *, json: o.Json = False) -> None:
    """Fine-tune a model on captioned images, keep the best checkpoint, and measure it."""
    config = request()
    # After the request is known to be good: importing torch takes seconds.
    from icclip.training.run import train as run

    reporter = Reporter.for_this_process(json=json)
    result = run(config, context.obj, reporter)
    reporter.result(result.to_mapping(), result.table())
    if config.guard == "on":
        result.raise_if_no_better()
