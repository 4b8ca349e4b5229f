"""The float32 graphs: names, shapes, numbers, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from icclip.errors import CheckpointError, GateError
from icclip_export.onnx.export import TOLERANCE, check_finite, check_graph, check_numbers, export_towers, runner
from icclip_export.onnx.towers import check_exportable, example_tokens, tower_exports

IMAGE_OUTPUT = {"clip": "image_embeds", "siglip": "pooler_output"}
TEXT_OUTPUT = {"clip": "text_embeds", "siglip": "pooler_output"}


def shape(value):
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_graphs_have_one_input_and_one_output_with_the_names_that_others_look_for(graphs, family):
    vision = onnx.load(graphs / "vision_model.onnx").graph
    text = onnx.load(graphs / "text_model.onnx").graph
    assert [(i.name, shape(i)) for i in vision.input] == [("pixel_values", ["batch_size", 3, 32, 32])]
    assert [(o.name, shape(o)) for o in vision.output] == [(IMAGE_OUTPUT[family], ["batch_size", 128])]
    # SigLIP pads to its full length, always: another length is an error, not a wrong embedding.
    length = {"clip": "sequence_length", "siglip": 32}[family]
    assert [(i.name, shape(i)) for i in text.input] == [("input_ids", ["batch_size", length])]
    assert [(o.name, shape(o)) for o in text.output] == [(TEXT_OUTPUT[family], ["batch_size", 128])]


def test_the_opset_is_the_one_asked_for(graphs):
    opset = {entry.domain: entry.version for entry in onnx.load(graphs / "text_model.onnx").opset_import}
    assert opset[""] == 18


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_numbers_are_torchs_own(graphs, loaded, tower):
    worst = check_numbers(tower, tower_exports(loaded)[tower], graphs / f"{tower}_model.onnx", loaded)
    assert 0 < worst < TOLERANCE


def test_embeddings_are_projected_and_not_normalised(graphs, loaded):
    ids = example_tokens(loaded, 2)
    found = runner(graphs / "text_model.onnx", tower_exports(loaded)["text"].io)(ids.numpy())
    assert np.abs(np.linalg.norm(found, axis=1) - 1).min() > 0.01
    with torch.inference_mode():
        assert np.allclose(found, loaded.text_features({"input_ids": ids}).numpy(), atol=1e-5)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_a_graph_with_one_changed_weight_is_refused(graphs, loaded, tower, tmp_path):
    model = onnx.load(graphs / f"{tower}_model.onnx")
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(GateError, match=rf"broken.onnx: the {tower} tower is .* away from torch on inputs"):
        check_numbers(tower, tower_exports(loaded)[tower], tmp_path / "broken.onnx", loaded)


def test_unprojected_outputs_are_refused(models, exported):
    loaded = models["clip"]
    tower = tower_exports(loaded)["vision"]
    tower.module.forward = lambda pixel_values: loaded.model.vision_model(pixel_values).pooler_output
    with pytest.raises(GateError, match="away from torch"):
        check_numbers("vision", tower, exported["clip"] / "vision_model.onnx", loaded)


def test_an_embedding_that_is_not_a_number_is_refused(graphs, loaded):
    tower = tower_exports(loaded)["vision"]
    honest = tower.module.forward
    tower.module.forward = lambda pixel_values: honest(pixel_values) * float("nan")
    with pytest.raises(GateError, match="nan away"):
        check_numbers("vision", tower, graphs / "vision_model.onnx", loaded)


def test_a_file_that_is_no_valid_graph_is_refused(graphs, tmp_path):
    model = onnx.load(graphs / "text_model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(GateError, match="the ONNX checker rejects it"):
        check_graph(tmp_path / "broken.onnx")


def test_every_example_text_has_one_end_in_its_own_place(loaded):
    end = loaded.feeder.processor.tokenizer.eos_token_id
    padding = loaded.feeder.processor.tokenizer.pad_token_id
    ids = example_tokens(loaded, 3, 9)
    firsts = [row.tolist().index(end) for row in ids]
    assert len(set(firsts)) == 3
    assert all((row[first + 1 :] == padding).all() for row, first in zip(ids, firsts, strict=True))


def test_texts_pooled_at_the_largest_id_export_as_well(models, exporter, tmp_path):
    """Configurations from before transformers 4.31 say end-of-text is 2, and the largest id is meant."""
    loaded = dataclasses.replace(models["clip"], model=copy.deepcopy(models["clip"].model))
    loaded.model.text_model.eos_token_id = 2
    paths = export_towers(loaded, tmp_path, exporter=exporter)
    assert "ArgMax" in {node.op_type for node in onnx.load(paths["text"]).graph.node}


def test_eager_attention_is_written_out_and_the_model_is_as_before(models, exporter, exported, tmp_path):
    loaded = models["siglip"]
    paths = export_towers(loaded, tmp_path, exporter=exporter, eager_attention=True)
    eager, fused = (
        [node.op_type for node in onnx.load(folder / "vision_model.onnx").graph.node].count("Mul")
        for folder in (tmp_path, exported["siglip"])
    )
    # One scale for each of the four layers, where the fused form scales queries and keys.
    assert eager == fused - 4
    assert loaded.model.config.vision_config._attn_implementation == "sdpa"
    assert check_numbers("vision", tower_exports(loaded)["vision"], paths["vision"], loaded) < TOLERANCE


# What cannot be exported


def test_weights_that_are_not_finite_are_named(models):
    loaded = dataclasses.replace(models["clip"], model=copy.deepcopy(models["clip"].model))
    with torch.no_grad():
        loaded.model.text_projection.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"the weight text_projection.weight is not finite"):
        check_finite(loaded)


def test_models_for_images_of_any_shape_are_refused(models):
    from transformers import Siglip2ImageProcessor

    processor = SimpleNamespace(
        image_processor=Siglip2ImageProcessor(patch_size=16, max_num_patches=16),
        tokenizer=models["siglip"].feeder.processor.tokenizer,
    )
    feeder = dataclasses.replace(models["siglip"].feeder, processor=processor)
    loaded = dataclasses.replace(models["siglip"], feeder=feeder, source="naflex")
    with pytest.raises(CheckpointError, match=r"naflex takes images of any shape \(NaFlex\)"):
        check_exportable(loaded)


def test_a_mask_that_cannot_be_told_from_the_ids_is_refused(models):
    policy = dataclasses.replace(models["clip"].feeder.text_policy, attention_mask=True)
    feeder = dataclasses.replace(models["clip"].feeder, text_policy=policy)
    with pytest.raises(CheckpointError, match="needs an attention mask"):
        check_exportable(dataclasses.replace(models["clip"], feeder=feeder))


def test_graphs_open_after_a_move(graphs, loaded, tmp_path):
    moved = shutil.copytree(graphs, tmp_path / "moved")
    assert check_numbers("text", tower_exports(loaded)["text"], moved / "text_model.onnx", loaded) < TOLERANCE
