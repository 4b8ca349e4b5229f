from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from icclip.training.processes.gather import own_columns
from icclip.training.step import losses
from icclip.training.step.losses import Pairs, not_negatives, sigmoid_loss, softmax_loss

LOG_2 = torch.tensor(math.log(2.0))


def pairs(image, text, ids=None, *, soft=False) -> Pairs:
    """A whole batch on one process; pairs of the same id are no negatives, or with `soft` positives."""
    image, text = torch.tensor(image), torch.tensor(text)
    ids = torch.arange(len(image))[:, None] if ids is None else torch.tensor(ids)[:, None]
    return Pairs(image, text, image, text, own_columns(len(image), image.device), ids, ids, soft)


TWO = ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]])
"""Cosines, images down and texts across: [[1, 0.6], [0, 0.8]]."""


def test_softmax_loss_by_hand():
    # With exp(logit_scale) = 2 the logits are [[2, 1.2], [0, 1.6]].
    images = [math.log(1 + math.exp(1.2 - 2)), math.log(1 + math.exp(0 - 1.6))]
    texts = [math.log(1 + math.exp(0 - 2)), math.log(1 + math.exp(1.2 - 1.6))]
    expected = (sum(images) / 2 + sum(texts) / 2) / 2
    assert softmax_loss(pairs(*TWO), LOG_2).item() == pytest.approx(expected, abs=1e-6)


def test_sigmoid_loss_by_hand():
    # Logits with bias -1: [[1, 0.2], [-1, 0.6]]; positives on the diagonal.
    expected = sum(math.log(1 + math.exp(-z)) for z in (1.0, -0.2, 1.0, 0.6)) / 2
    assert sigmoid_loss(pairs(*TWO), LOG_2, torch.tensor(-1.0)).item() == pytest.approx(expected, abs=1e-6)


def test_ignored_columns_leave_the_softmax_denominators():
    # Text 1 is no negative of image 0, nor text 0's of image 1: what is left has one column each.
    ignored = pairs(*TWO, ids=[5, 5])
    assert softmax_loss(ignored, LOG_2).item() == pytest.approx(0.0, abs=1e-6)


def test_ignored_pairs_leave_the_sigmoid_sum():
    ignored = pairs(*TWO, ids=[5, 5])
    expected = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(-0.6))) / 2
    assert sigmoid_loss(ignored, LOG_2, torch.tensor(-1.0)).item() == pytest.approx(expected, abs=1e-6)


THREE = (
    [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]],
    [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]],
)
"""Cosines: [[1, 0.6, 0], [0, 0.8, 1], [0.6, 1, 0.8]]; with exp(logit_scale) = 2 twice that."""


def test_soft_positives_share_the_softmax_target():
    # Pairs 0 and 1 are alike: rows 0 and 1 have half of the target on each of their columns.
    def row(logits, targets):
        total = sum(math.exp(logit) for logit in logits)
        return -sum(target * (logit - math.log(total)) for logit, target in zip(logits, targets, strict=True))

    halves, last = (0.5, 0.5, 0), (0, 0, 1)
    images = row((2, 1.2, 0), halves) + row((0, 1.6, 2), halves) + row((1.2, 2, 1.6), last)
    texts = row((2, 0, 1.2), halves) + row((1.2, 1.6, 2), halves) + row((0, 2, 1.6), last)
    found = softmax_loss(pairs(*THREE, ids=[5, 5, 6], soft=True), LOG_2)
    assert found.item() == pytest.approx((images + texts) / 6, abs=1e-6)


def test_soft_positives_are_positives_of_the_sigmoid():
    # Logits with bias -1: [[1, 0.2, -1], [-1, 0.6, 1], [0.2, 1, 0.6]]; pairs 0 and 1 are alike.
    signed = (1, 0.2, 1, -1, 0.6, -1, -0.2, -1, 0.6)
    expected = sum(math.log(1 + math.exp(-z)) for z in signed) / 3
    found = sigmoid_loss(pairs(*THREE, ids=[5, 5, 6], soft=True), LOG_2, torch.tensor(-1.0))
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_without_duplicates_soft_changes_nothing(loss):
    found, expected = (loss(pairs(*THREE, soft=soft), LOG_2, torch.tensor(-1.0)) for soft in (True, False))
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_shared_captions_and_shared_images_are_no_negatives_but_the_pair_itself_stays():
    # Columns: caption, image. Rows 0 and 2 have one caption, rows 1 and 3 one image.
    ids = torch.tensor([[7, 0], [8, 1], [7, 2], [9, 1]])
    found = not_negatives(ids, ids, torch.arange(4))
    assert found.nonzero().tolist() == [[0, 2], [1, 3], [2, 0], [3, 1]]


def test_rows_of_one_process_among_the_columns_of_two():
    ids = torch.tensor([[5, 10], [6, 11], [5, 12], [6, 11]])
    second_half = not_negatives(ids[2:], ids, torch.tensor([2, 3]))
    assert second_half.nonzero().tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_ignored_pairs_get_no_gradient(loss):
    batch = pairs(*TWO, ids=[5, 5])
    text = batch.text.clone().requires_grad_()
    value = loss(dataclasses.replace(batch, all_text=text), LOG_2, torch.tensor(0.0))
    (gradient,) = torch.autograd.grad(value, text)
    # Of text 0 only the pair with image 0 counts: along image 1 there is nothing.
    assert torch.isfinite(gradient).all()
    assert gradient[0, 1].item() == 0


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_logits_stay_float32_under_autocast(loss):
    torch.manual_seed(0)
    image, text = (functional.normalize(torch.randn(8, 16), dim=-1) for _ in range(2))
    batch, scale = pairs(image.tolist(), text.tolist()), torch.tensor(math.log(100.0))
    plain = loss(batch, scale, torch.tensor(-10.0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(batch, scale, torch.tensor(-10.0)), plain)


@pytest.mark.parametrize("at_once", [1, 20, 60, 130])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_blocks_give_the_loss_and_gradients_of_the_whole_matrix(loss, soft, at_once, monkeypatch):
    # 8 rows of 13 columns: eight blocks, eight, two of four rows, and all of it.
    whole = value_and_gradients(loss, soft=soft)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
    for mine, of_whole in zip(value_and_gradients(loss, soft=soft), whole, strict=True):
        torch.testing.assert_close(mine, of_whole, atol=1e-6, rtol=1e-5)


def value_and_gradients(loss, local=8, everybody=13, dimensions=16, *, soft=False):
    """Of the last pairs of all, some of which share an id: with both towers, everybody's rows and the temperature."""
    torch.manual_seed(0)
    mine, all_rows = (functional.normalize(torch.randn(2, n, dimensions), dim=-1) for n in (local, everybody))
    leaves = [*mine, *all_rows, torch.tensor(2.0), torch.tensor(-3.0)]
    for leaf in leaves:
        leaf.requires_grad_()
    ids = torch.tensor([[n % 5, n % 7] for n in range(everybody)])
    own = torch.arange(everybody - local, everybody)
    value = loss(Pairs(*leaves[:4], own, ids[own], ids, soft), *leaves[4:])
    return [value, *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_no_tensor_is_larger_than_a_block(loss, monkeypatch):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 8 * 64)
    with Largest() as largest:
        value_and_gradients(loss, local=64, everybody=64, dimensions=4)
    # 8 of 64 rows at once; the two ids of each pair are compared.
    assert largest.elements == 8 * 64 * 2


class Largest(TorchDispatchMode):
    """Remembers the most elements that any result had."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def test_softmax_loss_is_that_of_transformers():
    model = CLIPModel(CLIPConfig(text_config=_small(eos_token_id=49), vision_config=_small_vision(), projection_dim=16))
    _same_as_in_model(model, softmax_loss)


def test_sigmoid_loss_is_that_of_transformers():
    text = _small(projection_size=16) | {"hidden_size": 16}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=_small_vision() | {"hidden_size": 16}))
    torch.nn.init.constant_(model.logit_scale, 1.5)
    torch.nn.init.constant_(model.logit_bias, -2.0)
    _same_as_in_model(model, sigmoid_loss)


def _small(**more):
    return {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 50, "max_position_embeddings": 8, **more,
    }  # fmt: skip


def _small_vision():
    return _small(image_size=16, patch_size=8)


def _same_as_in_model(model, loss):
    torch.manual_seed(1)
    model.eval()
    # Random weights have all images look alike; spread them so that the loss depends on them.
    inputs = {"pixel_values": 5 * torch.randn(6, 3, 16, 16), "input_ids": torch.randint(3, 48, (6, 8))}
    inputs["input_ids"][:, -1] = 49
    output = model(**inputs, return_loss=True)
    batch = pairs(output.image_embeds.tolist(), output.text_embeds.tolist())
    ours = loss(batch, model.logit_scale, getattr(model, "logit_bias", None))
    assert ours.item() == pytest.approx(output.loss.item(), abs=1e-5)
