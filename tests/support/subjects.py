"""Small encoders, trained for seconds so that their embeddings spread, with bundles to be broken.

An untrained encoder maps everything to nearly one point, and hides most of what can be wrong with it.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from support.bundles import Tiny, write_bundle
from support.images import photo

from icclip.bundles.manifest import TextInputs
from icclip.models.encoder import TorchEncoder
from icclip.models.loaded import LoadedModel
from icclip.models.tokenizers import write_tokenizer
from icclip.retrieval.captions import CaptionMap
from icclip_export.gate.comparison import Compared, Reference, Scoring
from icclip_export.gate.probes import Probes
from icclip_plugins.backends import clip, siglip

BACKENDS = {"clip": clip.BACKEND, "siglip": siglip.BACKEND}
FAMILIES = tuple(BACKENDS)
LENGTHS = {"clip": 32, "siglip": 24}
TRAINED_ON, COMPARED = 256, 100
STEPS, BATCH = 40, 64
PHOTOGRAPHS = 16

COLOURS = {"Red": (230, 30, 30), "GREEN": (30, 200, 60), "blue": (40, 60, 235), "Yellow": (240, 225, 40)}
PLACES = {"left": (0.25, 0.5), "Right": (0.75, 0.5), "top": (0.5, 0.25), "BOTTOM": (0.5, 0.75)}
SHAPES = ("circle", "Square", "cross")
LONG = "a photograph of a {colour} {shape} near the {place} of a noisy picture, {width} by {height} pixels"


@dataclass(frozen=True)
class Subject:
    """A checkpoint, its honest bundle, and what the checkpoint makes of images that it was not trained on."""

    family: str
    tiny: Tiny
    loaded: LoadedModel
    bundle: Path
    references: Mapping[str, Reference]
    """By what is compared: `DATA`."""

    @property
    def reference(self) -> Reference:
        """On the scenes."""
        return self.references["scenes"]


def scene(index: int) -> tuple[Image.Image, list[str]]:
    """Image and captions number `index`: of any shape, in mixed case, short and long."""
    rng = np.random.default_rng([11, index])
    width, height = (int(side) for side in rng.integers(36, 110, 2))
    colour, place, shape = (str(rng.choice(list(names))) for names in (COLOURS, PLACES, SHAPES))
    image = photo(width, height, seed=index)
    x, y, r = PLACES[place][0] * width, PLACES[place][1] * height, min(width, height) / 5
    draw, fill = ImageDraw.Draw(image), COLOURS[colour]
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "Square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=fill)
    else:
        draw.line((x - r, y - r, x + r, y + r), fill=fill, width=4)
        draw.line((x - r, y + r, x + r, y - r), fill=fill, width=4)
    words = {"colour": colour, "shape": shape, "place": place, "width": width, "height": height}
    return image, [f"{colour} {shape}, {place}", LONG.format(**words)]


def scenes(first: int, count: int) -> tuple[list[Image.Image], list[list[str]]]:
    """`count` scenes from number `first` on."""
    made = [scene(index) for index in range(first, first + count)]
    return [image for image, _ in made], [captions for _, captions in made]


def shapes() -> tuple[list[Image.Image], list[list[str]]]:
    """Images of exactly the model's size, one for all, and short captions in lower-case ASCII: what hides most."""
    images, captions = scenes(TRAINED_ON, COMPARED)
    return [image.resize((32, 32)) for image in images], [[own[0].lower()] for own in captions]


def photographs() -> tuple[list[Image.Image], list[list[str]]]:
    """Fine texture at many times the model's size, in landscape and in portrait."""
    sides = [(640, 480), (480, 640), (800, 450)]
    captions = scenes(TRAINED_ON, PHOTOGRAPHS)[1]
    return [photo(*sides[number % len(sides)], seed=number) for number in range(PHOTOGRAPHS)], captions


DATA = {"scenes": lambda: scenes(TRAINED_ON, COMPARED), "shapes": shapes, "photographs": photographs}


def subject(family: str, root: Path, seed: int = 0) -> Subject:
    """A trained checkpoint and its bundle below `root`; the seed decides everything."""
    images, captions = scenes(0, TRAINED_ON)
    tiny = _untrained(family, captions, seed)
    loaded = LoadedModel.of(
        tiny.model,
        SimpleNamespace(image_processor=tiny.image_processor, tokenizer=tiny.tokenizer),
        BACKENDS[family],
        f"{family} {seed}",
    )
    _train(loaded, images, [own[i % 2] for i, own in enumerate(captions)], seed)
    write_bundle(tiny, root)
    encoder, scoring = TorchEncoder(loaded), Scoring.of_model(loaded)
    probes = Probes.of(loaded, encoder)
    references = {
        name: Reference.of(encoder, scoring, Compared.of(images, CaptionMap.from_lists(captions), COMPARED, 0), probes)
        for name, (images, captions) in ((name, make()) for name, make in DATA.items())
    }
    return Subject(family, tiny, loaded, root, references)


def with_model(tiny: Tiny) -> Any:
    """A copy of its model, to be broken; without gradients, which the tracer cannot store."""
    return copy.deepcopy(tiny.model).requires_grad_(requires_grad=False)


def _untrained(family: str, captions: list[list[str]], seed: int) -> Tiny:
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    length = LENGTHS[family]
    tokenizer = _tokenizer(captions, length, cased=family == "siglip")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 1}
    size = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "num_hidden_layers": 2}
    text_size = {**size, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": length}
    model = _model(family, text_size, {**size, "image_size": 32, "patch_size": 8}, seed)
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = (
        CLIPImageProcessor(**crop) if family == "clip" else SiglipImageProcessor(size={"height": 32, "width": 32})
    )
    policy = BACKENDS[family].text_policy(model.config, tokenizer)
    text = TextInputs(
        padding=policy.padding, max_length=length, lowercase=policy.lowercase, pad_id=tokenizer.pad_token_id
    )
    outputs = BACKENDS[family].vision.graph_output, BACKENDS[family].text.graph_output
    return Tiny(model, processor, tokenizer, text, *outputs, BACKENDS[family].loss)


def _model(family: str, text: Mapping[str, Any], vision: Mapping[str, Any], seed: int) -> Any:
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    torch.manual_seed(seed)
    if family == "clip":
        return CLIPModel(CLIPConfig(text_config=dict(text), vision_config=dict(vision), projection_dim=48)).eval()
    return SiglipModel(SiglipConfig(text_config={**text, "projection_size": 48}, vision_config=dict(vision))).eval()


def _tokenizer(captions: list[list[str]], length: int, *, cased: bool) -> Any:
    """Cased as SigLIP 2's is: the text policy has to lower the case."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_tokenizer(directory, [text for own in captions for text in own], vocab_size=700, max_length=length)
        if not cased:
            return AutoTokenizer.from_pretrained(directory)
        path = directory / "tokenizer.json"
        edit_json(path, lambda values: values["normalizer"]["normalizers"].remove({"type": "Lowercase"}))
        special = {"eos_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "pad_token": "<|endoftext|>"}
        return PreTrainedTokenizerFast(tokenizer_file=str(path), model_max_length=length, **special)


def edit_json(path: Path, change: Any) -> None:
    """Read, let `change` mend or break the values in place, write."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def _train(loaded: LoadedModel, images: list[Image.Image], texts: list[str], seed: int) -> None:
    """Symmetric cross-entropy for both families: the weights matter here, not how they came about."""
    # On so small a model threads only wait for each other; and one thread always sums in one order.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pixels = loaded.feeder.image_inputs(images)["pixel_values"]
    ids = loaded.feeder.text_inputs(texts)["input_ids"]
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(BATCH)
    for _ in range(STEPS):
        rows = torch.randperm(len(images), generator=generator)[:BATCH]
        image = torch.nn.functional.normalize(loaded.image_features({"pixel_values": pixels[rows]}), dim=-1)
        text = torch.nn.functional.normalize(loaded.text_features({"input_ids": ids[rows]}), dim=-1)
        logits = 10 * image @ text.T
        loss = torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
