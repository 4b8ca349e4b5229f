"""Tiny bundles made without the exporter: random weights, torch's own ONNX export, our manifest."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from support.images import photo

from icclip.bundles.golden import GoldenScores, write_golden
from icclip.bundles.manifest import Manifest, Source, TextInputs, TowerFiles, TowerIO, seal
from icclip.runtime.preprocessing import image_inputs_from

TEXTS = ("a red square on a table", "Two BLUE circles!", "nothing", "a very " + "long " * 40 + "caption", "")


@dataclass(frozen=True)
class Tiny:
    """A checkpoint in torch, and what its bundle says of it."""

    model: Any
    image_processor: Any
    tokenizer: Any
    text: TextInputs
    image_output: str
    text_output: str
    loss: str

    def image_embeddings(self, images):
        pixels = self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return self._unit(self.model.get_image_features(pixel_values=pixels))

    def text_embeddings(self, texts):
        tokens = self.tokenizer(
            list(texts), padding=self.text.padding, max_length=self.text.max_length, truncation=True,
            return_attention_mask=False, return_tensors="pt",
        )  # fmt: skip
        return self._unit(self.model.get_text_features(input_ids=tokens["input_ids"]))

    @staticmethod
    def _unit(features):
        features = getattr(features, "pooler_output", features)  # transformers 5
        return torch.nn.functional.normalize(features, dim=-1).detach().numpy()


def tiny_clip() -> Tiny:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_style_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    size = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**size, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 24},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    text = TextInputs(padding="longest", max_length=24, lowercase=False, pad_id=tokenizer.pad_token_id)
    return Tiny(CLIPModel(config).eval(), processor, tokenizer, text, "image_embeds", "text_embeds", "softmax")


def tiny_siglip() -> Tiny:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    tokenizer = siglip_style_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config={**size, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 32},
        vision_config={**size, "image_size": 32, "patch_size": 8},
    )
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    text = TextInputs(padding="max_length", max_length=16, lowercase=False, pad_id=tokenizer.pad_token_id)
    return Tiny(SiglipModel(config).eval(), processor, tokenizer, text, "pooler_output", "pooler_output", "sigmoid")


def clip_style_tokenizer() -> Any:
    """As OpenAI's: lower-cased byte-level BPE between start and end tokens, padded with the end token."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase(),
    ])  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>", show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", 1), ("<|startoftext|>", 0), trim_offsets=False, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1], pad_token=special[1],
        unk_token=special[1], model_max_length=24,
    )  # fmt: skip


def siglip_style_tokenizer() -> Any:
    """As SigLIP's in its fast form: lower case, no punctuation, unigram pieces, one end token that also pads."""
    import string

    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = tokenizers.Tokenizer(models.Unigram())
    punctuation = "".join(f"\\{c}" for c in string.punctuation)
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Lowercase(), normalizers.Replace(tokenizers.Regex(f"[{punctuation}]"), ""),
        normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip(),
    ])  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>", model_max_length=16
    )


class _Tower(torch.nn.Module):
    """One tower's projected features as a forward."""

    def __init__(self, model, features, argument):
        super().__init__()
        self.model, self.features, self.argument = model, features, argument

    def forward(self, inputs):
        features = getattr(self.model, self.features)(**{self.argument: inputs})
        return getattr(features, "pooler_output", features)


def write_bundle(tiny: Tiny, root: Path) -> Manifest:
    """A whole bundle in fp32, golden inputs included."""
    (root / "onnx").mkdir(parents=True)
    tiny.image_processor.save_pretrained(root)
    tiny.tokenizer.save_pretrained(root)
    towers = TowerFiles(vision="onnx/vision_model.onnx", text="onnx/text_model.onnx")
    ids = torch.full((2, tiny.text.max_length), tiny.text.pad_id)
    ids[:, :2] = 0
    fixed = tiny.text.padding == "max_length"
    side = tiny.model.config.vision_config.image_size
    export_graph(
        _Tower(tiny.model, "get_image_features", "pixel_values"), torch.zeros(2, 3, side, side), root / towers.vision,
        names=["pixel_values", tiny.image_output], axes={0: "batch"},
    )  # fmt: skip
    export_graph(
        _Tower(tiny.model, "get_text_features", "input_ids"), ids, root / towers.text,
        names=["input_ids", tiny.text_output], axes={0: "batch"} if fixed else {0: "batch", 1: "length"},
    )  # fmt: skip
    images = [photo(w, h, seed=w) for w, h in ((50, 40), (32, 32), (20, 70))]
    vision, text = tiny.image_embeddings(images), tiny.text_embeddings(TEXTS)
    write_golden(root, images, TEXTS, vision, text, scores=golden_scores(tiny, text @ vision[0]))
    bias = getattr(tiny.model, "logit_bias", None)
    manifest = Manifest(
        model_type=tiny.model.config.model_type,
        backend=tiny.model.config.model_type,
        loss=tiny.loss,  # type: ignore[arg-type]
        embedding_dim=tiny.image_embeddings(images[:1]).shape[1],
        logit_scale=tiny.model.logit_scale.item(),
        logit_bias=None if bias is None else bias.item(),
        source=Source(name="tiny", fingerprint="0", parameters=sum(p.numel() for p in tiny.model.parameters())),
        text=tiny.text,
        image=image_inputs_from(json.loads((root / "preprocessor_config.json").read_text()), "tiny"),
        vision_io=TowerIO(input="pixel_values", output=tiny.image_output),
        text_io=TowerIO(input="input_ids", output=tiny.text_output),
        opset=18,
        versions={"torch": torch.__version__},
        precisions={"fp32": towers},
    )
    return seal(root, manifest)


def golden_scores(tiny: Tiny, cosines: Any) -> GoldenScores:
    """By torch's own functions."""
    factor = tiny.model.logit_scale.exp().item()
    logits = factor * torch.from_numpy(cosines).double()
    if tiny.loss == "sigmoid":
        scores = torch.nn.functional.logsigmoid(logits + tiny.model.logit_bias.item())
    else:
        scores = torch.log_softmax(logits, dim=0)
    return GoldenScores(scores.numpy(), factor)


def export_graph(tower, inputs, path, *, names, axes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The legacy exporter and its tracer have much to say.
        torch.onnx.export(
            tower, (inputs,), str(path), input_names=names[:1], output_names=names[1:],
            dynamic_axes={names[0]: axes, names[1]: {0: "batch"}}, opset_version=18, dynamo=False,
        )  # fmt: skip
