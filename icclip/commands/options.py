"""The options that commands share, each written once.

Defaults stand in brackets at the end of a help text; before a letter the bracket is escaped, or rich
would take it for a style.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from icclip.config import Precision

Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset", "-d", help="A dataset's name, name@path, or a path: parquet or image folder, .jsonl, .csv."
    ),
]
ImageColumn = Annotated[str | None, typer.Option(help="Column that holds the image (hub, jsonl, csv).")]
CaptionColumn = Annotated[str | None, typer.Option(help="Column that holds the caption or captions.")]
DatasetRevision = Annotated[str | None, typer.Option(help="Revision of a hub dataset.")]
ValFraction = Annotated[
    float | None, typer.Option(help="Share of the images that becomes a split which the source lacks. [0.1]")
]
OnBadImage = Annotated[
    Literal["fail", "skip"] | None, typer.Option(help="An image that cannot be read: stop, or skip and count. \\[fail]")
]
AllowOutsideRoot = Annotated[
    bool | None, typer.Option("--allow-outside-root", help="Let a manifest name files outside its own directory.")
]
ImageRoot = Annotated[str | None, typer.Option(help="Folder that image names start from. \\[the manifest's]")]
Download = Annotated[bool | None, typer.Option("--download", help="Fetch images that are named by URL, into the cache.")]
Template = Annotated[str | None, typer.Option(help="Caption of a class folder: 'a photo of a {}'. \\[{}]")]
TrustRemoteCode = Annotated[
    bool | None, typer.Option("--trust-remote-code", help="Run code that the model's repository contains.")
]
Workers = Annotated[int | None, typer.Option(help="Processes that load images. \\[from the cores]")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. \\[the GPU where there is one]")]
Provider = Annotated[
    Literal["tensorrt", "cuda", "cpu"] | None,
    typer.Option(help="What runs a bundle. \\[the first of these that works]"),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of a bundle. \\[the physical cores]")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="float16 autocast over float32 weights (CUDA).")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="bfloat16 autocast over float32 weights.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A TOML file with the run's options, or the icclip.json of a run.")
]


def precision(*, fp16: bool, bf16: bool, fp32: bool = False) -> Precision | None:
    """The flags as one value; None where none is given, and two at once are refused."""
    flags: dict[Precision, bool] = {"fp16": fp16, "bf16": bf16, "fp32": fp32}
    chosen = [name for name, given in flags.items() if given]
    if len(chosen) > 1:
        raise typer.BadParameter(f"--{chosen[0]} and --{chosen[1]} exclude each other: choose one")
    return chosen[0] if chosen else None


# Of `train` ---------------------------------------------------------------------------------------

Number = int | None
Real = float | None
Text = str | None
Texts = list[str] | None
Flag = bool | None

Model = Annotated[Text, typer.Option("--model", "--model-name", "-m", help="A hub id, a directory or a preset.")]
RunDirectory = Annotated[Path | None, typer.Option("--output-dir", "-o", help="\\[runs/<model>-<dataset>]")]
Epochs = Annotated[Number, typer.Option(help="Passes over the training split. [5]")]
MaxSteps = Annotated[Number, typer.Option(help="Stop after so many optimizer steps.")]
LearningRate = Annotated[Real, typer.Option(help="The highest. [1e-5, or the preset's]")]
TrainBatch = Annotated[Number, typer.Option("--train-bs", "--batch-size", help="Images per process and step. [64]")]
MicroBatch = Annotated[
    Number, typer.Option(help="Images of a batch encoded at once: the memory of these, the gradients of all. \\[all]")
]
EvalBatch = Annotated[Number, typer.Option(help="Images encoded at once. [128]")]
Accumulation = Annotated[Number, typer.Option(help="Batches per step; adds no negatives. [1]")]
Warmup = Annotated[Real, typer.Option(help="Share of the steps in which the rate rises. [0.05]")]
WeightDecay = Annotated[Real, typer.Option(help="Of the matrices, nothing else. [0.1]")]
Scheduler = Annotated[Text, typer.Option(help="As transformers names them. \\[cosine]")]
ImageResize = Annotated[Number, typer.Option(help="Side in pixels; saved with the processor.")]
Tokenizer = Annotated[Text, typer.Option(help="For presets: a directory or hub id that has one.")]
Fsdp = Annotated[
    Flag, typer.Option("--fsdp", help="Divide the model among the processes: for one that fits into none.")
]
Checkpointing = Annotated[Flag, typer.Option("--grad-ckpt", help="Gradient checkpointing: slower, less memory.")]
Seed = Annotated[Number, typer.Option(help="Of initial weights, order and captions. [42]")]
EvalEvery = Annotated[Number, typer.Option(help="Epochs between evaluations. [1]")]
Guard = Annotated[
    Literal["on", "off"] | None, typer.Option(help="Stop, and exit with 3, where training does harm. \\[on]")
]
Patience = Annotated[Number, typer.Option(help="Evaluations in a row below step 0 that stop. [3]")]
SaveEvery = Annotated[Number, typer.Option(help="Steps between checkpoints inside epochs. \\[none]")]
LoggingSteps = Annotated[Number, typer.Option(help="Steps between logged losses. [50]")]
ReportTo = Annotated[Texts, typer.Option(help="tensorboard, wandb, mlflow, ... or none. \\[tensorboard]")]
Resume = Annotated[Flag, typer.Option("--resume", help="Go on from the last complete checkpoint.")]
Overwrite = Annotated[Flag, typer.Option("--overwrite", help="Replace the run that is in the directory.")]
Set = Annotated[Texts, typer.Option("--set", help="NAME=VALUE of any other TrainingArguments field.")]
Duplicates = Annotated[
    Literal["mask", "soft", "off"] | None,
    typer.Option(help="Pairs with the same caption or image: no negatives, positives too, or negatives. \\[mask]"),
]
NearDuplicates = Annotated[
    Number, typer.Option(help="Also take images for the same whose hashes differ in so many bits (of 64).")
]
CacheImages = Annotated[
    Literal["auto", "on", "off"] | None,
    typer.Option(help="Keep resized images on the disk (ICCLIP_CACHE). \\[auto: where there is room]"),
]
Revision = Annotated[Text, typer.Option(help="Revision of a hub model.")]
SplitSeed = Annotated[Number, typer.Option(help="Of made splits and generated images. [42]")]
Streaming = Annotated[Flag, typer.Option("--streaming", help="Read the data as it comes; needs --max-steps.")]

# Of `train`, gentle fine-tuning ---------------------------------------------------------------------

GENTLE = "Gentle fine-tuning"

Freeze = Annotated[
    Literal["vision", "text"] | None,
    typer.Option(help="A tower that does not train.", rich_help_panel=GENTLE),
]
FreezeBlocks = Annotated[
    Number, typer.Option(help="First blocks of each tower, with the embeddings, that do not train. [0]",
                         rich_help_panel=GENTLE),
]  # fmt: skip
LayerDecay = Annotated[
    Real, typer.Option(help="A layer's rate as a share of the one above: 0.75. [1]", rich_help_panel=GENTLE)
]
VisionRate = Annotated[Real, typer.Option("--vision-lr", help="Of the vision tower. \\[--lr]", rich_help_panel=GENTLE)]
TextRate = Annotated[Real, typer.Option("--text-lr", help="Of the text tower. \\[--lr]", rich_help_panel=GENTLE)]
LoraRank = Annotated[
    Number, typer.Option(help="Train adapters of this rank; saved merged. Wants a larger --lr.", rich_help_panel=GENTLE)
]
LoraAlpha = Annotated[
    Real, typer.Option(help="Scale of the adapters times the rank. \\[2 x rank]", rich_help_panel=GENTLE)
]
LoraDropout = Annotated[Real, typer.Option(help="Before the adapters. [0]", rich_help_panel=GENTLE)]
LoraTargets = Annotated[
    Texts, typer.Option(help="Layers of the blocks: q_proj,v_proj. \\[all linear ones]", rich_help_panel=GENTLE)
]
Ema = Annotated[
    Real,
    typer.Option("--ema", help="Measure and save averaged weights; decay per step: 0.999.", rich_help_panel=GENTLE),
]
Captions = Annotated[
    Literal["random", "all", "round-robin"] | None,
    typer.Option(help="Of an image in an epoch: one by chance, every one, one in turn. \\[random]",
                 rich_help_panel=GENTLE),
]  # fmt: skip
Augment = Annotated[
    Literal["off", "light"] | None,
    typer.Option(help="Crop, tint; mirror unless a caption says left or right. \\[off]", rich_help_panel=GENTLE),
]
