from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from icclip.config import ModelConfig
from icclip.errors import CheckpointError, DataError, UsageError
from icclip.models.encoder import TorchEncoder, choose_device
from icclip.models.opening import open_model


class OneBroken(Sequence):
    """Images of which the last cannot be decoded."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images) + 1

    def __getitem__(self, index):
        if index == len(self.images):
            raise DataError("row 5: broken.jpg cannot be decoded")
        return self.images[index]


@pytest.fixture
def encoder(trained):
    return TorchEncoder(trained.loaded, device="cpu", workers=0)


def plain(features, inputs):
    with torch.inference_mode():
        rows = torch.cat([features(i) for i in inputs]).numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_images_are_encoded_as_one_by_one(encoder, trained, images):
    found = encoder.encode_images(images, batch_size=2)
    expected = plain(trained.loaded.image_features, [trained.loaded.feeder.image_inputs([i]) for i in images])
    assert (found.dtype, found.shape) == (np.float32, (5, 128))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_texts_are_encoded_as_one_by_one_in_their_order(encoder, trained, texts):
    found = encoder.encode_texts(texts, batch_size=2)
    expected = plain(trained.loaded.text_features, [trained.loaded.feeder.text_inputs([t]) for t in texts])
    assert (found.dtype, found.shape) == (np.float32, (4, 128))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_have_length_one(encoder, images, texts):
    for rows in (encoder.encode_images(images), encoder.encode_texts(texts)):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_worker_processes_change_nothing(encoder, trained, images):
    parallel = TorchEncoder(trained.loaded, device="cpu", workers=2)
    many = images * 3
    assert np.array_equal(parallel.encode_images(many, batch_size=2), encoder.encode_images(many, batch_size=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_named(trained, images, workers):
    encoder = TorchEncoder(trained.loaded, device="cpu", workers=workers)
    with pytest.raises(DataError) as error:
        encoder.encode_images(OneBroken(images), batch_size=2)
    assert str(error.value) == "row 5: broken.jpg cannot be decoded"


def test_embeddings_that_are_not_finite_are_refused(registry, trained, texts):
    loaded = open_model(registry, ModelConfig(name=str(trained.directory)))
    with torch.no_grad():
        loaded.model.text_model.final_layer_norm.bias[0] = float("nan")
    with pytest.raises(
        CheckpointError, match="embeddings of texts that are not finite: either its weights are damaged"
    ):
        TorchEncoder(loaded, device="cpu").encode_texts(texts)


def test_a_model_in_training_goes_on_training(trained, texts):
    trained.loaded.model.train()
    try:
        TorchEncoder(trained.loaded, device="cpu").encode_texts(texts)
        assert trained.loaded.model.training
    finally:
        trained.loaded.model.eval()


def test_bfloat16_is_near_float32_and_leaves_the_weights(encoder, trained, texts):
    half = TorchEncoder(trained.loaded, device="cpu", precision="bf16")
    cosines = (half.encode_texts(texts) * encoder.encode_texts(texts)).sum(axis=1)
    assert cosines.min() > 0.99
    assert not np.array_equal(half.encode_texts(texts), encoder.encode_texts(texts))
    assert {p.dtype for p in trained.loaded.model.parameters()} == {torch.float32}


def test_float16_needs_a_gpu(trained):
    with pytest.raises(UsageError, match="fp16 needs a GPU: on a CPU use bf16, or leave it out"):
        TorchEncoder(trained.loaded, device="cpu", precision="fp16")


def test_the_description_says_what_runs_where(encoder, trained):
    family = trained.loaded.model.config.model_type
    millions = sum(p.numel() for p in trained.loaded.model.parameters()) / 1e6
    assert encoder.description == f"{family}, {millions:.1f} M parameters, cpu, fp32"


def test_the_device_is_found():
    assert choose_device("cpu").type == "cpu"
    assert choose_device(None).type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize("name", ["cuda:99", "meta"])
def test_a_device_that_is_not_here(name):
    with pytest.raises(UsageError, match=f"device '{name}' is not available: this machine has cpu"):
        choose_device(name)


def test_a_device_that_does_not_exist():
    with pytest.raises(UsageError, match="unknown device 'gpu': give cpu, cuda, cuda:N or mps"):
        choose_device("gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("fp16", 0.999), ("bf16", 0.99)])
def test_a_gpu_agrees_with_the_cpu(trained, images, precision, least):
    found, expected = (
        TorchEncoder(
            dataclasses.replace(trained.loaded, model=copy.deepcopy(trained.loaded.model)), **options
        ).encode_images(images)
        for options in ({"device": "cuda", "precision": precision}, {"device": "cpu"})
    )
    assert (found * expected).sum(axis=1).min() > least
