from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from icclip.evaluating.products import LARGE, fastest_multiply, multiply_on
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.counting import multiply_here
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance


def ranked(device):
    rng = np.random.default_rng(0)
    captions = CaptionMap.from_lists([[f"{i}.{j}" for j in range(3)] for i in range(50)])
    images, texts = (rng.standard_normal((rows, 32)).astype(np.float32) for rows in (50, 150))
    relevance = Relevance.of(captions, "pair")
    multiply = multiply_here if device is None else multiply_on(device)
    ranks = rank(images, texts, relevance, multiply=multiply, block=16)
    return ranks.i2t_answers.ahead.tolist(), ranks.t2i_answers.ahead.tolist()


def test_the_products_of_torch_give_the_ranks_of_numpy():
    assert ranked("cpu") == ranked(None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_products_of_a_gpu_give_the_ranks_of_numpy():
    assert ranked("cuda") == ranked(None)


@contextmanager
def gpu(monkeypatch, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    yield


def test_a_gpu_is_used_for_large_splits_unless_it_rounds_products(monkeypatch):
    with gpu(monkeypatch, "highest"):
        assert fastest_multiply(LARGE) is not multiply_here
        assert fastest_multiply(LARGE - 1) is multiply_here
    with gpu(monkeypatch, "high"):
        assert fastest_multiply(LARGE) is multiply_here


def test_without_a_gpu_numpy_multiplies(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fastest_multiply(LARGE) is multiply_here
