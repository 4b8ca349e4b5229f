"""Encoders of two foreign towers: convolutions, masks and token types inside the graphs, and the gate."""

from __future__ import annotations

import copy
import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from PIL import Image
from support import towers
from support.bundles import export_graph
from support.mutants import _Function as Function
from support.subjects import scenes

from icclip.bundles.manifest import read_manifest, seal
from icclip.config import ModelConfig
from icclip.models.encoder import TorchEncoder
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap
from icclip.runtime import Encoder
from icclip.runtime.preprocessing import Preprocessor, image_inputs_from
from icclip_export.gate.comparison import Compared, Reference, Scoring
from icclip_export.gate.parity import check_precision
from icclip_export.onnx.export import TOLERANCE, check_numbers, export_towers, global_pooling
from icclip_export.onnx.towers import tower_exports
from icclip_export.precisions import precision as find_precision

TEXTS = ["a red circle", "the small blue square above the wet grass", "dog"]


def opened(directory):
    return open_model(Registry(load_plugins=frozenset()), ModelConfig(name=str(directory)))


def exported(start, folder, exporter):
    folder.mkdir()
    loaded = opened(start)
    paths = export_towers(loaded, folder, exporter=exporter)
    return loaded, tower_exports(loaded), paths


@pytest.mark.parametrize(
    ("vision", "text"),
    [(towers.vit, towers.bert), (towers.convnext, towers.roberta), (towers.efficientnet, towers.bert)],
    ids=lambda make: make.__name__,
)
def test_graphs_give_what_torch_gives(icclip, tmp_path, exporter, vision, text):
    start = towers.assembled(icclip, tmp_path, vision(), text(), "--projection-dim", 16)
    loaded, made, paths = exported(start, tmp_path / "onnx", exporter)
    for tower, path in paths.items():
        assert check_numbers(tower, made[tower], path, loaded) < TOLERANCE
    session = onnxruntime.InferenceSession(str(paths["text"]), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input_ids"]
    inputs = loaded.feeder.text_inputs(TEXTS)
    with torch.inference_mode():
        expected = loaded.text_features(inputs).numpy()
    found = session.run(None, {"input_ids": inputs["input_ids"].numpy()})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_pooling_over_everything_is_restored_after_the_export():
    pool = torch.nn.AvgPool2d(64, ceil_mode=True)
    small = torch.nn.AvgPool2d(2)
    tower, images = torch.nn.Sequential(small, pool), torch.rand(2, 3, 8, 8)
    expected = tower(images)
    with global_pooling(tower, images):
        assert "forward" in vars(pool)
        assert "forward" not in vars(small)
        torch.testing.assert_close(tower(images), expected)
    assert "forward" not in vars(pool)


@pytest.mark.parametrize(
    ("values", "size"),
    [
        (towers.PROCESSORS["convnext"], (40, 64)),
        ({**towers.PROCESSORS["convnext"], "size": {"shortest_edge": 384}}, (300, 200)),
        (towers.PROCESSORS["efficientnet"], (40, 64)),
        ({**towers.PROCESSORS["efficientnet"], "include_top": False, "rescale_offset": True}, (40, 64)),
    ],
)
def test_pixels_are_those_of_the_checkpoints_processor(tmp_path, values, size):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    inputs = image_inputs_from(json.loads((tmp_path / "preprocessor_config.json").read_text()), "here")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    expected = processor(images=[image], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(Preprocessor(inputs)([image]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vision", [towers.vit, towers.efficientnet], ids=lambda make: make.__name__)
def test_a_bundle_passes_the_gate_in_every_precision(icclip, tmp_path, exporter, vision):
    start = towers.assembled(icclip, tmp_path, vision(), towers.bert(), "--projection-dim", 32)
    bundle = tmp_path / "bundle"
    options = ["--exporter", exporter.name, "--dataset", "shapes", "--sample", 100]
    for precision in ("fp32", "fp16", "int8"):
        options += ["--precision", precision]
    done = icclip("export", start, "-o", bundle, *options, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["passed"]
    assert read_manifest(bundle).exporter == exporter.name
    loaded, image = opened(start), Image.new("RGB", (70, 50), "red")
    with torch.inference_mode():
        expected = loaded.text_features(loaded.feeder.text_inputs(TEXTS))
    encoder = Encoder.open(bundle, "fp32", "cpu")
    found = encoder.encode_texts(TEXTS)
    np.testing.assert_allclose(found, torch.nn.functional.normalize(expected, dim=-1).numpy(), rtol=1e-4, atol=1e-5)
    assert encoder.encode_images([image]).shape == (1, 32)
    assert icclip("verify", bundle).code == 0


class OfTheBatch(torch.nn.Module):
    """BatchNorm in training mode: it divides by the statistics of whatever it is given."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, values):
        centred = values - values.mean((0, 2, 3), keepdim=True)
        scaled = centred / (centred.pow(2).mean((0, 2, 3), keepdim=True) + self.norm.eps).sqrt()
        return scaled * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


def honest_text(model, ids):
    return model.get_text_features(ids, attention_mask=ids.ne(0).long(), token_type_ids=torch.zeros_like(ids))


def without_mask(model, ids):
    return model.get_text_features(ids)


def with_other_types(model, ids):
    return model.get_text_features(ids, attention_mask=ids.ne(0).long(), token_type_ids=torch.ones_like(ids))


def image_features(model, pixels):
    return model.get_image_features(pixels)


def with_training_norms(model, pixels):
    for parent in list(model.vision_model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(parent, name, OfTheBatch(child))
    return model.get_image_features(pixels)


MUTANTS = {
    "text": {"honest": honest_text, "mask dropped": without_mask, "other token types": with_other_types},
    "vision": {"honest": image_features, "BatchNorm in training mode": with_training_norms},
}


def pooled(output):
    return getattr(output, "pooler_output", output)


def test_the_gate_sees_what_goes_wrong_inside_two_towers(icclip, tmp_path):
    start = towers.assembled(icclip, tmp_path, towers.efficientnet(), towers.bert(), "--projection-dim", 32)
    bundle = tmp_path / "bundle"
    assert icclip("export", start, "-o", bundle, "--dataset", "shapes", "--sample", 20).code == 0
    loaded, (images, captions) = opened(start), scenes(0, 20)
    data = Compared.of(images, CaptionMap.from_lists(captions), 20, 0)
    reference = Reference.of(TorchEncoder(loaded, workers=0), Scoring.of_model(loaded), data)
    examples = {"text": loaded.feeder.text_inputs(TEXTS)["input_ids"], "vision": torch.rand(2, 3, 32, 32)}
    verdicts = {}
    for tower, mutants in MUTANTS.items():
        for name, forward in mutants.items():
            copied = shutil.copytree(bundle, tmp_path / name)
            manifest = read_manifest(copied)
            io = {"text": manifest.text_io, "vision": manifest.vision_io}[tower]
            model = copy.deepcopy(loaded.model).requires_grad_(requires_grad=False)
            axes = {0: "batch", 1: "length"} if tower == "text" else {0: "batch"}
            graph = Function(lambda values, model=model, forward=forward: pooled(forward(model, values)))
            with global_pooling(model.vision_model, torch.rand(2, 3, 32, 32)):
                path = copied / getattr(manifest.precisions["fp32"], tower)
                export_graph(graph, examples[tower], path, names=[io.input, io.output], axes=axes)
            seal(copied, manifest)
            result = check_precision(
                reference,
                lambda precision, copied=copied: Encoder.open(copied, precision, "cpu", threads=1),
                "fp32",
                limits=find_precision("fp32").limits,
            )
            verdicts[tower, name] = result.passed
            shutil.rmtree(copied)
    assert verdicts == {(tower, name): name == "honest" for tower, mutants in MUTANTS.items() for name in mutants}


@pytest.mark.parametrize(("side", "ids", "mask"), [
    ("right", [[2, 7, 0, 8, 3, 0, 0], [2, 3, 0, 0, 0, 0, 0]], [[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]]),
    ("left", [[0, 0, 2, 7, 0, 8, 3]], [[0, 0, 1, 1, 1, 1, 1]]),
])  # fmt: skip
def test_only_the_run_of_padding_is_masked_not_a_padding_token_that_was_typed(side, ids, mask):
    from icclip_export.onnx.towers import padding_mask

    tokenizer = SimpleNamespace(pad_token_id=0, padding_side=side)
    assert padding_mask(torch.tensor(ids), tokenizer).tolist() == mask
