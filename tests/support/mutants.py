"""Broken bundles, each as it has happened or could: the gate, or the hashes, must see every one.

A mutant changes a copy of an honest bundle: a graph exported from a damaged model, a value of the
manifest, the tokenizer, a file. All are sealed again, so that the hashes are right and the gate alone
can see it, but for those of `TAMPERED`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from support.bundles import export_graph
from support.subjects import FAMILIES, TRAINED_ON, Subject, edit_json, scenes, with_model
from torch import nn

from icclip.bundles.manifest import check_files, read_manifest, seal
from icclip.bundles.parity_record import PrecisionParity
from icclip.console import Reporter
from icclip.errors import CheckpointError
from icclip.models.quiet import quiet_transformers
from icclip.retrieval.captions import CaptionMap
from icclip.runtime import Encoder
from icclip.runtime.preprocessing import Preprocessor
from icclip_export.gate.calibration import calibrations
from icclip_export.gate.parity import check_precision
from icclip_export.precisions import graph_name
from icclip_export.precisions import precision as find_precision
from icclip_export.reduction import Reducer
from icclip_export.rewriting import pipeline, pooled_row, pooling_head, scales
from icclip_export.rewriting.attention import written as attention_written
from icclip_export.rewriting.pooling_head import PoolingHead
from icclip_export.rewriting.rows import FixedRow, RowOfText

Break = Callable[[Subject, Subject, Path], None]
"""(subject, another trained checkpoint of its family, copy of the subject's bundle)"""


@dataclass(frozen=True)
class Mutant:
    """One way to be wrong."""

    name: str
    damage: Break
    families: tuple[str, ...] = FAMILIES
    limits: str = "fp32"
    """The row of the table that it is held to."""
    encoder: type[Encoder] = Encoder


def gate(
    subject: Subject, bundle: Path, limits: str = "fp32", encoder: type[Encoder] = Encoder, data: str = "scenes"
) -> PrecisionParity:
    """The gate's verdict on a bundle of a subject, on one kind of data."""
    return check_precision(
        subject.references[data],
        lambda precision: encoder.open(bundle, precision, "cpu", threads=1),
        "fp32",
        limits=find_precision(limits).limits,
    )


def copy_of(subject: Subject, root: Path) -> Path:
    """A copy of its bundle, to be broken."""
    return shutil.copytree(subject.bundle, root / "bundle")


# Rewritten graphs ---------------------------------------------------------------------------------


def rewritten(*towers: str, written: Any = None, row: Any = None, head: Any = None) -> Break:
    """Graphs rewritten as an export does it, with a mistake in how attention is written, in which row is selected, or in
    a pooling head."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        manifest = read_manifest(root)
        for tower in towers:
            graph = root / getattr(manifest.precisions["fp32"], tower)
            with ExitStack() as stack:
                for module in (pooled_row, scales) if written else ():
                    stack.enter_context(mock.patch.object(module, "written", written))
                for kind in (FixedRow, RowOfText) if row else ():
                    stack.enter_context(mock.patch.object(kind, "of", row))
                if head:
                    stack.enter_context(mock.patch.object(pooling_head, "written", _with_head(head)))
                assert pipeline.rewrite(graph, graph), "nothing of this graph is rewritten"
        seal(root, manifest)

    return damage


def _neighbour(row: FixedRow | RowOfText, builder: Any, value: Any) -> Any:
    """The row before the right one, or the one behind it if that is the first."""
    if isinstance(row, FixedRow):
        return _ROW[FixedRow](FixedRow(row.index - 1 if row.index else 1), builder, value)
    before = builder("Sub", row.index, builder.weight(np.array(1), "one"))
    return _ROW[RowOfText](RowOfText(before), builder, value)


_ROW = {kind: kind.of for kind in (FixedRow, RowOfText)}


def _without_mask(builder: Any, attention: Any, *, source: Any = None, mask: Any = None) -> Any:
    return attention_written(builder, dataclasses.replace(attention, mask=None), source=source)


def _without_pooled_mask(builder: Any, attention: Any, *, source: Any = None, mask: Any = None) -> Any:
    """All tokens are seen by the pooled row alone: those behind the end of a text."""
    return attention_written(builder, attention, source=source)


def _scaled_twice(builder: Any, attention: Any, *, source: Any = None, mask: Any = None) -> Any:
    scale = (attention.q.weight.shape[1] / attention.heads) ** -0.5
    again = dataclasses.replace(attention, q=attention.q.scaled(scale))
    return attention_written(builder, again, source=source, mask=mask)


def _interleaved(builder: Any, attention: Any, *, source: Any = None, mask: Any = None) -> Any:
    """Queries and keys whose heads lie one value each in turn, instead of one behind the other."""
    order = np.arange(attention.q.weight.shape[1]).reshape(attention.heads, -1).T.ravel()
    q, k = (
        dataclasses.replace(one, weight=one.weight[:, order], bias=one.bias[order])
        for one in (attention.q, attention.k)
    )
    return attention_written(builder, dataclasses.replace(attention, q=q, k=k), source=source, mask=mask)


def _with_head(change: Callable[[PoolingHead, np.ndarray], dict[str, Any]]) -> Any:
    """Pooling heads written with other values; `change` is given the order of rows, [heads, width]."""

    def written(builder: Any, head: PoolingHead) -> Any:
        order = np.arange(len(head.probe)).reshape(head.heads, -1)
        return _HEAD(builder, dataclasses.replace(head, **change(head, order)))

    return written


_HEAD = pooling_head.written


def _head_scaled_twice(head: PoolingHead, order: np.ndarray) -> dict[str, Any]:
    factor = np.where(np.arange(len(head.bias)) < order.size, order.shape[1] ** -0.5, 1.0)
    return {"weight": head.weight * factor[:, None].astype(np.float32), "bias": head.bias * factor.astype(np.float32)}


def _head_interleaved(head: PoolingHead, order: np.ndarray) -> dict[str, Any]:
    """Queries and keys whose heads lie one value each in turn."""
    rows = np.concatenate([order.T.ravel(), order.size + order.T.ravel(), 2 * order.size + order.ravel()])
    return {"weight": head.weight[rows], "bias": head.bias[rows]}


def _head_values_of_the_next(head: PoolingHead, order: np.ndarray) -> dict[str, Any]:
    """Every head averages with the scores of the one before it."""
    rows = np.concatenate([np.roll(order, 1, axis=0).ravel() + part * order.size for part in (0, 1)])
    rows = np.concatenate([rows, 2 * order.size + order.ravel()])
    return {"weight": head.weight[rows], "bias": head.bias[rows]}


def _head_without_value_bias(head: PoolingHead, order: np.ndarray) -> dict[str, Any]:
    return {"bias": np.where(np.arange(len(head.bias)) < 2 * order.size, head.bias, np.float32(0))}


# Graphs -------------------------------------------------------------------------------------------


def export_tower(subject: Subject, root: Path, tower: str, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Write a tower's graph from any function of its input, and seal the bundle."""
    manifest = read_manifest(root)
    vision = tower == "vision"
    io = manifest.vision_io if vision else manifest.text_io
    ids = subject.loaded.feeder.text_inputs(list(subject.reference.data.captions.texts[:2]))["input_ids"]
    inputs = torch.rand(2, 3, 32, 32) if vision else ids
    axes = {0: "batch"} if vision or manifest.text.padding == "max_length" else {0: "batch", 1: "length"}
    path = root / getattr(manifest.precisions["fp32"], tower)
    export_graph(_Function(forward), inputs, path, names=[io.input, io.output], axes=axes)
    seal(root, manifest)


class _Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs)


def _features(model: Any, tower: str) -> Callable[[torch.Tensor], torch.Tensor]:
    if tower == "vision":
        return lambda pixels: _pooled(model.get_image_features(pixel_values=pixels))
    return lambda ids: _pooled(model.get_text_features(input_ids=ids))


def _pooled(features):
    return getattr(features, "pooler_output", features)


def model_change(tower: str, change: Callable[[Any], None]) -> Break:
    """A graph of the same model with other weights or layers."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        model = with_model(subject.tiny)
        with torch.no_grad():
            change(getattr(model, f"{tower}_model") if tower in {"vision", "text"} else model)
        export_tower(subject, root, tower, _features(model, tower))

    return damage


def forward_change(tower: str, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> Break:
    """A graph that computes something else with the same weights."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        model = with_model(subject.tiny)
        export_tower(subject, root, tower, lambda inputs: forward(model, inputs))

    return damage


def projection_change(tower: str, change: Callable[[Any], None]) -> Break:
    """Other weights in CLIP's projection."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        model = with_model(subject.tiny)
        with torch.no_grad():
            change(getattr(model, {"vision": "visual", "text": "text"}[tower] + "_projection"))
        export_tower(subject, root, tower, _features(model, tower))

    return damage


def _hidden(model, ids):
    return model.text_model(input_ids=ids).last_hidden_state


def _last_position(model, ids):
    return model.text_projection(_hidden(model, ids)[:, -1])


def _before_the_end(model, ids):
    end = (ids == model.config.text_config.eos_token_id).int().argmax(dim=-1)
    return model.text_projection(_hidden(model, ids)[torch.arange(ids.shape[0]), end - 1])


def _without_causal_mask(model, ids):
    text = model.text_model
    encoded = text.encoder(inputs_embeds=text.embeddings(input_ids=ids), attention_mask=None).last_hidden_state
    end = (ids == model.config.text_config.eos_token_id).int().argmax(dim=-1)
    return model.text_projection(text.final_layer_norm(encoded)[torch.arange(ids.shape[0]), end])


def _with_padding_mask(model, ids):
    # The first end token is part of the text; what follows is padding.
    ends = (ids == model.config.text_config.eos_token_id).int().cumsum(dim=-1)
    return _pooled(model.get_text_features(input_ids=ids, attention_mask=(ends <= 1).long()))


def _half_precision_norm(features):
    # onnxruntime's CPU kernels would compute a float16 sum in float32: the overflow is written out.
    squares = (1000 * features).pow(2).sum(dim=-1, keepdim=True)
    return features / torch.where(squares > torch.finfo(torch.float16).max, torch.inf, squares).sqrt()


def _zero_head(attention):
    attention.out_proj.weight[:, : attention.head_dim] = 0


def _linears(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _round_to_bits(bits: int) -> Callable[[Any], None]:
    """With a scale for every output channel, the mildest way: with one for the whole layer the damage is greater."""

    def change(module):
        steps = 2 ** (bits - 1) - 1
        for layer in _linears(module):
            scale = layer.weight.abs().amax(dim=1, keepdim=True) / steps
            layer.weight.copy_((layer.weight / scale).round() * scale)

    return change


class SaturatingLinear(nn.Module):
    """What int8 kernels do on CPUs without VNNI: sums of two products are cut to 16 bits.

    Activations are 8 bits unsigned, weights 8 bits signed without a bit in reserve.
    """

    def __init__(self, linear: nn.Linear, limit: float = 32767.0):
        super().__init__()
        self.scale = (linear.weight.abs().amax(dim=1) / 127).detach()
        self.weight = (linear.weight / self.scale[:, None]).round()
        self.bias, self.limit = linear.bias, limit

    def forward(self, x):
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        step = (high - low) / 255
        zero = (-low / step).round()
        levels = (x / step + zero).round().clamp(0, 255)
        products = levels.unflatten(-1, (-1, 2)).unsqueeze(-3) * self.weight.unflatten(-1, (-1, 2))
        sums = products.sum(dim=-1).clamp(-self.limit - 1, self.limit).sum(dim=-1)
        result = (sums - zero * self.weight.sum(dim=-1)) * step * self.scale
        return result if self.bias is None else result + self.bias


def replace_linears(module, limit: float = 32767.0) -> None:
    """Put SaturatingLinear in the place of every linear layer below `module`."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            # MultiheadAttention reads the weights of its output layer itself.
            if type(child) is nn.Linear:
                setattr(parent, name, SaturatingLinear(child, limit))


def _set_activation(function: nn.Module) -> Callable[[Any], None]:
    def change(module):
        for layer in module.encoder.layers:
            layer.mlp.activation_fn = function

    return change


def _roll_positions(module):
    weight = module.embeddings.position_embedding.weight
    weight.copy_(weight.roll(1, dims=0))


def _drop_last_layer(module):
    module.encoder.layers = module.encoder.layers[:-1]


def _swap_columns(module):
    weight = module.encoder.layers[0].mlp.fc1.weight
    weight[:, [0, 1]] = weight[:, [1, 0]]


def _one_nan(module):
    module.encoder.layers[0].mlp.fc2.weight[0, 0] = float("nan")


def _mean_of_patches(model, pixels):
    states = model.vision_model(pixel_values=pixels).last_hidden_state.mean(dim=1)
    return model.visual_projection(states) if hasattr(model, "visual_projection") else states


def _depends_on_the_batch(model, pixels):
    features = _pooled(model.get_image_features(pixel_values=pixels))
    return features - features.mean(dim=0, keepdim=True)


# Manifest, tokenizer, files -----------------------------------------------------------------------


def manifest_change(part: str, **values: Any) -> Break:
    """Other values in the manifest's `image` or `text`."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        manifest = read_manifest(root)
        changed = dataclasses.replace(getattr(manifest, part), **values)
        seal(root, dataclasses.replace(manifest, **{part: changed}))

    return damage


def manifest_value(**values: Any) -> Break:
    """Another value in the manifest itself."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        seal(root, dataclasses.replace(read_manifest(root), **values))

    return damage


def other_familys_normalisation(subject: Subject, other: Subject, root: Path) -> None:
    """CLIP's mean and std for SigLIP, and the other way round."""
    clip = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    mean, std = clip if subject.family == "siglip" else ((0.5,) * 3, (0.5,) * 3)
    manifest_change("image", mean=mean, std=std)(subject, other, root)


def tokenizer_change(change: Callable[[dict[str, Any]], None]) -> Break:
    """Another tokenizer.json."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        edit_json(root / "tokenizer.json", change)
        seal(root, read_manifest(root))

    return damage


def _keep_case(values):
    values["normalizer"]["normalizers"].remove({"type": "Lowercase"})


def _swap_words(values):
    vocabulary = values["model"]["vocab"]
    # What was learned from the captions comes after the bytes, and before the two special tokens.
    learned = sorted(vocabulary, key=vocabulary.get)[512:-2]
    for one, two in zip(learned[::2], learned[1::2], strict=False):
        vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]


def _forget_merges(values):
    values["model"]["merges"] = values["model"]["merges"][:20]


def _no_end_token(values):
    values["post_processor"] = None


def normaliser_change(change: Callable[[list[dict[str, Any]]], None]) -> Break:
    """Other steps in what tokenizer.json does to a text first."""
    return tokenizer_change(lambda values: change(values["normalizer"]["normalizers"]))


def _without(kind: str) -> Callable[[list[dict[str, Any]]], None]:
    return lambda steps: steps.remove({"type": kind})


def _nfkc(steps):
    steps[steps.index({"type": "NFC"})] = {"type": "NFKC"}


def _strip_accents(steps):
    steps[steps.index({"type": "NFC"})] = {"type": "NFD"}
    steps.insert(1, {"type": "StripAccents"})


def _replaced(pattern: str, content: str) -> Callable[[list[dict[str, Any]]], None]:
    step = {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}
    return lambda steps: steps.insert(0, step)


def _forget_special_tokens(values):
    values["added_tokens"] = []


def _one_token_less(subject: Subject, other: Subject, root: Path) -> None:
    manifest_change("text", max_length=read_manifest(root).text.max_length - 1)(subject, other, root)


def towers_from(*towers: str) -> Break:
    """Graphs of another checkpoint."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        for tower in towers:
            name = f"onnx/{tower}_model.onnx"
            shutil.copy(other.bundle / name, root / name)
        seal(root, read_manifest(root))

    return damage


def _swap_towers(subject: Subject, other: Subject, root: Path) -> None:
    one, two, spare = (root / "onnx" / name for name in ("vision_model.onnx", "text_model.onnx", "spare"))
    one.rename(spare)
    two.rename(one)
    spare.rename(two)
    seal(root, read_manifest(root))


def _truncate(subject: Subject, other: Subject, root: Path) -> None:
    path = root / "onnx/text_model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    seal(root, read_manifest(root))


def nothing(subject: Subject, other: Subject, root: Path) -> None:
    """The bundle is honest: what runs it is not."""


class NoAntialias(Encoder):
    """Resizes as torch does unless told otherwise: bicubic over the nearest 16 pixels."""

    @property
    def preprocessor(self):
        class Rough(Preprocessor):
            def _resized(self, image):
                width, height = super()._resized(image).size
                return image.resize((width, height)) if image.size == (width, height) else _plain(image, self.inputs)

        return Rough(self.manifest.image)


def _plain(image, inputs):
    from PIL import Image

    from icclip.runtime.preprocessing import _centre_crop, _resized_size

    width, height = _resized_size(image.size, inputs)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    resized = nn.functional.interpolate(pixels, size=(height, width), mode="bicubic", antialias=False)
    small = Image.fromarray(resized[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    return small if inputs.crop_width is None else _centre_crop(small, (inputs.crop_width, inputs.crop_height))


class NotPutBack(Encoder):
    """Sorts texts by length, and forgets to put the embeddings back."""

    def encode_texts(self, texts, *, batch_size=256):
        embeddings = super().encode_texts(texts, batch_size=batch_size)
        return embeddings[np.argsort([len(text) for text in texts], kind="stable")]


def images_first(change: Callable[[Any], Any]) -> type[Encoder]:
    """An encoder that does something to an image before it is decoded and resized."""

    class Changed(Encoder):
        def encode_images(self, images, **options):
            return super().encode_images([change(image) for image in images], **options)

    return Changed


def texts_first(change: Callable[[str], str]) -> type[Encoder]:
    """An encoder that does something to a text before it is tokenized."""

    class Changed(Encoder):
        def encode_texts(self, texts, **options):
            return super().encode_texts([change(text) for text in texts], **options)

    return Changed


def _without_orientation(image):
    if "exif" not in image.info:
        return image
    bare = image.copy()
    del bare.info["exif"]
    return bare


def _sixteen_bits_clipped(image):
    return image.convert("I").convert("L") if image.mode.startswith("I;16") else image


def _on_white(image):
    if image.mode not in {"LA", "RGBA"}:
        return image
    from PIL import Image

    own = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", own.size, "white"), own).convert("RGB")


def _in_two_steps(image):
    """As `Image.draft` and `Image.reduce` do to save time."""
    return image.reduce(2) if image.mode == "RGB" and min(image.size) >= 2 * 32 else image


def _square(image):
    """Bars of black beside what is not square."""
    from PIL import Image

    side = max(image.size)
    if image.mode != "RGB" or image.info or image.width == image.height:
        return image
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


class OffCentre(Encoder):
    """Crops the corner."""

    @property
    def preprocessor(self):
        class Corner(Preprocessor):
            def _resized(self, image):
                width, height = super()._resized(image).size
                short = min(image.size)
                return super()._resized(image.crop((0, 0, short, short))) if (width, height) != image.size else image

        return Corner(self.manifest.image)


CLIP, SIGLIP = ("clip",), ("siglip",)

MUTANTS = (
    Mutant("vision: unprojected", forward_change("vision", lambda m, x: m.vision_model(pixel_values=x).pooler_output), CLIP),
    Mutant("text: unprojected", forward_change("text", lambda m, x: m.text_model(input_ids=x).pooler_output), CLIP),
    Mutant("text: head left out", forward_change("text", lambda m, x: _hidden(m, x)[:, -1]), SIGLIP),
    Mutant("vision: mean of the patches", forward_change("vision", _mean_of_patches)),
    Mutant("text: padding masked", forward_change("text", _with_padding_mask), SIGLIP),
    Mutant("text: causal mask dropped", forward_change("text", _without_causal_mask), CLIP),
    Mutant("text: pooled at the last position", forward_change("text", _last_position), CLIP),
    Mutant("text: pooled before the end token", forward_change("text", _before_the_end), CLIP),
    Mutant("text: pooled at the first position", forward_change("text", lambda m, x: m.text_model.head(_hidden(m, x)[:, 0])), SIGLIP),
    Mutant("vision: erf GELU for tanh", model_change("vision", _set_activation(nn.GELU())), SIGLIP),
    Mutant("text: erf GELU for tanh", model_change("text", _set_activation(nn.GELU())), SIGLIP),
    Mutant("vision: GELU for QuickGELU", model_change("vision", _set_activation(nn.GELU())), CLIP),
    Mutant("vision: projection transposed", projection_change("vision", lambda p: p.weight.copy_(p.weight.T.clone())), CLIP),
    Mutant("text: head transposed", model_change("text", lambda t: t.head.weight.copy_(t.head.weight.T.clone())), SIGLIP),
    Mutant("vision: one head zeroed", model_change("vision", lambda m: _zero_head(m.encoder.layers[0].self_attn))),
    Mutant("text: one head zeroed", model_change("text", lambda m: _zero_head(m.encoder.layers[1].self_attn))),
    Mutant("vision: last layer dropped", model_change("vision", _drop_last_layer)),
    Mutant("text: positions off by one", model_change("text", _roll_positions)),
    Mutant("text: two columns swapped", model_change("text", _swap_columns)),
    Mutant("rewritten: vision pools the next token", rewritten("vision", row=_neighbour), CLIP),
    Mutant("rewritten: text pools the token before", rewritten("text", row=_neighbour)),
    Mutant("rewritten: causal mask lost", rewritten("text", written=_without_mask), CLIP),
    Mutant("rewritten: pooled token sees the padding", rewritten("text", written=_without_pooled_mask), CLIP),
    Mutant("rewritten: vision scaled twice", rewritten("vision", written=_scaled_twice)),
    Mutant("rewritten: text scaled twice", rewritten("text", written=_scaled_twice)),
    Mutant("rewritten: vision heads interleaved", rewritten("vision", written=_interleaved)),
    Mutant("rewritten: text heads interleaved", rewritten("text", written=_interleaved)),
    Mutant("rewritten: pooling head scaled twice", rewritten("vision", head=_head_scaled_twice), SIGLIP),
    Mutant("rewritten: pooling heads interleaved", rewritten("vision", head=_head_interleaved), SIGLIP),
    Mutant("rewritten: pooling with the next head's scores", rewritten("vision", head=_head_values_of_the_next), SIGLIP),
    Mutant("rewritten: pooling without the values' bias", rewritten("vision", head=_head_without_value_bias), SIGLIP),
    Mutant("vision: weights of 4 bits", model_change("vision", _round_to_bits(4)), limits="int8"),
    Mutant("text: weights of 4 bits", model_change("text", _round_to_bits(4)), limits="int8"),
    Mutant("vision: int8 where fp32 was said", model_change("vision", _round_to_bits(8))),
    # The vision tower of so small a CLIP has too few large weights to saturate.
    Mutant("vision: saturating int8", model_change("vision", replace_linears), SIGLIP, limits="int8"),
    Mutant("text: saturating int8", model_change("text", replace_linears), limits="int8"),
    Mutant("vision: norm overflows in fp16", forward_change("vision", lambda m, x: _half_precision_norm(_pooled(m.get_image_features(pixel_values=x)))), limits="fp16"),
    Mutant("vision: one NaN among the weights", model_change("vision", _one_nan)),
    Mutant("vision: depends on the batch", forward_change("vision", _depends_on_the_batch)),
    Mutant("images: BGR", forward_change("vision", lambda m, x: _pooled(m.get_image_features(pixel_values=x.flip(1))))),
    Mutant("images: bilinear", manifest_change("image", resample=2)),
    Mutant("images: nearest pixel", manifest_change("image", resample=0)),
    Mutant("images: no antialias", nothing, encoder=NoAntialias),
    Mutant("images: Lanczos", manifest_change("image", resample=1)),
    Mutant("images: box filter", manifest_change("image", resample=4)),
    Mutant("images: Hamming window", manifest_change("image", resample=5)),
    Mutant("images: cropped at the corner", nothing, encoder=OffCentre),
    Mutant("images: black bars, not a crop", nothing, encoder=images_first(_square)),
    Mutant("images: made smaller in two steps", nothing, encoder=images_first(_in_two_steps)),
    Mutant("images: orientation ignored", nothing, encoder=images_first(_without_orientation)),
    Mutant("images: 16 bits clipped to 8", nothing, encoder=images_first(_sixteen_bits_clipped)),
    Mutant("images: transparency on white", nothing, encoder=images_first(_on_white)),
    Mutant("images: squashed, not cropped", manifest_change("image", shortest_edge=None, height=32, width=32, crop_height=None, crop_width=None), CLIP),
    Mutant("images: cropped, not squashed", manifest_change("image", shortest_edge=32, height=None, width=None, crop_height=32, crop_width=32), SIGLIP),
    Mutant("images: the other family's mean and std", other_familys_normalisation),
    Mutant("images: not normalised", manifest_change("image", mean=None, std=None)),
    Mutant("images: 0..255", manifest_change("image", rescale_factor=None)),
    Mutant("texts: padded on the left", manifest_change("text", padding_side="left")),
    Mutant("texts: padded to the longest", manifest_change("text", padding="longest"), SIGLIP),
    Mutant("texts: cut short", manifest_change("text", max_length=12), CLIP),
    Mutant("texts: padded to less", manifest_change("text", max_length=16), SIGLIP),
    Mutant("texts: padded with another id", manifest_change("text", pad_id=7), SIGLIP),
    Mutant("texts: case kept by the tokenizer", tokenizer_change(_keep_case), CLIP),
    Mutant("texts: case kept by the policy", manifest_change("text", lowercase=False), SIGLIP),
    Mutant("texts: cut on the other side", manifest_change("text", truncation_side="left")),
    Mutant("texts: cut one token earlier", _one_token_less),
    Mutant("texts: cut at 30 characters", nothing, encoder=texts_first(lambda text: text[:30])),
    Mutant("texts: Unicode normalisation lost", normaliser_change(_without("NFC"))),
    Mutant("texts: compatibility normalisation", normaliser_change(_nfkc)),
    Mutant("texts: accents stripped", normaliser_change(_strip_accents)),
    Mutant("texts: runs of spaces kept", normaliser_change(_replaced(r"\s{2,}", " _ "))),
    Mutant("texts: space at the end kept", normaliser_change(_replaced(r"\s+$", "_"))),
    Mutant("texts: punctuation removed", normaliser_change(_replaced(r"[\"!?,.;:]", ""))),
    Mutant("texts: quotes made straight", normaliser_change(_replaced("[\u201c\u201d]", '"'))),
    Mutant("texts: digits masked", normaliser_change(_replaced(r"\d{4,}", "0"))),
    Mutant("texts: beyond ASCII dropped", normaliser_change(_replaced(r"[^\x00-\x7F]", ""))),
    Mutant("texts: right-to-left marks added", normaliser_change(_replaced("\u05db", "\u05db\u200f"))),
    Mutant("texts: special tokens not recognised", tokenizer_change(_forget_special_tokens)),
    Mutant("texts: markup removed", nothing, encoder=texts_first(lambda text: text.replace("<b>", "").replace("</b>", ""))),
    Mutant("texts: nothing replaced by a full stop", nothing, encoder=texts_first(lambda text: text or ".")),
    Mutant("texts: stale vocabulary", tokenizer_change(_swap_words)),
    Mutant("texts: stale merges", tokenizer_change(_forget_merges)),
    Mutant("texts: no end token", tokenizer_change(_no_end_token)),
    Mutant("texts: order not restored", nothing, encoder=NotPutBack),
    Mutant("scores: another temperature", manifest_value(logit_scale=4.6052)),
    Mutant("scores: another bias", manifest_value(logit_bias=-10.0), SIGLIP),
    Mutant("scores: softmax for sigmoid", manifest_value(loss="softmax"), SIGLIP),
    Mutant("scores: sigmoid for softmax", manifest_value(loss="sigmoid"), CLIP),
    Mutant("text tower of another checkpoint", towers_from("text")),
    Mutant("vision tower of another checkpoint", towers_from("vision")),
    Mutant("both towers of another checkpoint", towers_from("vision", "text")),
    Mutant("towers swapped", _swap_towers),
    Mutant("graph truncated, and sealed again", _truncate),
)  # fmt: skip


def _flip_a_byte(root: Path) -> None:
    path = root / "onnx/vision_model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(root: Path) -> None:
    path = root / "onnx/text_model.onnx"
    path.write_bytes(path.read_bytes()[:-1])


def _swap_files(root: Path) -> None:
    shutil.copy(root / "onnx/text_model.onnx", root / "onnx/vision_model.onnx")


def _edit(name: str, key: str, value: Any) -> Callable[[Path], None]:
    return lambda root: edit_json(root / name, lambda values: values.update({key: value}))


TAMPERED: dict[str, Callable[[Path], None]] = {
    "graph truncated": _cut,
    "one bit of a graph flipped": _flip_a_byte,
    "graphs swapped": _swap_files,
    "tokenizer edited": lambda root: edit_json(root / "tokenizer.json", _swap_words),
    "tokenizer settings edited": _edit("tokenizer_config.json", "model_max_length", 5),
    "preprocessing edited": _edit("preprocessor_config.json", "resample", 2),
    "tokenizer removed": lambda root: (root / "tokenizer.json").unlink(),
    "golden embeddings replaced": lambda root: np.save(root / "golden/text_embeds.npy", np.zeros((5, 48), np.float32)),
}
"""Changes after the bundle was sealed: the hashes must see them."""


def caught_by_hash(root: Path) -> bool:
    """Whether reading the bundle's files notices that they are not what was sealed."""
    try:
        check_files(root, read_manifest(root))
    except CheckpointError:
        return True
    return False


# Honest exports -----------------------------------------------------------------------------------


def reduced(precision: str) -> Break:
    """The graphs in another precision, made as the exporter makes them: the gate may ask for a stricter search."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        images, captions = scenes(0, TRAINED_ON)
        calibrated = calibrations(subject.loaded, images, CaptionMap.from_lists(captions))
        whole = shutil.copytree(root, root.with_name("whole"))

        def checked() -> PrecisionParity:
            for tower in ("vision", "text"):
                shutil.copy(whole / graph_name(tower, precision), root / graph_name(tower, "fp32"))
            seal(root, read_manifest(root))
            return gate(subject, root, precision)

        reducer = Reducer(whole, calibrated, Reporter(silent=True))
        reducer.reduce_until_passed(precision, find_precision(precision).limits, checked)

    return damage


def eager(subject: Subject, other: Subject, root: Path) -> None:
    """Attention written out."""
    model = with_model(subject.tiny)
    with quiet_transformers():
        model.set_attn_implementation("eager")
    for tower in ("vision", "text"):
        export_tower(subject, root, tower, _features(model, tower))


def both(first: Break, second: Break) -> Break:
    """One after the other."""

    def damage(subject: Subject, other: Subject, root: Path) -> None:
        first(subject, other, root)
        second(subject, other, root)

    return damage


HONEST = (
    Mutant("as exported", nothing),
    Mutant("eager attention", eager),
    Mutant("rewritten", rewritten("vision", "text")),
    Mutant("rewritten, fp16", both(rewritten("vision", "text"), reduced("fp16")), limits="fp16"),
    Mutant("rewritten, int8", both(rewritten("vision", "text"), reduced("int8")), limits="int8"),
    Mutant("fp16", reduced("fp16"), limits="fp16"),
    Mutant("int8", reduced("int8"), limits="int8"),
)


def check_names(result: PrecisionParity) -> list[str]:
    """The checks that a result failed."""
    return [check["name"] for check in result.measured["checks"] if not check["passed"]]


def describe(result: PrecisionParity) -> str:
    """A result for a table: which check saw it first, and how many did."""
    names = check_names(result)
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else "passed"
