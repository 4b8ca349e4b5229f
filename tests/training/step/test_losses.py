from __future__ import annotations

import dataclasses
import math
import runpy
from pathlib import Path

import pytest
import torch
from support import reference_losses
from support.plain_losses import plain_loss
from support.processes import under_torchrun
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from icclip.errors import UsageError
from icclip.training.processes.gather import own_columns
from icclip.training.step import losses, softmax_both_ways
from icclip.training.step.logits import Matrix, Sizes
from icclip.training.step.losses import LOSSES, Pairs, not_negatives, sigmoid_loss, softmax_loss

SCRIPT = Path(__file__).with_name("divided_batch.py")

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


FURTHER = torch.tensor([[7, 0, 8, -1], [8, 1, -1, -1], [9, 2, 7, 8]])
"""Image 0 has the caption of pair 1 as well, image 2 those of both others; no other image has caption 9."""


def test_a_caption_that_another_image_has_too_is_no_negative_of_that_image_though_it_shows_another():
    found = not_negatives(FURTHER, FURTHER, torch.arange(3))
    assert found.int().tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 0]]
    of_texts = not_negatives(FURTHER, FURTHER, torch.arange(3), of_texts=True)
    assert torch.equal(of_texts, found.T)


def test_further_captions_leave_the_softmax_both_ways():
    # The logits are [[2, 1.2, 0], [0, 1.6, 2], [1.2, 2, 1.6]]; images 0 and 2 ignore text 1, image 2 text 0 too.
    left_out = -math.inf
    logits = [[2, left_out, 0], [0, 1.6, 2], [left_out, left_out, 1.6]]
    rows = sum(math.log(sum(map(math.exp, row))) - row[place] for place, row in enumerate(logits))
    columns = sum(
        math.log(sum(map(math.exp, column))) - column[place] for place, column in enumerate(zip(*logits, strict=True))
    )
    whole = dataclasses.replace(pairs(*THREE), ids=FURTHER, all_ids=FURTHER)
    assert softmax_loss(whole, LOG_2).item() == pytest.approx((rows + columns) / 6, abs=1e-6)


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


FAMILIES = ("softmax", "sigmoid")
POLICIES = ("mask", "soft", "off")


def batch_of(size, dimensions=16, dtype=torch.float64, temperature=20.0, repeated=0.3):
    """Rows of length 1, a scale, a bias and ids of which a share are met again; leaves that want gradients."""
    generator = torch.Generator().manual_seed(size)
    image = functional.normalize(torch.randn(size, dimensions, generator=generator, dtype=torch.float64), dim=-1)
    noise = torch.randn(size, dimensions, generator=generator, dtype=torch.float64)
    text = functional.normalize(image + noise / dimensions**0.5, dim=-1)
    values = (image, text, torch.tensor(math.log(temperature)), torch.tensor(-5.0))
    ids = torch.arange(2 * size).reshape(size, 2)
    met = torch.rand(size, 2, generator=generator) < repeated
    ids[met] = torch.randint(size, (int(met.sum()),), generator=generator) // 4
    return [value.to(dtype).requires_grad_() for value in values], ids


def with_further(ids, seed=0):
    """Ids [b, 2] -> [b, 5]: some images have up to three captions more, most of them of other pairs."""
    generator = torch.Generator().manual_seed(seed)
    further = ids[torch.randint(len(ids), (len(ids), 3), generator=generator), 0]
    further[torch.rand(further.shape, generator=generator) < 0.6] = -1
    return torch.cat([ids, further], 1)


def ours(family, leaves, ids, policy="mask", **options):
    """The loss of one process that holds all pairs."""
    image, text, *temperature = leaves
    own = own_columns(len(image), image.device)
    ids = own[:, None] if policy == "off" else ids
    return LOSSES[family](Pairs(image, text, image, text, own, ids, ids, policy == "soft", **options), *temperature)


def with_gradients(loss, leaves):
    """[loss, gradients at image, text, scale, bias]; zeros where the loss does not depend on it."""
    return [loss, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


def assert_close(found, expected, relative=1e-6):
    """By the length of each difference."""
    for name, one, other in zip(("loss", "image", "text", "scale", "bias"), found, expected, strict=True):
        difference = (one.double() - other.double()).norm()
        assert difference <= relative * other.double().norm() + 1e-12, (name, difference, other.norm())


@pytest.fixture
def blocks_of(monkeypatch):
    """Blocks, strips and what is kept, in bytes."""

    def use(block, strip, kept):
        monkeypatch.setattr(Sizes, "of", lambda _device: Sizes(block, strip, kept))

    return use


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 333])
@pytest.mark.parametrize("ids_of", [torch.clone, with_further])
def test_loss_and_gradients_are_those_of_the_plain_matrix(family, policy, size, ids_of):
    leaves, ids = batch_of(size)
    ids = ids_of(ids)
    expected = with_gradients(plain_loss(family, leaves, ids, policy), leaves)
    assert_close(with_gradients(ours(family, leaves, ids, policy), leaves), expected)


@pytest.mark.parametrize("sizes", [(0, 0, 0), (5000, 1000, 0), (5000, 2000, 20000), (9999, 1, 10**6)])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ids_of", [torch.clone, with_further])
def test_blocks_of_any_size_give_the_same(family, policy, sizes, ids_of, blocks_of):
    # 41 rows of 328 bytes: one row at once; 15 and 3; 15 and 6 with the first 45 kept, which is all; 30 and 1, all kept.
    leaves, ids = batch_of(41)
    ids = ids_of(ids)
    expected = with_gradients(plain_loss(family, leaves, ids, policy), leaves)
    blocks_of(*sizes)
    assert_close(with_gradients(ours(family, leaves, ids, policy), leaves), expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_some_rows_are_kept_for_the_second_pass_and_the_others_computed_again(policy, blocks_of, monkeypatch):
    leaves, ids = batch_of(41)
    expected = with_gradients(plain_loss("softmax", leaves, ids, policy), leaves)
    blocks_of(10 * 328, 3 * 328, 25 * 328)
    computed = []
    monkeypatch.setattr(Matrix, "logits", counting(Matrix.logits, computed))
    assert_close(with_gradients(ours("softmax", leaves, ids, policy), leaves), expected)
    rows = [place.start for place in computed]
    assert rows == [0, 10, 20, 30, 40, 20, 30, 40]


def counting(method, calls):
    def counted(self, rows, *more):
        calls.append(rows)
        return method(self, rows, *more)

    return counted


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mask", "soft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_4096(family, policy):
    leaves, ids = batch_of(4096, repeated=0.05)
    expected = with_gradients(plain_loss(family, leaves, ids, policy), leaves)
    assert_close(with_gradients(ours(family, leaves, ids, policy), leaves), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [2, 64, 1024])
def test_float32_is_as_near_to_float64_as_the_plain_matrix_in_float32_is(family, size):
    leaves, ids = batch_of(size, dtype=torch.float32)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = with_gradients(plain_loss(family, exact, ids), exact)
    plain = with_gradients(plain_loss(family, leaves, ids), leaves)
    found = with_gradients(ours(family, leaves, ids), leaves)
    assert all(one.dtype == torch.float32 for one in found)
    for one, other, right in zip(found, plain, expected, strict=True):
        allowed = 2 * (other.double() - right).norm() + 1e-6 * right.norm() + 1e-7
        assert (one.double() - right).norm() <= allowed


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("temperature", [1.0, 100.0, 300.0])
def test_columns_far_below_the_highest_of_their_rows_keep_their_digits(policy, temperature):
    # Text 0 is opposite to all images; at exp(-200) of a row's highest its column would have no digits in float32.
    (image, text, _, bias), ids = batch_of(24, dtype=torch.float32, repeated=0.2)
    image = functional.normalize(image.detach() * 0.05 + torch.eye(16)[0], dim=-1).requires_grad_()
    text = functional.normalize(torch.cat([-torch.eye(16)[:1], image.detach()[1:] + text.detach()[1:] * 0.1]), dim=-1)
    leaves = [image, text.requires_grad_(), torch.tensor(math.log(temperature), requires_grad=True), bias]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = with_gradients(plain_loss("softmax", exact, ids, policy), exact)
    # Logits of 100 have seven digits: their exponentials have five.
    assert_close(with_gradients(ours("softmax", leaves, ids, policy), leaves), expected, 1e-6 * max(3, temperature))


def test_two_exponentials_are_used_only_where_one_has_no_digits(monkeypatch):
    used = []
    monkeypatch.setattr(softmax_both_ways._TwoExponentials, "sums", lambda self: used.append(self) or torch.zeros(()))
    monkeypatch.setattr(softmax_both_ways._TwoExponentials, "gradients", lambda self: None)
    image = torch.eye(4)
    for temperature, times in ((20.0, 0), (100.0, 1)):
        text = torch.eye(4)
        text[0] = -text[1]
        leaves = [image, text, torch.tensor(math.log(temperature)), None]
        ours("softmax", leaves, torch.arange(4)[:, None])
        assert len(used) == times


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 8, 24])
@pytest.mark.parametrize("middle", [-60.0, -20.0, -5.0, 0.0, 5.0, 60.0])
def test_values_that_share_a_logarithm_have_the_sum_of_their_own(rows, middle):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, 5, generator=generator) + middle
    expected = functional.softplus(logits.double()).sum()
    found = losses._sum_of_softplus(logits.clone(), torch.empty_like(logits))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_what_is_ignored_adds_nothing_and_what_is_no_number_stays_so():
    logits = torch.tensor([[1.0, -torch.inf, 2.0, -torch.inf]])
    expected = functional.softplus(logits[:, ::2]).sum().item()
    assert losses._sum_of_softplus(logits, torch.empty(1, 4)).item() == pytest.approx(expected)
    logits[0, 1] = torch.nan
    assert losses._sum_of_softplus(logits, torch.empty(1, 4)).isnan()


@pytest.mark.parametrize("policy", POLICIES)
def test_logits_whose_exponentials_overflow_when_multiplied(policy):
    # Logits of up to 60: the product of eight exponentials is beyond float32.
    leaves, ids = batch_of(24, dtype=torch.float32, temperature=65.0)
    with torch.no_grad():
        leaves[0][:] = leaves[1][:] = functional.normalize(leaves[0].abs(), dim=-1)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = with_gradients(plain_loss("sigmoid", exact, ids, policy), exact)
    assert_close(with_gradients(ours("sigmoid", leaves, ids, policy), leaves), expected, 2e-6)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_everything_alike_is_no_special_case(family, policy):
    leaves, _ = batch_of(30)
    ids = torch.full((30, 1), 7)
    expected = with_gradients(plain_loss(family, leaves, ids, policy), leaves)
    assert_close(with_gradients(ours(family, leaves, ids, policy), leaves), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_finite_shows_in_the_loss(family):
    leaves, ids = batch_of(8, dtype=torch.float32)
    leaves[1].data[3, 0] = torch.nan
    assert ours(family, leaves, ids).isnan()


def test_a_negative_id_agrees_with_none():
    leaves, _ = batch_of(6)
    some, none = torch.tensor([[1, -1]] * 2 + [[n, -1] for n in range(10, 14)]), torch.arange(6)[:, None]
    none[1] = 0
    for family in FAMILIES:
        assert_close(
            with_gradients(ours(family, leaves, some), leaves), with_gradients(ours(family, leaves, none), leaves)
        )


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block", [400, 4000])
def test_rows_among_more_columns_are_those_of_the_previous_version(family, soft, block, blocks_of):
    expected = value_and_gradients(getattr(reference_losses, f"{family}_loss"), reference_losses.Pairs, soft=soft)
    blocks_of(block, block // 2, block)
    found = value_and_gradients(LOSSES[family], Pairs, soft=soft)
    for mine, previous in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, previous, atol=1e-6, rtol=1e-5)


def value_and_gradients(loss, pairs_of, local=8, everybody=13, dimensions=16, *, soft=False):
    """Of the last pairs of all, some of which share an id: with both towers, everybody's rows and the temperature."""
    torch.manual_seed(0)
    mine, all_rows = (functional.normalize(torch.randn(2, n, dimensions), dim=-1) for n in (local, everybody))
    leaves = [*mine, *all_rows, torch.tensor(2.0), torch.tensor(-3.0)]
    for leaf in leaves:
        leaf.requires_grad_()
    ids = torch.tensor([[n % 5, n % 7] for n in range(everybody)])
    own = torch.arange(everybody - local, everybody)
    value = loss(pairs_of(*leaves[:4], own, ids[own], ids, soft), *leaves[4:])
    return [value, *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)]


@pytest.mark.distributed
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_give_the_loss_and_gradients_of_the_plain_matrix(processes, tmp_path):
    reports = under_torchrun(SCRIPT, tmp_path, processes)
    script = runpy.run_path(str(SCRIPT))
    for case in script["CASES"]:
        leaves, ids = script["batch"]()
        family, policy, _ = case
        value, image, text, *temperature = with_gradients(plain_loss(family, leaves, ids, policy), leaves)
        found = [report[case] for report in reports]
        # Images, texts and ids there; the gradients of texts, and of images where the loss has two matrices, back.
        assert [int(one[5]) for one in found] == [5 if family == "softmax" else 4] * processes
        # A process's own gradients count once, and what DDP averages counts as the mean.
        rows = [torch.cat([one[place] for one in found]) / processes for place in (1, 2)]
        means = [torch.stack([one[place] for one in found]).mean(0) for place in (0, 3, 4)]
        assert_close([means[0], *rows, *means[1:]], [value, image, text, *temperature])


@pytest.mark.parametrize("frozen", [(0,), (1,), (0, 1), (2, 3), (0, 1, 2), (3,)])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_frozen_gets_no_gradient_and_changes_none(family, frozen):
    leaves, ids = batch_of(9)
    expected = with_gradients(ours(family, leaves, ids), leaves)
    some = [leaf.detach() if place in frozen else leaf.detach().requires_grad_() for place, leaf in enumerate(leaves)]
    if family == "softmax" and set(frozen) == {0, 1, 2}:
        assert not ours(family, some, ids).requires_grad
        return
    ours(family, some, ids).backward()
    for place, leaf in enumerate(some):
        if place in frozen:
            assert leaf.grad is None
        elif leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, expected[1 + place])


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_graph_there_is_the_value(family):
    leaves, ids = batch_of(9)
    with torch.no_grad():
        value = ours(family, leaves, ids)
    assert not value.requires_grad
    torch.testing.assert_close(value, ours(family, leaves, ids).detach())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_what_comes_after_the_loss_too(family):
    leaves, ids = batch_of(9)
    loss = ours(family, leaves, ids)
    expected = [7 * gradient for gradient in with_gradients(loss, leaves)[1:]]
    loss = ours(family, leaves, ids)
    (loss * 7 + 1).backward(retain_graph=True)
    (loss * 7 + 1).backward()
    for leaf, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad, 2 * gradient)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_gradients_are_refused_in_one_line(family):
    leaves, ids = batch_of(4)
    loss = ours(family, leaves, ids)
    with pytest.raises(
        UsageError, match=r"differentiated twice \(create_graph=True\).*: leave create_graph out"
    ) as told:
        torch.autograd.grad(loss, leaves[:2], create_graph=True)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_in_half_precision_get_gradients_of_their_own(family):
    leaves, ids = batch_of(32, dtype=torch.float32)
    half = [leaf.detach().bfloat16().requires_grad_() for leaf in leaves[:2]] + leaves[2:]
    full = [leaf.detach().float().requires_grad_() for leaf in half]
    found, expected = (with_gradients(ours(family, some, ids), some) for some in (half, full))
    assert [one.dtype for one in found] == [torch.float32] + [torch.bfloat16] * 2 + [torch.float32] * 2
    assert_close(found, [one if n in (0, 3, 4) else one.bfloat16() for n, one in enumerate(expected)], 1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_products_in_half_precision_where_asked(family):
    leaves, ids = batch_of(256, dtype=torch.float32)
    exact = with_gradients(ours(family, leaves, ids), leaves)
    halved = with_gradients(ours(family, leaves, ids, products=torch.bfloat16), leaves)
    # Eight bits: logits of 20 are known to 0.05.
    assert_close(halved, exact, relative=0.05)
    assert all(one.dtype == torch.float32 for one in halved)
    assert not torch.equal(halved[1], exact[1])


# torch's compiler itself looks at the gradients of what it is given.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_model_before_the_loss(family):
    leaves, ids = batch_of(12, dtype=torch.float32)
    tower = torch.nn.Linear(16, 16, bias=False)

    def loss(forward):
        return ours(family, [forward(leaves[0]), *leaves[1:]], ids)

    def gradient(value):
        (found,) = torch.autograd.grad(value, tower.weight)
        return found

    expected = gradient(loss(tower))
    torch.testing.assert_close(gradient(loss(torch.compile(tower, backend="aot_eager"))), expected)
    torch.testing.assert_close(gradient(torch.compile(loss, backend="aot_eager")(tower)), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_is_larger_than_a_block(family, blocks_of):
    leaves, ids = batch_of(64, dimensions=4, dtype=torch.float32, repeated=1)
    blocks_of(16 * 64 * 4, 8 * 64 * 4, 16 * 64 * 4)
    with Largest() as largest:
        ours(family, leaves, ids).backward()
    assert largest.elements == 16 * 64


def test_blocks_follow_the_device():
    sizes = Sizes.of(torch.device("cpu"))
    assert 0 < sizes.strip <= sizes.block <= sizes.kept


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
