"""The gradients of a large batch in the memory of a small one (GradCache; Gao et al. 2021, arXiv:2101.06983).

A contrastive loss needs all embeddings of a batch at once, but not the activations behind them. So the
batch is encoded twice, in micro-batches: first without a graph, to compute the embeddings and the gradient
of the loss at each of them; then with a graph, one micro-batch at a time, to propagate these gradients to the weights.
Dropout must be the same both times, so the random state before each micro-batch is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
Embeddings = tuple[Tensor, Tensor]
"""The embeddings of images and of texts, [m, d] each."""


def micro_batches(inputs: Inputs, size: int) -> list[Inputs]:
    """Split tensors [b, ...] into views of `size` rows each; the last may have fewer."""
    split = {name: torch.split(value, size) for name, value in inputs.items()}
    return [dict(zip(split, parts, strict=True)) for parts in zip(*split.values(), strict=True)]


def cached_backward(
    parts: Sequence[Inputs],
    encode: Callable[[Inputs], Embeddings],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    temperature: Sequence[Tensor],
    backward: Callable[[Tensor], None],
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor:
    """Add the gradient of the loss of the whole batch to that of every parameter.

    Args:
        parts: the batch, in micro-batches.
        encode: computes the embeddings of one micro-batch, in any precision.
        loss: computes the loss [] from the image and text embeddings [b, d] of the whole batch, float32.
        temperature: parameters that `loss` uses besides the embeddings.
        backward: called with one scalar for each micro-batch; their gradients add up to that of the
            loss. It may scale them, as accumulation and fp16 require.
        no_sync: a context in which processes do not exchange gradients; they only do so in the last
            micro-batch.

    Returns:
        The loss, float32 [], without a graph.
    """
    with no_sync(), torch.no_grad():
        replays, embeddings = zip(*((_replay(), encode(part)) for part in parts), strict=True)
    image, text = (torch.cat(tower).float().requires_grad_() for tower in zip(*embeddings, strict=True))
    value = loss(image, text)
    of_image, of_text, *of_temperature = torch.autograd.grad(value, [image, text, *temperature])
    sizes = [len(rows) for rows, _ in embeddings]
    cached = list(zip(torch.split(of_image, sizes), torch.split(of_text, sizes), strict=True))
    for part, replay, gradients in zip(parts[:-1], replays, cached, strict=False):
        with no_sync():
            replay()
            backward(_with_gradients(encode(part), gradients))
    replays[-1]()
    # The rest is one backward pass, because processes exchange gradients when every parameter has one.
    last = (*encode(parts[-1]), *temperature)
    backward(_with_gradients(last, (*cached[-1], *of_temperature)))
    return value.detach()


def _replay() -> Callable[[], None]:
    """Make a function that restores the current random state of the CPU and of the device in use."""
    generators: list[Any] = [torch, torch.cuda] if torch.cuda.is_available() else [torch]
    states = [generator.get_rng_state() for generator in generators]

    def replay() -> None:
        for generator, state in zip(generators, states, strict=True):
            generator.set_rng_state(state)

    return replay


def _with_gradients(values: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Make a scalar, float32 [], whose gradients at the values are the given ones."""
    products = [(value.float() * gradient).sum() for value, gradient in zip(values, gradients, strict=True)]
    return torch.stack(products).sum()
