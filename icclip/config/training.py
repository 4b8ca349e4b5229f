"""The configuration of `icclip train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from icclip.config.base import Config
from icclip.config.data import DatasetConfig
from icclip.config.declare import (
    BATCH,
    DATA,
    LOGGING,
    MODEL_AND_DATA,
    PRECISION,
    REQUIRED,
    RUN,
    SCHEDULE,
    nested,
    option,
)
from icclip.config.encoder import CORES, DEVICE, GPU, WORKERS, Precision
from icclip.config.gentle import GentleConfig, LoraConfig
from icclip.config.model import ModelConfig
from icclip.config.recipes import RecipeName
from icclip.identity import identity

CaptionPolicy = Literal["random", "all", "round-robin"]
Augmentation = Literal["off", "light"]
CacheMode = Literal["auto", "on", "off"]
LossFamily = Literal["softmax", "sigmoid"]
DuplicatePolicy = Literal["mask", "soft", "off"]

MAX_DISTANCE = 16
"""The largest distance, a quarter of a hash's bits; unrelated images differ in half of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Config):
    """One training run; the defaults are those of the seed project, except for gradient accumulation."""

    model: ModelConfig = nested()
    data: DatasetConfig = nested()
    output_dir: Path = option(
        "Directory that the run writes its model and records to.", REQUIRED, panel=MODEL_AND_DATA,
        flags=("--output-dir", "-o"), metavar="DIR", unset="runs/MODEL-DATASET", resume="free", replaces=("output_dir",),
    )  # fmt: skip
    recipe: RecipeName | None = option(
        "Take the options of a recipe. Options that are given explicitly win over it.", None, panel=SCHEDULE,
        unset="the defaults", resume="fixed",
    )  # fmt: skip
    epochs: int = option(
        "Number of passes over the training split.", 5, panel=SCHEDULE, metavar="N", at_least=1, resume="extends",
        replaces=("num_train_epochs",),
    )  # fmt: skip
    max_steps: int | None = option(
        "Stop after this many optimizer steps.", None, panel=SCHEDULE, metavar="N", at_least=1,
        unset="all epochs are run", resume="extends", replaces=("max_steps",),
    )  # fmt: skip
    lr: float = option(
        "Peak learning rate.", 1e-5, panel=SCHEDULE, metavar="RATE", at_least=0, unset="1e-05, or that of the preset",
        replaces=("learning_rate",),
        resume="fixed",
    )  # fmt: skip
    warmup_ratio: float = option(
        "Share of the steps over which the learning rate rises to its peak.", 0.05, panel=SCHEDULE,
        metavar="FRACTION", at_least=0, below=1, replaces=("warmup_ratio", "warmup_steps"),
        resume="fixed",
    )  # fmt: skip
    scheduler: str = option(
        "How the learning rate falls after its peak, as transformers names it: cosine, linear, constant...",
        "cosine", panel=SCHEDULE, metavar="NAME",
        resume="fixed",
    )  # fmt: skip
    weight_decay: float = option(
        "Weight decay of the weight matrices; biases, norms and the temperature have none.",
        0.1, panel=SCHEDULE, metavar="DECAY", at_least=0, replaces=("weight_decay",),
        resume="fixed",
    )  # fmt: skip
    train_bs: int = option(
        "Images per process and step; each positive meets all other pairs of the step as negatives.",
        64, panel=BATCH, flags=("--train-bs", "--batch-size"), metavar="N", at_least=1,
        replaces=("per_device_train_batch_size",),
        resume="free",
    )  # fmt: skip
    micro_batch: int | None = option(
        "Encode a batch in parts of this many images: less memory and the same gradients, at the price of "
        "encoding twice (gradient cache).",
        None, panel=BATCH, metavar="N", at_least=1, unset="the whole batch at once",
        resume="free",
    )  # fmt: skip
    grad_accum: int = option(
        "Number of batches whose gradients are added up for one step; this adds no negatives, --micro-batch does.",
        1, panel=BATCH, metavar="N", at_least=1, replaces=("gradient_accumulation_steps",),
        resume="fixed",
    )  # fmt: skip
    grad_ckpt: bool = option(
        "Save memory with gradient checkpointing, which is slower.", False, panel=BATCH,
        replaces=("gradient_checkpointing", "activation_checkpointing"),
        resume="free",
    )  # fmt: skip
    eval_bs: int = option(
        "Number of images that are encoded at once when the model is measured.", 128, panel=BATCH, metavar="N", at_least=1,
        replaces=("per_device_eval_batch_size",),
        resume="free",
    )  # fmt: skip
    cache_images: CacheMode = option(
        "Keep the resized images on disk (in ICCLIP_CACHE); auto does so if there is room and each image is used twice.",
        "auto", panel=BATCH,
        resume="free",
    )  # fmt: skip
    cache_features: CacheMode = option(
        "Encode what a frozen tower reads once, and keep its pooled features on disk (in ICCLIP_CACHE); auto does so if "
        "there is room and each is used twice.",
        "auto", panel=BATCH,
        resume="free",
    )  # fmt: skip
    precision: Precision = option(
        "Precision of the autocast over float32 weights: fp32, fp16 (needs a GPU) or bf16.", "fp32",
        panel=PRECISION, metavar="PRECISION",
        switches=("fp32", "fp16", "bf16"), replaces=("fp16", "bf16"),
    )  # fmt: skip
    device: str | None = option(
        DEVICE, None, panel=PRECISION, metavar="DEVICE", unset=GPU, resume="free", replaces=("use_cpu",)
    )
    workers: int | None = option(
        WORKERS, None, panel=PRECISION, metavar="N", at_least=0, unset=CORES, resume="free",
        replaces=("dataloader_num_workers",),
    )  # fmt: skip
    fsdp: bool = option(
        "Shard the model across processes (FSDP), for models too large for one GPU.", False, panel=PRECISION,
        resume="free", replaces=("fsdp", "fsdp_config", "deepspeed"),
    )  # fmt: skip
    timeout: float = option(
        "Seconds that several processes wait for one of them before the run ends and says where each one is; counted "
        "from the first step on, and while they start.",
        600.0, panel=PRECISION, metavar="SECONDS", above=0, resume="free", replaces=("ddp_timeout",),
    )  # fmt: skip
    seed: int = option(
        "Seed of the initial weights, of the order of the images, and of the choice of captions.",
        42, panel=SCHEDULE, at_least=0, replaces=("seed",),
        resume="fixed",
    )  # fmt: skip
    eval_every: int = option(
        "Number of epochs between measurements on the validation split.", 1, panel=SCHEDULE, metavar="N", at_least=1,
        replaces=("eval_strategy",),
    )  # fmt: skip
    guard: Literal["on", "off"] = option(
        "Stop a run that makes the model worse than it was, and exit with code 3 unless it is proven better.", "on", panel=SCHEDULE,
        resume="extends",
    )  # fmt: skip
    patience: int = option(
        "Number of measurements in a row below that of step 0 after which the guard stops the run.",
        3, panel=SCHEDULE, metavar="N", at_least=1, resume="extends",
    )  # fmt: skip
    save_every_steps: int | None = option(
        "Number of steps between additional checkpoints, so that a killed run loses less than an epoch.",
        None, panel=RUN, metavar="N", at_least=1, unset="one checkpoint per measurement",
    )  # fmt: skip
    save_total_limit: int = option(
        "Number of measured checkpoints that are kept; the best is always among them.", 2, panel=RUN, metavar="N",
        at_least=1,
    )  # fmt: skip
    logging_steps: int = option(
        "Number of steps between logged losses.", 50, panel=LOGGING, metavar="N", at_least=1,
        replaces=("logging_steps",),
    )  # fmt: skip
    report_to: tuple[str, ...] = option(
        "Trackers to log to: tensorboard, wandb, mlflow... or none; may be repeated.", ("tensorboard",),
        panel=LOGGING, metavar="NAMES", separated=True, resume="free", replaces=("report_to",),
    )  # fmt: skip
    profile: int | None = option(
        "Number of steps, after the first, that torch's profiler traces into trace.json, for https://ui.perfetto.dev.",
        None, panel=LOGGING, metavar="STEPS", at_least=1, unset="no trace", resume="free",
    )  # fmt: skip
    overwrite: bool = option("Replace the run that is in the directory.", False, panel=RUN, resume="free")
    resume: bool = option(
        "Continue from the last complete checkpoint in the directory.", False, panel=RUN, resume="free",
        replaces=("resume_from_checkpoint",),
    )  # fmt: skip
    captions: CaptionPolicy = option(
        "Captions of an image that an epoch shows: random (one at random), all, or round-robin (the next in turn).",
        "random", panel=DATA, metavar="POLICY",
        resume="fixed",
    )  # fmt: skip
    augment: Augmentation = option(
        "Augment the images: light crops, tints and mirrors them, and never mirrors if a caption says left or right.",
        "off", panel=DATA,
        resume="fixed",
    )  # fmt: skip
    loss: LossFamily | None = option(
        "Contrastive loss: softmax (that of CLIP) or sigmoid (that of SigLIP).", None, panel=SCHEDULE,
        unset="the one that the model was trained with", resume="fixed",
    )  # fmt: skip
    duplicates: DuplicatePolicy = option(
        "How pairs that share a caption or an image are treated: mask (not as negatives of each other), "
        "soft (as positives) or off (as negatives).",
        "mask", panel=DATA, metavar="POLICY",
        resume="fixed",
    )  # fmt: skip
    near_duplicates: int | None = option(
        "Also treat images as duplicates when their 64-bit hashes differ in at most N bits.",
        None, panel=DATA, metavar="N", at_least=0, at_most=MAX_DISTANCE, unset="only identical files",
        resume="fixed",
    )  # fmt: skip
    gentle: GentleConfig = nested(GentleConfig, resume="fixed")
    lora: LoraConfig = nested(LoraConfig, resume="fixed")
    training_args: Mapping[str, Any] = option(
        "Any other field of transformers' TrainingArguments; may be repeated.", dict, panel=RUN, flags=("--set",),
        metavar="NAME=VALUE",
        resume="fixed",
    )  # fmt: skip

    def problems(self) -> list[str]:
        """Report options that exclude each other."""
        found = []
        if self.train_bs == 1 and identity().size == 1:
            found.append("{train_bs} is 1: it must be at least 2, since a pair alone has no negatives")
        if self.micro_batch is not None and self.micro_batch > self.train_bs:
            found.append(
                f"{{micro_batch}} is {self.micro_batch}: it must be at most {{train_bs}}, which is {self.train_bs}"
            )
        return found + [problem for problem, there in self._exclusions().items() if there]

    def _exclusions(self) -> dict[str, bool]:
        """Combinations that do not work, and whether each one is present."""
        streaming, near = self.data.streaming, self.near_duplicates is not None
        return {
            "fp16 cannot be used with --fsdp, because it scales the loss by what one process sees: use --bf16": (
                self.fsdp and self.precision == "fp16"
            ),
            "{overwrite} and {resume} exclude each other: choose one": self.overwrite and self.resume,
            "streaming data has no known length: give --max-steps": streaming and self.max_steps is None,
            "{captions} is 'all', which streaming data does not offer: choose random or round-robin": (
                streaming and self.captions == "all"
            ),
            "streaming data cannot be cached: leave out --cache-images": streaming and self.cache_images == "on",
            "streaming data has no features that could be kept: leave out --cache-features": (
                streaming and self.cache_features == "on"
            ),
            "{cache_features} is 'on', and --fsdp shards frozen towers too: leave out one of them": (
                self.fsdp and self.cache_features == "on"
            ),
            "images of streaming data cannot be compared: leave out --near-duplicates": streaming and near,
            "{near_duplicates} has no effect when {duplicates} is 'off': leave out one of them": (
                near and self.duplicates == "off"
            ),
            "{near_duplicates} has no effect where a caption is right only for its own image: leave it out, or "
            "--relevance pair": near and self.data.relevance == "pair",
            "augmentation needs whole images, and the cache keeps resized ones: leave out --augment or "
            "--cache-images": self.augment != "off" and self.cache_images == "on",
        }
