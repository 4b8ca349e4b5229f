from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from icclip.errors import CheckpointError
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.ranking import rank


def captions_of(*counts):
    return CaptionMap.from_lists([[f"caption {i}.{j}" for j in range(count)] for i, count in enumerate(counts)])


def embeddings_with(similarities):
    """Images [n, n + m] and texts [m, n + m] of length 1 whose cosines are `similarities` [n, m]."""
    wanted = np.asarray(similarities, dtype=np.float32)
    n, m = wanted.shape
    rest = np.sqrt(1 - np.square(wanted).sum(axis=0))  # what is missing to length 1, in a dimension of its own
    return np.eye(n, n + m, dtype=np.float32), np.hstack([wanted.T, np.diag(rest)]).astype(np.float32)


def brute_force(images, texts, captions):
    """The definition, in plain Python with exactly rounded sums: no block, no numpy product."""

    def row(values):
        length = math.sqrt(np.square(values.astype(np.float64)).sum())
        return [round(float(v) / length * 2**26) / 2**26 if length else 0.0 for v in values]

    image_rows, text_rows = [row(v) for v in images], [row(v) for v in texts]
    scores = [
        [float(np.float32(math.fsum(a * b for a, b in zip(i, t, strict=True)))) for t in text_rows] for i in image_rows
    ]
    owner = captions.image_of_text.tolist()
    expected = {"texts_ahead": [], "texts_above": [], "images_ahead": [], "images_above": []}
    for j, i in enumerate(owner):
        own = scores[i][j]
        other_texts = [scores[i][k] for k in range(len(owner)) if owner[k] != i]
        other_images = [scores[k][j] for k in range(len(images)) if k != i]
        expected["texts_ahead"].append(sum(s >= own for s in other_texts))
        expected["texts_above"].append(sum(s > own for s in other_texts))
        expected["images_ahead"].append(sum(s >= own for s in other_images))
        expected["images_above"].append(sum(s > own for s in other_images))
    return expected


COUNTS = ("texts_ahead", "texts_above", "images_ahead", "images_above")


def test_ranks_worked_out_on_paper():
    #              own captions of image 0 | of image 1
    # image 0:        .1        .6            .6    .5     best own: .6, tied with one negative
    # image 1:        .3        .2            .2    .4     best own: .4, nothing reaches it
    ranks = rank(*embeddings_with([[0.1, 0.6, 0.6, 0.5], [0.3, 0.2, 0.2, 0.4]]), captions_of(2, 2))
    # Caption 0 (.1) has both negatives before it; caption 1 (.6) a tie; caption 2 (.2): .3 before, .2 tied.
    assert ranks.texts_ahead.tolist() == [2, 1, 2, 0]
    assert ranks.texts_above.tolist() == [2, 0, 1, 0]
    assert ranks.i2t.tolist() == [2, 1]
    assert ranks.i2t_optimistic.tolist() == [1, 1]
    # Image 0 has texts 2, 3, 0, 1 in the order .6 (negative first in a tie), .6, .5, .1: its own at 2 and 4.
    # Image 1 has .4, .3, .2 (negative), .2: its own at 1 and 4.
    assert ranks.i2t_positions.tolist() == [2, 4, 1, 4]
    # Columns: .1 < .3; .6 > .2; .2 < .6; .4 < .5.
    assert ranks.t2i.tolist() == [2, 1, 2, 2]
    assert ranks.t2i_optimistic.tolist() == [2, 1, 2, 2]
    assert ranks.best_cosines.tolist() == pytest.approx([0.6, 0.4])


def test_a_tie_between_images_goes_against_the_caption():
    # Both images score .5 with both captions.
    ranks = rank(*embeddings_with([[0.5, 0.5], [0.5, 0.5]]), captions_of(1, 1))
    assert ranks.t2i.tolist() == ranks.i2t.tolist() == [2, 2]
    assert ranks.t2i_optimistic.tolist() == ranks.i2t_optimistic.tolist() == [1, 1]


def test_captions_of_one_image_do_not_push_each_other_down():
    ranks = rank(*embeddings_with([[0.5, 0.5, 0.5], [0.1, 0.1, 0.1]]), captions_of(2, 1))
    # Image 0: its two captions are tied with one negative: places 2 and 3.
    assert ranks.i2t_positions.tolist() == [2, 3, 3]


@pytest.mark.parametrize("vector", ["same", "zero"])
def test_a_collapsed_model_ranks_last(vector):
    captions = captions_of(*[5] * 20)
    value = np.full(16, 0.25 if vector == "same" else 0.0, dtype=np.float32)
    ranks = rank(np.tile(value, (20, 1)), np.tile(value, (100, 1)), captions)
    assert set(ranks.i2t) == {96}  # all 95 negatives are tied with the best positive
    assert set(ranks.t2i) == {20}
    assert set(ranks.i2t_optimistic) == set(ranks.t2i_optimistic) == {1}


def adversarial(seed, n=23, dim=37):
    """Few distinct rows, at all places, of values that float32 sums round: ties wherever a block ends."""
    rng = np.random.default_rng(seed)
    captions = captions_of(*rng.integers(1, 6, n))
    palette = rng.standard_normal((7, dim)).astype(np.float32)
    palette[1] = palette[0] + 1e-7 * rng.standard_normal(dim).astype(np.float32)  # all but equal
    palette[2] = 0
    return palette[rng.integers(0, 7, n)], palette[rng.integers(0, 7, captions.n_texts)], captions


@pytest.mark.parametrize("seed", range(4))
def test_ranks_equal_the_definition_whatever_the_block(seed):
    images, texts, captions = adversarial(seed)
    expected = brute_force(images, texts, captions)
    for block in (1, 2, 3, 5, 8, 16, 64, 1000):
        ranks = rank(images, texts, captions, block=block)
        for name in COUNTS:
            assert getattr(ranks, name).tolist() == expected[name], (name, block)


def test_random_embeddings_equal_the_definition():
    rng = np.random.default_rng(0)
    captions = captions_of(*rng.integers(1, 4, 15))
    images, texts = rng.standard_normal((15, 8)), rng.standard_normal((captions.n_texts, 8))
    ranks = rank(images.astype(np.float32), texts.astype(np.float32), captions, block=4)
    expected = brute_force(images.astype(np.float32), texts.astype(np.float32), captions)
    assert {name: getattr(ranks, name).tolist() for name in COUNTS} == expected


def test_equal_rows_tie_at_every_place_of_a_large_product():
    # One text for all: in float32 its cosine with an image depends on where the row stands in the product.
    rng = np.random.default_rng(3)
    images = rng.standard_normal((301, 257)).astype(np.float32)
    texts = np.tile(rng.standard_normal((1, 257)).astype(np.float32), (301, 1))
    ranks = rank(images, texts, captions_of(*[1] * 301), block=97)
    assert set(ranks.i2t) == {301}
    assert set(ranks.i2t_optimistic) == {1}
    assert sorted(ranks.t2i) == list(range(1, 302))


def test_the_length_of_a_row_does_not_matter():
    images, texts, captions = adversarial(9)
    scaled = rank(images * 64, texts / 128, captions)  # powers of two: exact
    assert scaled.texts_ahead.tolist() == rank(images, texts, captions).texts_ahead.tolist()


def test_one_image_alone():
    ranks = rank(*embeddings_with([[0.5, 0.1]]), captions_of(2))
    assert ranks.i2t.tolist() == [1]
    assert ranks.t2i.tolist() == [1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(value):
    images, texts = embeddings_with([[0.5, 0.1], [0.1, 0.5]])
    texts[1, 0] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinity for 1 of 2 texts, the first is number 1: .*try fp32"):
        rank(images, texts, captions_of(1, 1))


def test_embeddings_of_different_widths_are_refused():
    with pytest.raises(CheckpointError, match="image embeddings have 4 dimensions and text embeddings 3"):
        rank(np.ones((1, 4)), np.ones((1, 3)), captions_of(1))


def test_a_wrong_number_of_rows_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match=r"text embeddings have shape \(3, 4\): expected \[1, dim\]"):
        rank(np.ones((1, 4)), np.ones((3, 4)), captions_of(1))


def test_memory_does_not_grow_with_the_number_of_pairs():
    rng = np.random.default_rng(0)
    vectors, captions = rng.standard_normal((3000, 4)), captions_of(*[1] * 3000)
    tracemalloc.start()
    rank(vectors, vectors, captions, block=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 3000 * 4 / 10  # of what all similarities would take
