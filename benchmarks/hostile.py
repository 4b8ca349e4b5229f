"""Hostile model directories, processors, datasets, bundles and checkpoints, each run through the command line.

    python -m benchmarks.hostile [--only GROUP] [--every N] [--real N]

A sound subject of each kind is made, and then damaged systematically: every field that decides something takes
every value that somebody could write there, every file is truncated, emptied, exchanged, made a pipe or a device.
Each case runs `icclip` in a process of its own, forked after the imports, with a limit on its memory and its time;
some of them run again as real commands. Counted as faults are tracebacks, exit codes other than 0, 2 and 3, more
than 30 seconds of the processor or 120 by the clock, and more than 1 GB. (What is damaged in a way that does not matter ends with exit code 0.)

Writes hostile.json.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("tests", ".", "plugins", "export")]

import numpy as np  # noqa: E402  the paths come first

from benchmarks.support.timing import environment, show  # noqa: E402
from icclip.files import atomic_write_json  # noqa: E402

GB = 1 << 30
SECONDS, STOP_AFTER = 30, 120
ROOM = 3 * GB
"""Address space beyond that of the imports."""
REFUSED = (2, 3)
GROUPS = ("model", "processor", "tokenizer", "bundle", "golden", "dataset", "checkpoint")

Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One hostile input, and what is done with it."""

    group: str
    name: str
    subject: str
    damage: Damage
    arguments: tuple[str, ...]
    """Of icclip; `{}` stands for the damaged copy, `{out}` for a free path."""


# Values -------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = ("text", -1, 10**9, 0.5, [1, 2, 3], {"a": 1}, None)
FIELDS = {
    "clip": (
        "model_type", "architectures", "projection_dim", "logit_scale_init_value", "text_config", "vision_config",
        *(f"text_config.{name}" for name in ("hidden_size", "vocab_size", "num_hidden_layers", "max_position_embeddings", "eos_token_id", "layer_norm_eps", "hidden_act")),
        *(f"vision_config.{name}" for name in ("hidden_size", "image_size", "patch_size", "num_attention_heads", "num_channels", "intermediate_size", "attention_dropout")),
    ),
    "siglip": ("vision_config.vision_use_head", "vision_config.image_size", "text_config.projection_size", "text_config.num_attention_heads"),
}  # fmt: skip
PROCESSOR = (
    "image_processor_type", "size", "size.shortest_edge", "crop_size", "crop_size.height", "do_resize", "do_center_crop",
    "do_rescale", "do_normalize", "resample", "rescale_factor", "image_mean", "image_std", "do_convert_rgb",
)  # fmt: skip
TOKENIZER = ("tokenizer_class", "model_max_length", "pad_token", "eos_token", "padding_side", "added_tokens_decoder")
MANIFEST = (
    "format", "kind", "loss", "embedding_dim", "logit_scale", "logit_bias", "text.max_length", "text.pad_id", "text.padding",
    "text.lowercase", "image.height", "image.shortest_edge", "image.crop_height", "image.resample", "image.rescale_factor",
    "image.mean", "image.std", "vision_io", "text_io.input", "precisions", "precisions.fp32", "precisions.fp32.vision",
    "files", "source", "versions", "data",
)  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000


def with_value(file: str, key: str, value: Any, after: Callable[[Path], None] = lambda _: None) -> Damage:
    """A JSON file with one field changed; a key that leads nowhere is made."""

    def damage(root: Path) -> None:
        path = root / file
        values = json.loads(path.read_text(encoding="utf-8"))
        *parents, last = key.split(".")
        table = values
        for parent in parents:
            table = (
                table.setdefault(parent, {})
                if isinstance(table.get(parent), dict)
                else table.__setitem__(parent, {}) or table[parent]
            )
        table[last] = copy.deepcopy(value)
        path.write_text(json.dumps(values), encoding="utf-8")
        after(root)

    return damage


def with_content(
    file: str, content: bytes | Callable[[bytes], bytes] | None, after: Callable[[Path], None] = lambda _: None
) -> Damage:
    """A file with other content; None removes it."""

    def damage(root: Path) -> None:
        path = root / file
        before = path.read_bytes() if path.is_file() else b""
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content(before) if callable(content) else content)
        after(root)

    return damage


def with_special(file: str, kind: str) -> Damage:
    """A pipe, a device, a directory, a link to nowhere or to itself in the place of a file."""

    def damage(root: Path) -> None:
        path = root / file
        path.unlink(missing_ok=True)
        {
            "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "directory": path.mkdir,
            "nowhere": lambda: path.symlink_to(root / "missing"), "itself": lambda: path.symlink_to(path),
        }[kind]()  # fmt: skip

    return damage


SPECIALS = ("pipe", "device", "directory", "nowhere", "itself")
CONTENTS: Mapping[str, Any] = {
    "missing": None, "empty": b"", "zeroed": lambda b: bytes(len(b)), "truncated": lambda b: b[: len(b) // 2],
    "text": b"no such thing", "deep": DEEP.encode(), "list": b"[1, 2]", "number": b"7", "not UTF-8": b"\xff\xfe\x00\x01",
    "enormous": b'{"a": "' + b"x" * (20 << 20) + b'"}',
}  # fmt: skip


def resealed(root: Path) -> None:
    """A manifest whose digest and hashes fit what it says now: who can change a bundle can do that, too."""
    from icclip.bundles.manifest import digest_of, record

    path = root / "icclip.json"
    with contextlib.suppress(Exception):
        values = json.loads(path.read_text(encoding="utf-8"))
        for name in values["files"]:
            if (root / name).is_file():
                found = record(root / name)
                values["files"][name] = {"sha256": found.sha256, "size": found.size}
        values["digest"] = digest_of(values)
        path.write_text(json.dumps(values), encoding="utf-8")


# Cases --------------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    """Every group's."""
    yield from model_cases()
    yield from processor_cases()
    yield from file_cases()
    yield from bundle_cases()
    yield from golden_cases()
    yield from dataset_cases()
    yield from checkpoint_cases()


EMBED = ("embed", "{}", "{image}", "--output", "{out}.npy")
ON_CPU = (*EMBED, "--device", "cpu", "--workers", "0")


def model_cases() -> Iterator[Case]:
    """Directories of transformers models: configuration, weights, processor, tokenizer."""
    for family, fields in FIELDS.items():
        for key in fields:
            for value in VALUES:
                yield Case(
                    "model",
                    f"{family} config.json {key} = {value!r}",
                    family,
                    with_value("config.json", key, value),
                    ON_CPU,
                )
    for key, value in {
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}, "_attn_implementation": "flash_attention_2",
        "attn_implementation": "flash_attention_2", "auto_map": {"AutoModel": "evil.Model"}, "dtype": "float7", "torch_dtype": "float7",
    }.items():  # fmt: skip
        yield Case(
            "model", f"clip config.json {key} = {value!r}", "clip", with_value("config.json", key, value), ON_CPU
        )
    yield Case("model", "an adapter", "clip", _adapter, ON_CPU)
    yield Case("model", "weights as a pickle", "clip", _pickle, ON_CPU)
    yield Case("model", "an index that names files elsewhere", "clip", _escaping_index, ON_CPU)
    large = with_content("model.safetensors", (10**15).to_bytes(8, "little") + b"{}")
    yield Case("model", "a header larger than its file", "clip", large, ON_CPU)


def processor_cases() -> Iterator[Case]:
    """What prepares images and texts for a model."""
    for key in PROCESSOR:
        for value in VALUES:
            yield Case(
                "processor",
                f"preprocessor_config.json {key} = {value!r}",
                "clip",
                with_value("preprocessor_config.json", key, value),
                ON_CPU,
            )
    for key, value in {
        "resample": 99,
        "size": {"shortest_edge": 64},
        "image_std": [0, 0, 0],
        "crop_size": {"height": 10**9, "width": 10**9},
    }.items():
        yield Case(
            "processor",
            f"preprocessor_config.json {key} = {value!r}",
            "clip",
            with_value("preprocessor_config.json", key, value),
            ON_CPU,
        )
    for key in TOKENIZER:
        for value in VALUES:
            yield Case(
                "tokenizer",
                f"tokenizer_config.json {key} = {value!r}",
                "clip",
                with_value("tokenizer_config.json", key, value),
                ON_CPU,
            )


def file_cases() -> Iterator[Case]:
    """Each file of a model directory, with other content and as something else than a file."""
    for file, group in {"config.json": "model", "model.safetensors": "model", "preprocessor_config.json": "processor", "tokenizer.json": "tokenizer", "tokenizer_config.json": "tokenizer", "special_tokens_map.json": "tokenizer"}.items():  # fmt: skip
        for name, content in CONTENTS.items():
            yield Case(group, f"{file} {name}", "clip", with_content(file, content), ON_CPU)
        for kind in SPECIALS:
            yield Case(group, f"{file} is a {kind}", "clip", with_special(file, kind), ON_CPU)
    for name, change in TOKENIZERS.items():
        yield Case("tokenizer", f"tokenizer.json {name}", "clip", _tokenizer(change), ON_CPU)


def _expand(values: dict[str, Any]) -> None:
    values["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 100}] * 5,
    }


def _one_large(values: dict[str, Any]) -> None:
    values["normalizer"] = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10_000_000}


def _backtrack(values: dict[str, Any]) -> None:
    values["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


def _many_specials(values: dict[str, Any]) -> None:
    values["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}] * 1000 + [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [1], "tokens": ["<|endoftext|>"]}},
    }  # fmt: skip


TOKENIZERS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "expands": _expand, "replaces by ten million characters": _one_large, "backtracks": _backtrack,
    "adds a thousand tokens": _many_specials, "without model": lambda v: v.pop("model"),
    "unknown model": lambda v: v.update(model={"type": "Evil"}), "ids beyond the table": lambda v: v["model"]["vocab"].update(evil=10**6),
    "negative ids": lambda v: v["model"]["vocab"].update(evil=-1), "unknown normalizer": lambda v: v.update(normalizer={"type": "Evil"}),
    "broken expression": lambda v: v.update(normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
    "without post-processor": lambda v: v.update(post_processor=None), "without vocabulary": lambda v: v["model"].update(vocab={}),
    "added tokens of other types": lambda v: v.update(added_tokens=[1, 2]), "truncation of 0": lambda v: v.update(truncation={"max_length": 0, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}),
}  # fmt: skip


def _tokenizer(change: Callable[[dict[str, Any]], Any], after: Callable[[Path], None] = lambda _: None) -> Damage:
    def damage(root: Path) -> None:
        path = root / "tokenizer.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        change(values)
        path.write_text(json.dumps(values), encoding="utf-8")
        after(root)

    return damage


def _adapter(root: Path) -> None:
    (root / "config.json").unlink()
    (root / "model.safetensors").rename(root / "adapter_model.safetensors")
    (root / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "openai/clip-vit-base-patch16"}'
    )


def _pickle(root: Path) -> None:
    (root / "model.safetensors").rename(root / "pytorch_model.bin")


def _escaping_index(root: Path) -> None:
    (root / "model.safetensors").unlink()
    (root / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"logit_scale": "../../secret.safetensors"}})
    )


ON_BUNDLE = (*EMBED, "--provider", "cpu", "--threads", "1")
VERIFY = ("verify", "{}", "--provider", "cpu", "--threads", "1")


def bundle_cases() -> Iterator[Case]:
    """Exported bundles whose digest and hashes fit what they say."""
    for key in MANIFEST:
        for value in VALUES:
            yield Case(
                "bundle",
                f"icclip.json {key} = {value!r}",
                "bundle",
                with_value("icclip.json", key, value, resealed),
                ON_BUNDLE,
            )
    for key, value in {
        "image.mean": [0.5],
        "image.std": [0.0] * 3,
        "precisions.fp32.vision": "../../secret",
        "text.max_length": 10**6,
        "image.crop_height": 4000,
    }.items():
        for command in (ON_BUNDLE, VERIFY):
            yield Case(
                "bundle",
                f"{command[0]}: icclip.json {key} = {value!r}",
                "bundle",
                with_value("icclip.json", key, value, resealed),
                command,
            )
    yield Case(
        "bundle",
        "a file's name is too long",
        "bundle",
        with_value("icclip.json", "files", {"x" * 5000: {"sha256": "0", "size": 1}}, resealed),
        VERIFY,
    )
    for file in ("icclip.json", "tokenizer.json", "onnx/vision_model.onnx", "onnx/text_model.onnx"):
        for name, content in CONTENTS.items():
            yield Case("bundle", f"{file} {name}", "bundle", with_content(file, content, resealed), ON_BUNDLE)
        for kind in SPECIALS:
            yield Case("bundle", f"{file} is a {kind}", "bundle", with_special(file, kind), ON_BUNDLE)
    for name, change in TOKENIZERS.items():
        yield Case("bundle", f"tokenizer.json {name}", "bundle", _tokenizer(change, resealed), VERIFY)
    yield Case("bundle", "the towers exchanged", "bundle", _exchanged, ON_BUNDLE)


def _exchanged(root: Path) -> None:
    one, other = root / "onnx/vision_model.onnx", root / "onnx/text_model.onnx"
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    resealed(root)


def _npy(array: np.ndarray, **options: Any) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def golden_cases() -> Iterator[Case]:
    """The golden inputs and the parity record of a bundle, which `verify` reads."""
    objects = _npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)
    huge = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000), }".ljust(117)
        + b"\n"
    )
    arrays = {
        "of objects": objects, "a vector": _npy(np.ones(3, np.float32)), "of texts": _npy(np.array(["a", "b"])), "not finite": _npy(np.full((8, 16), np.nan, np.float32)),
        "of another width": _npy(np.ones((3, 5), np.float32)), "no rows": _npy(np.ones((0, 16), np.float32)), "a scalar": _npy(np.float32(1)), "claims a billion rows": huge, "complex": _npy(np.ones((3, 16), complex)),
    }  # fmt: skip
    for file in ("image_embeds.npy", "text_embeds.npy"):
        for name, content in {**CONTENTS, **arrays}.items():
            yield Case(
                "golden", f"golden/{file} {name}", "bundle", with_content(f"golden/{file}", content, resealed), VERIFY
            )
        for kind in SPECIALS:
            yield Case("golden", f"golden/{file} is a {kind}", "bundle", with_special(f"golden/{file}", kind), VERIFY)
    texts = {
        "numbers": b"[1, 2, 3]",
        "a table": b'{"a": 1}',
        "one text": b'"a dog"',
        "a lone surrogate": b'["\\ud800", "a", "b", "c", "d"]',
        "nested": b'[["a"], ["b"], ["c"], ["d"], ["e"]]',
    }
    scores = {
        "not a table": b"[]",
        "text": b'{"log_scores": "x", "factor": 1}',
        "not finite": b'{"log_scores": [NaN, 1, 1, 1, 1], "factor": 1}',
        "huge factor": b'{"log_scores": [0, 0, 0, 0, 0], "factor": 1e400}',
    }
    for file, contents in {
        "golden/texts.json": texts,
        "golden/scores.json": scores,
        "parity.json": {},
        "golden/000.png": {},
    }.items():
        for name, content in {**CONTENTS, **contents}.items():
            yield Case("golden", f"{file} {name}", "bundle", with_content(file, content, resealed), VERIFY)
    for key in ("format", "results", "reference", "results.0", "n_images", "fingerprint", "seed"):
        for value in VALUES[:6]:
            if key != "results.0":
                yield Case(
                    "golden",
                    f"parity.json {key} = {value!r}",
                    "bundle",
                    with_value("parity.json", key, value, resealed),
                    VERIFY,
                )


INSPECT = ("data", "inspect", "{}")
OF_DATA = (
    "eval",
    "{model}",
    "--dataset",
    "{}",
    "--split",
    "train",
    "--bootstrap",
    "0",
    "--output-dir",
    "{out}",
    "--device",
    "cpu",
    "--workers",
    "0",
)


def dataset_cases() -> Iterator[Case]:
    """Parquet directories, caption files, folders, shards."""
    for name, damage in PARQUET.items():
        for command in (INSPECT, OF_DATA):
            yield Case("dataset", f"{command[0]}: parquet {name}", "parquet", damage, command)
    for name, content in CARDS.items():
        yield Case("dataset", f"dataset card {name}", "parquet", with_content("README.md", content), INSPECT)
    lines = {
        "a path outside": {"image": "../../../../etc/passwd", "caption": "a"}, "an absolute path": {"image": "/etc/passwd", "caption": "a"}, "a URL": {"image": "http://127.0.0.1:9/a.png", "caption": "a"},
        "a device": {"image": "/dev/zero", "caption": "a"}, "a number": {"image": 7, "caption": "a"}, "null": {"image": None, "caption": "a"}, "no caption": {"image": "a.png"}, "a caption of a number": {"image": "a.png", "caption": 7},
        "NUL in a name": {"image": "a\0.png", "caption": "a"}, "a name too long": {"image": "x" * 5000, "caption": "a"}, "a lone surrogate": {"image": "a.png", "caption": "\ud800"}, "nested captions": {"image": "a.png", "captions": [["a"]]},
        "captions of a table": {"image": "a.png", "captions": {"a": {"b": 1}}}, "an empty caption": {"image": "a.png", "caption": " "},
    }  # fmt: skip
    for name, line in lines.items():
        content = "".join(json.dumps(line) + "\n" for _ in range(20))
        for command in (INSPECT, OF_DATA):
            arguments = tuple(one.replace("{}", "{}/captions.jsonl") for one in command)
            yield Case(
                "dataset",
                f"{command[0]}: jsonl {name}",
                "jsonl",
                with_content("captions.jsonl", content.encode()),
                arguments,
            )
    for file in ("captions.jsonl", "captions.csv", "captions.json", "captions.tsv"):
        arguments = tuple(one.replace("{}", f"{{}}/{file}") for one in INSPECT)
        for name, content in CONTENTS.items():
            yield Case("dataset", f"{file} {name}", "jsonl", with_content(file, content), arguments)
        for kind in ("pipe", "device", "directory", "itself"):
            yield Case("dataset", f"{file} is a {kind}", "jsonl", with_special(file, kind), arguments)
    for name, content in IMAGES.items():
        arguments = tuple(one.replace("{}", "{}/captions.jsonl") for one in OF_DATA)
        yield Case(
            "dataset",
            f"an image {name}",
            "jsonl",
            with_content("a.png", content() if callable(content) else content),
            arguments,
        )


def _table(images: list[Any], captions: list[Any], kind: str = "struct") -> Damage:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def damage(root: Path) -> None:
        cells = {
            "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            "string": pa.string(),
            "binary": pa.binary(),
        }[kind]
        table = pa.table({"image": pa.array(images, cells), "caption": pa.array(captions)})
        pq.write_table(table, root / "train.parquet")

    return damage


def _names(name: str | None) -> list[Any]:
    return [{"bytes": None, "path": name}] * 20


PARQUET: Mapping[str, Damage] = {
    "null images": _table([None] * 20, ["a"] * 20), "null cells": _table(_names(None), ["a"] * 20), "null captions": _table(_names("a.png"), [None] * 20),
    "an absolute path": _table(_names("/etc/passwd"), ["a"] * 20), "a path outside": _table(_names("../../../etc/passwd"), ["a"] * 20),
    "a URL": _table(_names("http://127.0.0.1:9/a.png"), ["a"] * 20), "a device": _table(_names("/dev/zero"), ["a"] * 20), "absolute paths as text": _table(["/etc/passwd"] * 20, ["a"] * 20, "string"),
    "URLs as text": _table(["http://127.0.0.1:9/a.png"] * 20, ["a"] * 20, "string"), "file URLs": _table(["file:///etc/passwd"] * 20, ["a"] * 20, "string"), "bytes that are no image": _table([b"nothing"] * 20, ["a"] * 20, "binary"),
    "numbers as captions": _table(_names("a.png"), [1] * 20), "no rows": _table([], []), "a truncated file": with_content("train.parquet", lambda b: b[: len(b) // 2]), "an empty file": with_content("train.parquet", b""),
    "text": with_content("train.parquet", b"nothing"), "a pipe": with_special("train.parquet", "pipe"), "a device as file": with_special("train.parquet", "device"), "a pickle beside": with_content("evil.pkl", b"cos\nsystem\n(S'true'\ntR."),
}  # fmt: skip
CARDS: Mapping[str, bytes] = {
    "that is no YAML": b"---\na: [\n---\n", "with text as configs": b"---\nconfigs: evil\n---\n", "with numbers as data_files": b"---\nconfigs:\n- config_name: default\n  data_files: 7\n---\n",
    "that names files elsewhere": b"---\nconfigs:\n- config_name: default\n  data_files: ../../../etc/*\n---\n", "with other features": b"---\ndataset_info:\n  features:\n  - name: image\n    dtype: int64\n---\n",
    "that runs code": b"---\na: !!python/object/apply:os.system ['true']\n---\n", "of a billion laughs": b"---\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n---\n",
    "not UTF-8": b"---\n\xff\xfe\n---\n", "deep": b"---\na: " + b"[" * 5000 + b"]" * 5000 + b"\n---\n",
}  # fmt: skip


def _png(side: int) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "PNG")
    return file.getvalue()


def _jpeg(side: int) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 150)).save(file, "JPEG")
    return file.getvalue()


IMAGES: Mapping[str, Any] = {
    "empty": b"", "truncated": lambda: _png(64)[:60], "of text": b"nothing", "of 9,000 x 9,000 pixels": lambda: _jpeg(9000), "a bomb of 20,000 x 20,000": lambda: _png(20_000),
    "of one pixel": lambda: _png(1), "a header alone": lambda: _png(64)[:33], "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a script": b"#!/bin/sh\ntrue\n",
}  # fmt: skip


RESUME = (
    "train", "--model", "{model}", "--dataset", "{data}", "--output-dir", "{}", "--epochs", "2", "--train-bs", "4", "--eval-bs", "8",
    "--device", "cpu", "--workers", "0", "--report-to", "none", "--guard", "off", "--resume", "--cache-images", "off",
)  # fmt: skip


def checkpoint_cases() -> Iterator[Case]:
    """The newest checkpoint of a run that was interrupted, and the records beside it."""
    files = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json")
    damages = ("missing", "empty", "zeroed", "truncated", "text")
    for file in files:
        for name in damages:
            yield Case(
                "checkpoint",
                f"--resume: {file} {name}",
                "run",
                with_content(f"{{newest}}/{file}", CONTENTS[name]),
                RESUME,
            )
        yield Case(
            "checkpoint", f"--resume: {file} is a pipe", "run", with_special(f"{{newest}}/{file}", "pipe"), RESUME
        )
    for file in ("icclip.json", "metrics.jsonl", "local.json"):
        for name, content in CONTENTS.items():
            for command in (RESUME, ON_CPU):
                yield Case("checkpoint", f"{command[0]}: {file} {name}", "run", with_content(file, content), command)
        yield Case("checkpoint", f"eval: {file} is a pipe", "run", with_special(file, "pipe"), ON_CPU)
    for key in ("status", "config", "result", "data", "model", "config.model", "config.data", "processes"):
        for value in ("text", 7, None, [1]):
            yield Case(
                "checkpoint",
                f"eval: icclip.json {key} = {value!r}",
                "run",
                with_value("icclip.json", key, value),
                ("eval", "{}", "--bootstrap", "0", "--output-dir", "{out}", "--device", "cpu", "--workers", "0"),
            )


# Subjects -----------------------------------------------------------------------------------------


def subjects(root: Path) -> dict[str, Path]:
    """A sound one of each kind."""
    import warnings

    from support.bundles import tiny_clip, tiny_siglip, write_bundle
    from support.images import photo

    warnings.simplefilter("ignore")
    found: dict[str, Path] = {}
    for family, tiny in {"clip": tiny_clip(), "siglip": tiny_siglip()}.items():
        found[family] = root / family
        tiny.model.save_pretrained(found[family])
        tiny.image_processor.save_pretrained(found[family])
        tiny.tokenizer.save_pretrained(found[family])
    found["bundle"] = root / "bundle"
    write_bundle(tiny_clip(), found["bundle"])
    _write_parity(found["bundle"])
    found["jsonl"] = root / "jsonl"
    found["jsonl"].mkdir()
    names = ["a.png", *(f"{number}.png" for number in range(19))]
    for number, name in enumerate(names):
        photo(40, 30, seed=number).save(found["jsonl"] / name)
    lines = [json.dumps({"image": name, "caption": f"a dog {number}"}) + "\n" for number, name in enumerate(names)]
    (found["jsonl"] / "captions.jsonl").write_text("".join(lines))
    found["parquet"] = root / "parquet"
    found["parquet"].mkdir()
    content = (found["jsonl"] / "a.png").read_bytes()
    _table([{"bytes": content, "path": None}] * 20, [f"a dog {n}" for n in range(20)])(found["parquet"])
    found["run"] = root / "run"
    return found


def _write_parity(bundle: Path) -> None:
    from icclip.bundles.manifest import read_manifest, seal
    from icclip.bundles.parity_record import ParityRecord, PrecisionParity, Thresholds, write_parity

    limits = Thresholds(min_cosine=0.999, drop_r1=0.1, drop_r5=0.1, drop_r10=0.1)
    result = PrecisionParity(precision="fp32", provider="cpu", passed=True, thresholds=limits, metrics={})
    write_parity(
        bundle,
        ParityRecord(dataset="x", split="test", n_images=3, n_texts=5, smoke=True, reference={}, results=(result,)),
    )
    seal(bundle, read_manifest(bundle))


# Running ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    code: int
    seconds: float
    """Of the processor."""
    megabytes: int
    said: str
    waited: float = 0.0
    """Seconds by the clock, of which other work on the machine may have had most."""
    stopped: bool = False

    @property
    def fault(self) -> str:
        """What is wrong with it; an empty text if nothing is."""
        if self.stopped:
            return "hangs"
        if "Traceback (most recent call last)" in self.said:
            return "traceback"
        if self.code not in (0, 2, 3):
            return f"exit code {self.code}"
        if self.code in REFUSED and "error: " not in self.said and "Error" not in self.said:
            return "says nothing"
        return "slow" if self.seconds > SECONDS else "large" if self.megabytes > GB >> 20 else ""


def forked(arguments: list[str], folder: Path) -> Outcome:
    """The command in a child of this process, which has imported everything already."""
    log = folder / "said.txt"
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(arguments, log)
    stopped = False
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > STOP_AFTER and not stopped:
            stopped = True
            os.kill(child, 9)
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    return _outcome(code, used, log, stopped=stopped, waited=time.monotonic() - began)


def _outcome(code: int, used: Any, log: Path, *, stopped: bool, waited: float) -> Outcome:
    """`used` as wait4 gives it."""
    seconds = round(used.ru_utime + used.ru_stime, 2)
    return Outcome(code, seconds, used.ru_maxrss >> 10, log.read_text(errors="replace"), round(waited, 2), stopped)


def _become(arguments: list[str], log: Path) -> None:
    """Never returns."""
    code = 1
    try:
        os.chdir(log.parent)
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
        from icclip.cli import main as command

        try:
            command(arguments)
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:  # noqa: BLE001  a traceback is what is looked for
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def real(arguments: list[str], folder: Path) -> Outcome:
    """The command as its own process."""
    log = folder / "said.txt"
    began, stopped = time.monotonic(), False
    environment_ = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in (".", "plugins", "export"))}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "icclip", *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment_)  # fmt: skip
        while True:
            done, status, used = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - began > STOP_AFTER:
                stopped = True
                process.kill()
            time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    return _outcome(process.returncode, used, log, stopped=stopped, waited=time.monotonic() - began)


def tried(case: Case, sound: Mapping[str, Path], run: Callable[[list[str], Path], Outcome]) -> Outcome:
    """Damage a copy, and run the command on it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = folder / "subject"
        shutil.copytree(sound[case.subject], target)
        newest = max((path for path in target.glob("checkpoint-*")), key=lambda p: int(p.name[11:]), default=None)
        if newest is not None and case.subject == "run":
            (target / "newest").symlink_to(newest.name)
        _apart(lambda: case.damage(_Newest(target, newest)))
        with contextlib.suppress(OSError):
            (target / "newest").unlink(missing_ok=True)
        words = {
            "image": str(sound["jsonl"] / "0.png"),
            "data": str(sound["jsonl"] / "captions.jsonl"),
            "out": str(folder / "out"),
            "model": str(sound["clip"]),
        }
        arguments = [one.replace("{}", str(target)) for one in case.arguments]
        for key, value in words.items():
            arguments = [one.replace(f"{{{key}}}", value) for one in arguments]
        return run(arguments, folder)


def _apart(work: Callable[[], None]) -> None:
    """Do it in a child, so that the memory that it takes is not counted to what comes after."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, "the damage could not be done"


def _Newest(target: Path, newest: Path | None) -> Any:  # noqa: N802  stands in for a class
    """A path below which `{newest}` is the newest checkpoint."""
    if newest is None:
        return target

    class Below(type(target)):  # type: ignore[misc]  the concrete path type of this system
        def __truediv__(self, name: Any) -> Path:
            return Path(target, str(name).replace("{newest}", newest.name))

    return Below(target)


def train_run(sound: Mapping[str, Path]) -> None:
    """A run of two epochs, marked as interrupted."""
    folder = sound["run"].parent
    outcome = forked(
        [
            one.replace("{}", str(sound["run"]))
            .replace("{model}", str(sound["clip"]))
            .replace("{data}", str(sound["jsonl"] / "captions.jsonl"))
            for one in RESUME
            if one != "--resume"
        ],
        folder,
    )
    assert outcome.code == 0, outcome.said
    record = sound["run"] / "icclip.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "running"}))


def main() -> None:
    """Run the cases, print the faults, write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=GROUPS, help="one group, whose rows in the result are replaced")
    parser.add_argument("--match", help="cases whose name holds this; nothing is written")
    parser.add_argument("--every", type=int, default=1, help="each how many of the cases")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"), help="the result")
    parser.add_argument("--real", type=int, default=4, help="how many of a group run again as real commands")
    asked = parser.parse_args()
    _import_everything()
    groups = GROUPS if asked.only is None else (asked.only,)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        sound = subjects(Path(name))
        if "checkpoint" in groups:
            train_run(sound)
        for group in groups:
            chosen = [one for one in cases() if one.group == group and (asked.match or "") in one.name][:: asked.every]
            again = chosen[:: max(1, len(chosen) // asked.real)][: asked.real] if asked.real else []
            for place, case in enumerate(chosen):
                rows.append(_row(case, tried(case, sound, forked), real=False))
                if place % 20 == 0:
                    _write(asked, groups, rows)
            rows += [_row(case, tried(case, sound, real), real=True) for case in again]
            _write(asked, groups, rows)
    show(_table_of(rows))
    sys.exit(any(row["fault"] for row in rows))


def _write(asked: argparse.Namespace, groups: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """What there is so far."""
    if asked.match is None:
        rows = _kept(asked.output, groups) + rows
        about = environment("icclip", "torch", "transformers", "datasets", "onnxruntime")
        atomic_write_json(asked.output, {"about": about, "summary": _table_of(rows), "cases": rows})


def _import_everything() -> None:
    """What the children need, once."""
    import datasets  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import icclip.cli
    import icclip.evaluating.run
    import icclip.training.run  # noqa: F401

    torch.set_num_threads(1)


def _kept(path: Path, groups: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of the other groups in the result that is there."""
    there = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else []
    return [row for row in there if row["group"] not in groups]


def _row(case: Case, own: Outcome, *, real: bool) -> dict[str, Any]:
    if own.fault:
        print(f"{own.fault.upper():12}{own.code:4}{own.seconds:7.2f} s{own.megabytes:6} MB  {case.group}: {case.name}")
        print(own.said[-1500:], flush=True)
    lines = [line for line in own.said.splitlines() if line.startswith("error: ")]
    said = re.sub(r"/[^ :]*/(?=subject|out|jsonl|clip)", "", lines[0] if lines else "")[:240]
    return {
        "group": case.group, "case": case.name, "real": real, "exit": own.code, "seconds": own.seconds, "waited": own.waited,
        "MB": own.megabytes, "fault": own.fault, "said": said,
    }  # fmt: skip


def _table_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [_summary(group, [row for row in rows if row["group"] == group and not row["real"]]) for group in GROUPS]
    found.append(_summary("all", [row for row in rows if not row["real"]]))
    found.append(_summary("again as real commands", [row for row in rows if row["real"]]))
    return [row for row in found if row["tried"]]


def _summary(group: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "group": group,
        "tried": len(rows),
        "refused (2, 3)": sum(row["exit"] in REFUSED for row in rows),
        "harmless (0)": sum(row["exit"] == 0 for row in rows),
        "faults": sum(bool(row["fault"]) for row in rows),
        "slowest, s": max((row["seconds"] for row in rows), default=0.0),
        "largest, MB": max((row["MB"] for row in rows), default=0),
    }


if __name__ == "__main__":
    main()
