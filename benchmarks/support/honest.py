"""Honest checkpoints with the quirks that published ones have, as directories: each must pass the gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

LENGTH, SIDE = 24, 32
SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
CAPTIONS = [
    f"a {size} {colour} {shape}"
    for size in ("small", "large")
    for colour in ("red", "blue")
    for shape in ("dog", "car")
]


@dataclass(frozen=True)
class Quirk:
    """One way in which a sound checkpoint differs from the plain one of its family."""

    family: str
    name: str
    vision: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    half: bool = False
    cased: bool = False
    """A tokenizer that keeps the case, as SigLIP 2's does; the text policy has to lower it."""


def _crop(side: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def _square(side: int) -> dict[str, Any]:
    return {"size": {"height": side, "width": side}}


SQUASHED = {**_square(SIDE), "do_center_crop": False, "crop_size": None}
GREY = {"image_mean": 0.5, "image_std": 0.5}
QUIRKS = (
    Quirk("clip", "plain"),
    Quirk("clip", "336 pixels", vision={"image_size": 336, "patch_size": 28}, preprocessing=_crop(336)),
    Quirk("clip", "legacy end-of-text id", text={"eos_token_id": 2}),
    Quirk("clip", "half-precision checkpoint", half=True),
    Quirk("clip", "projection widths that differ", vision={"hidden_size": 48, "num_attention_heads": 3}),
    Quirk("clip", "no crop, squashed", preprocessing=SQUASHED),
    Quirk("clip", "one mean for all channels", preprocessing=GREY),
    Quirk("clip", "bilinear filter", preprocessing={"resample": 2}),
    Quirk("siglip", "plain"),
    Quirk("siglip", "336 pixels", vision={"image_size": 336, "patch_size": 28}, preprocessing=_square(336)),
    Quirk("siglip", "half-precision checkpoint", half=True),
    Quirk("siglip", "projection of another width", text={"projection_size": 32, "intermediate_size": 64}),
    Quirk("siglip", "one mean for all channels", preprocessing=GREY),
    Quirk("siglip2", "plain", cased=True),
    Quirk("siglip2", "half-precision checkpoint", half=True, cased=True),
    Quirk("siglip2", "bilinear filter", preprocessing={"resample": 2}, cased=True),
    Quirk("dual", "plain"),
    Quirk("dual", "projection widths that differ", text={"hidden_size": 48, "num_attention_heads": 3}),
    Quirk("dual", "half-precision checkpoint", half=True),
    Quirk("dual", "one mean for all channels", preprocessing=GREY),
)


def directories(root: Path) -> Iterator[tuple[Quirk, Path]]:
    """Every checkpoint, written below `root`."""
    for number, quirk in enumerate(QUIRKS):
        directory = root / f"{number:02}-{quirk.family}"
        _MAKERS[quirk.family](quirk, directory)
        _edit(directory / "preprocessor_config.json", quirk.preprocessing)
        yield quirk, directory


def _clip(quirk: Quirk, directory: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    ids = _tokenizer(directory, cased=quirk.cased)
    config = CLIPConfig(
        text_config={**SIZE, **ids, "max_position_embeddings": LENGTH, **quirk.text},
        vision_config={**SIZE, "image_size": SIDE, "patch_size": 8, **quirk.vision},
        projection_dim=24,
    )
    _save(CLIPModel, config, quirk, directory)
    CLIPImageProcessor(**_crop(SIDE)).save_pretrained(directory)


def _siglip(quirk: Quirk, directory: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    ids = _tokenizer(directory, cased=quirk.cased)
    config = SiglipConfig(
        text_config={**SIZE, **ids, "max_position_embeddings": LENGTH, "projection_size": 32, **quirk.text},
        vision_config={**SIZE, "image_size": SIDE, "patch_size": 8, **quirk.vision},
    )
    _save(SiglipModel, config, quirk, directory)
    SiglipImageProcessor(**_square(SIDE)).save_pretrained(directory)


def _dual(quirk: Quirk, directory: Path) -> None:
    from transformers import (
        BertConfig,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    size = _word_pieces(directory)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**{**SIZE, "image_size": SIDE, "patch_size": 8, "initializer_range": 0.2, **quirk.vision}),
        BertConfig(**{**SIZE, "vocab_size": size, "max_position_embeddings": LENGTH, "initializer_range": 0.2, **quirk.text}),
        projection_dim=24,
    )  # fmt: skip
    _save(VisionTextDualEncoderModel, config, quirk, directory)
    ViTImageProcessor(**_square(SIDE)).save_pretrained(directory)


_MAKERS: Mapping[str, Callable[[Quirk, Path], None]] = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip,
    "dual": _dual,
}


def _save(kind: Any, config: Any, quirk: Quirk, directory: Path) -> None:
    torch.manual_seed(0)
    model = kind(config=config).eval()
    (model.half() if quirk.half else model).save_pretrained(directory)


def _tokenizer(directory: Path, *, cased: bool) -> dict[str, int]:
    from transformers import AutoTokenizer

    from icclip.models.tokenizers import write_tokenizer

    directory.mkdir(parents=True)
    write_tokenizer(directory, CAPTIONS, vocab_size=400, max_length=LENGTH)
    if cased:
        path = directory / "tokenizer.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        values["normalizer"]["normalizers"].remove({"type": "Lowercase"})
        path.write_text(json.dumps(values), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _word_pieces(directory: Path) -> int:
    """BERT's kind of tokenizer, whose pieces are single letters; the number of its tokens."""
    from transformers import BertTokenizerFast

    directory.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,-"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    BertTokenizerFast(str(directory / "vocab.txt"), model_max_length=LENGTH).save_pretrained(directory)
    return len(tokens)


def _edit(path: Path, values: Mapping[str, Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")
