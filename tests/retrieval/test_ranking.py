from __future__ import annotations

import contextlib
import math
import tracemalloc

import numpy as np
import pytest

from icclip.errors import CheckpointError
from icclip.retrieval import counting
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance


def pairs_of(*counts):
    captions = [[f"caption {i}.{j}" for j in range(count)] for i, count in enumerate(counts)]
    return Relevance.of(CaptionMap.from_lists(captions), "pair")


def embeddings_with(similarities):
    """Images [n, n + m] and texts [m, n + m] of length 1 whose cosines are `similarities` [n, m]."""
    wanted = np.asarray(similarities, dtype=np.float32)
    n, m = wanted.shape
    rest = np.sqrt(1 - np.square(wanted).sum(axis=0))  # what is missing to length 1, in a dimension of its own
    return np.eye(n, n + m, dtype=np.float32), np.hstack([wanted.T, np.diag(rest)]).astype(np.float32)


def exact_cosines(images, texts):
    """In plain Python with exactly rounded sums: no block, no numpy product."""

    def row(values):
        length = math.sqrt(np.square(values.astype(np.float64)).sum())
        return [round(float(v) / length * 2**26) / 2**26 if length else 0.0 for v in values]

    image_rows, text_rows = [row(v) for v in images], [row(v) for v in texts]
    return [
        [float(np.float32(math.fsum(a * b for a, b in zip(i, t, strict=True)))) for t in text_rows] for i in image_rows
    ]


def right_answers(captions, *, copies=False, keys=None):
    """The definition, as a set of (image, text): whatever has the same content is the same answer."""
    texts, owner = captions.texts, captions.image_of_text.tolist()
    if not copies:
        return {(i, j) for j, i in enumerate(owner)}
    keys = keys or list(range(captions.n_images))
    content = {(keys[i], texts[j]) for j, i in enumerate(owner)}
    return {(i, j) for i in range(len(keys)) for j in range(len(texts)) if (keys[i], texts[j]) in content}


def brute_force(scores, right):
    """Of each query of a matrix of scores: rank, optimistic rank, and the places of all right answers."""
    found = []
    for i, own in enumerate(scores):
        wrong = [score for j, score in enumerate(own) if (i, j) not in right]
        positives = sorted((score for j, score in enumerate(own) if (i, j) in right), reverse=True)
        ahead = [sum(score >= positive for score in wrong) for positive in positives]
        above = sum(score > positives[0] for score in wrong)
        found.append((1 + ahead[0], 1 + above, [1 + place + before for place, before in enumerate(ahead)]))
    return found


def measured(answers):
    """Likewise, of ranks."""
    places = [answers.places(query).tolist() for query in range(len(answers.queries))]
    return list(zip(answers.ranks.tolist(), answers.optimistic.tolist(), places, strict=True))


def assert_as_defined(images, texts, relevance, right, *, blocks=(4,), fews=(8,)):
    scores = exact_cosines(images, texts)
    expected = (
        brute_force(scores, right),
        brute_force(list(map(list, zip(*scores, strict=True))), {(j, i) for i, j in right}),
    )
    for block in blocks:
        for few in fews:
            ranks = rank(images, texts, relevance, block=block, few=few)
            assert (measured(ranks.i2t_answers), measured(ranks.t2i_answers)) == expected, (block, few)


def test_ranks_worked_out_on_paper():
    #              own captions of image 0 | of image 1
    # image 0:        .1        .6            .6    .5     best own: .6, tied with one negative
    # image 1:        .3        .2            .2    .4     best own: .4, nothing reaches it
    ranks = rank(*embeddings_with([[0.1, 0.6, 0.6, 0.5], [0.3, 0.2, 0.2, 0.4]]), pairs_of(2, 2))
    # Caption 0 (.1) has both negatives before it; caption 1 (.6) a tie; caption 2 (.2): .3 before, .2 tied.
    # The best first: image 0's .6 and .1, then image 1's .4 and .2.
    assert ranks.i2t_answers.ahead.tolist() == [1, 2, 0, 2]
    assert ranks.i2t_answers.above.tolist() == [0, 2, 0, 1]
    assert ranks.i2t.tolist() == [2, 1]
    assert ranks.i2t_optimistic.tolist() == [1, 1]
    # Image 0 has texts 2, 3, 0, 1 in the order .6 (negative first in a tie), .6, .5, .1: its own at 2 and 4.
    # Image 1 has .4, .3, .2 (negative), .2: its own at 1 and 4.
    assert [ranks.i2t_answers.places(image).tolist() for image in range(2)] == [[2, 4], [1, 4]]
    # Columns: .1 < .3; .6 > .2; .2 < .6; .4 < .5.
    assert ranks.t2i.tolist() == [2, 1, 2, 2]
    assert ranks.t2i_optimistic.tolist() == [2, 1, 2, 2]
    assert ranks.best_cosines.tolist() == pytest.approx([0.6, 0.4])


def test_a_tie_between_images_goes_against_the_caption():
    # Both images score .5 with both captions.
    ranks = rank(*embeddings_with([[0.5, 0.5], [0.5, 0.5]]), pairs_of(1, 1))
    assert ranks.t2i.tolist() == ranks.i2t.tolist() == [2, 2]
    assert ranks.t2i_optimistic.tolist() == ranks.i2t_optimistic.tolist() == [1, 1]


def test_pairs_of_one_image_do_not_push_each_other_down():
    ranks = rank(*embeddings_with([[0.5, 0.5, 0.5], [0.1, 0.1, 0.1]]), pairs_of(2, 1))
    # Image 0: its two captions are tied with one negative: places 2 and 3.
    assert ranks.i2t_answers.places(0).tolist() == [2, 3]
    assert ranks.i2t_answers.places(1).tolist() == [3]


@pytest.mark.parametrize("vector", ["same", "zero"])
def test_a_collapsed_model_ranks_last(vector):
    captions = pairs_of(*[5] * 20)
    value = np.full(16, 0.25 if vector == "same" else 0.0, dtype=np.float32)
    ranks = rank(np.tile(value, (20, 1)), np.tile(value, (100, 1)), captions)
    assert set(ranks.i2t) == {96}  # all 95 negatives are tied with the best positive
    assert set(ranks.t2i) == {20}
    assert set(ranks.i2t_optimistic) == set(ranks.t2i_optimistic) == {1}


def adversarial(seed, n=23, dim=37):
    """Few distinct rows, at all places, of values that float32 sums round: ties wherever a block ends."""
    rng = np.random.default_rng(seed)
    relevance = pairs_of(*rng.integers(1, 6, n))
    palette = rng.standard_normal((7, dim)).astype(np.float32)
    palette[1] = palette[0] + 1e-7 * rng.standard_normal(dim).astype(np.float32)  # all but equal
    palette[2] = 0
    return palette[rng.integers(0, 7, n)], palette[rng.integers(0, 7, relevance.captions.n_texts)], relevance


@pytest.mark.parametrize("seed", range(4))
def test_ranks_equal_the_definition_whatever_the_block(seed):
    images, texts, relevance = adversarial(seed)
    right = right_answers(relevance.captions)
    assert_as_defined(images, texts, relevance, right, blocks=(1, 2, 3, 5, 8, 16, 64, 1000), fews=(0, 2, 8))


def test_random_embeddings_equal_the_definition():
    rng = np.random.default_rng(0)
    relevance = pairs_of(*rng.integers(1, 4, 15))
    images = rng.standard_normal((15, 8)).astype(np.float32)
    texts = rng.standard_normal((relevance.captions.n_texts, 8)).astype(np.float32)
    assert_as_defined(images, texts, relevance, right_answers(relevance.captions))


def with_copies(seed, n=40, words=12, dim=9):
    """Images of which some are the same, captions that many of them share, and embeddings with ties."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, n - 8, n).tolist()
    captions = CaptionMap.from_lists([[f"word {w}" for w in rng.integers(0, words, rng.integers(1, 5))] for _ in keys])
    palette = np.round(rng.standard_normal((n + words, dim)), 1).astype(np.float32)
    texts = np.stack([palette[n + int(text.split()[1])] for text in captions.texts])
    return palette[keys], texts, captions, keys


@pytest.mark.parametrize("seed", range(4))
def test_answers_that_many_share_equal_the_definition_whatever_the_block(seed):
    images, texts, captions, keys = with_copies(seed)
    right, relevance = right_answers(captions, copies=True, keys=keys), Relevance.of(captions, "text", keys)
    assert_as_defined(images, texts, relevance, right, blocks=(1, 7, 16, 1000), fews=(0, 2, 8))
    assert_as_defined(images, texts, Relevance.of(captions, "pair", keys), right_answers(captions))


def test_shared_captions_worked_out_on_paper():
    # "a dog" stands at both images: texts 0 and 3. Copies of a text have one embedding.
    #              a dog   a cat | a bird  a dog
    # image 0:      .5      .2      .3      .5
    # image 1:      .4      .6      .1      .4
    captions = CaptionMap.from_lists([["a dog", "a cat"], ["a bird", "A  dog"]])
    images, texts = embeddings_with([[0.5, 0.2, 0.3, 0.5], [0.4, 0.6, 0.1, 0.4]])
    texts[3] = texts[0]
    ranks = rank(images, texts, Relevance.of(captions, "text"))
    # Image 0: both dogs, then the bird, then its cat: right ones at 1, 2, 4. Image 1: the cat, which is
    # wrong, both dogs at 2 and 3, its bird at 4.
    assert [ranks.i2t_answers.places(image).tolist() for image in range(2)] == [[1, 2, 4], [2, 3, 4]]
    assert ranks.i2t.tolist() == [1, 2]
    # Every image is right for a dog; the cat belongs to image 0 (.2 < .6), the bird to image 1 (.1 < .3).
    assert ranks.t2i.tolist() == [1, 2, 2, 1]
    assert ranks.t2i_answers.places(3).tolist() == [1, 2]
    assert ranks.best_cosines.tolist() == pytest.approx([0.5, 0.4])
    # By pairs, image 0's dog is tied with image 1's, which is wrong; text 3 is image 1's alone (.4 < .5).
    pairs = rank(images, texts, Relevance.of(captions, "pair"))
    assert (pairs.i2t.tolist(), pairs.i2t_optimistic.tolist()) == ([2, 3], [1, 2])
    assert pairs.t2i.tolist() == [1, 2, 2, 2]


def test_byte_identical_images_are_one_answer():
    # Images 0 and 1 are the same file, with a caption each.
    images, texts = embeddings_with([[0.5, 0.3, 0.4], [0.5, 0.3, 0.4], [0.1, 0.2, 0.6]])
    images[1] = images[0]
    captions = CaptionMap.from_lists([["a dog"], ["a puppy"], ["a cat"]])
    ranks = rank(images, texts, Relevance.of(captions, "text", [b"x", b"x", b"y"]))
    assert [ranks.i2t_answers.places(image).tolist() for image in range(3)] == [[1, 3], [1, 3], [1]]
    assert ranks.t2i.tolist() == [1, 1, 1]
    assert rank(images, texts, Relevance.of(captions, "text")).t2i.tolist() == [2, 2, 1]


def test_copies_that_an_encoder_makes_almost_equal_are_equal():
    images, texts, captions, keys = with_copies(0)
    noise = np.random.default_rng(1)
    moved = [rows + 1e-6 * noise.standard_normal(rows.shape).astype(np.float32) for rows in (images, texts)]
    relevance = Relevance.of(captions, "text", keys)
    moved[0][relevance.images.first] = images[relevance.images.first]
    moved[1][relevance.texts.first] = texts[relevance.texts.first]
    before, after = rank(images, texts, relevance), rank(*moved, relevance)
    assert measured(before.i2t_answers) == measured(after.i2t_answers)
    assert measured(before.t2i_answers) == measured(after.t2i_answers)


def class_names(n=200, classes=10):
    return CaptionMap.from_lists([[f"a photo of class {image % classes}"] for image in range(n)])


def test_class_names_as_captions_a_perfect_model_is_right_a_random_one_at_chance_a_collapsed_one_wrong():
    captions, one_hot = class_names(), np.eye(10, dtype=np.float32)[np.arange(200) % 10]
    relevance = Relevance.of(captions, "text")
    perfect = rank(one_hot, one_hot, relevance)
    assert set(perfect.i2t) == set(perfect.t2i) == {1}
    assert perfect.i2t_answers.places(7).tolist() == list(range(1, 21))
    collapsed = rank(np.ones((200, 4)), np.ones((200, 4)), relevance)
    assert set(collapsed.i2t) == set(collapsed.t2i) == {181}  # all 180 wrong ones are tied
    # A guess among ten classes is right one time in ten, and 20 guesses for each of 10 texts.
    rng = np.random.default_rng(0)
    hits = np.mean([(rank(rng.standard_normal((200, 64)), one, relevance).i2t == 1).mean()
                    for one in rng.standard_normal((20, 200, 64))])  # fmt: skip
    assert hits == pytest.approx(0.1, abs=0.03)


def test_queries_without_a_judged_answer_are_left_out():
    images, texts = embeddings_with([[0.5, 0.3, 0.4], [0.2, 0.6, 0.1], [0.1, 0.2, 0.6]])
    captions = CaptionMap.from_lists([["a"], ["b"], ["c"]])
    relevance = Relevance.judged(captions, "file", np.array([[0, 2], [2, 2], [2, 0]]), np.array([1.0, 1, 0]))
    ranks = rank(images, texts, relevance)
    assert ranks.i2t_answers.queries.tolist() == [0, 2]
    assert ranks.i2t.tolist() == [2, 1]
    assert ranks.t2i_answers.queries.tolist() == [2]
    assert ranks.t2i.tolist() == [1]


def test_the_arrays_cannot_be_written_to():
    answers = rank(*embeddings_with([[0.5, 0.1]]), pairs_of(2)).i2t_answers
    for array in (answers.ahead, answers.sizes, answers.ranks, answers.optimistic):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7


def test_equal_rows_tie_at_every_place_of_a_large_product():
    # One text for all: in float32 its cosine with an image depends on where the row stands in the product.
    rng = np.random.default_rng(3)
    images = rng.standard_normal((301, 257)).astype(np.float32)
    texts = np.tile(rng.standard_normal((1, 257)).astype(np.float32), (301, 1))
    ranks = rank(images, texts, pairs_of(*[1] * 301), block=97)
    assert set(ranks.i2t) == {301}
    assert set(ranks.i2t_optimistic) == {1}
    assert sorted(ranks.t2i) == list(range(1, 302))


def test_the_length_of_a_row_does_not_matter():
    images, texts, relevance = adversarial(9)
    scaled = rank(images * 64, texts / 128, relevance)  # powers of two: exact
    assert scaled.i2t_answers.ahead.tolist() == rank(images, texts, relevance).i2t_answers.ahead.tolist()


def test_one_image_alone():
    ranks = rank(*embeddings_with([[0.5, 0.1]]), pairs_of(2))
    assert ranks.i2t.tolist() == [1]
    assert ranks.t2i.tolist() == [1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(value):
    images, texts = embeddings_with([[0.5, 0.1], [0.1, 0.5]])
    texts[1, 0] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinity for 1 of 2 texts, the first is number 1: .*try fp32"):
        rank(images, texts, pairs_of(1, 1))


def test_embeddings_of_different_widths_are_refused():
    with pytest.raises(CheckpointError, match="image embeddings have 4 dimensions and text embeddings 3"):
        rank(np.ones((1, 4)), np.ones((1, 3)), pairs_of(1))


def test_a_wrong_number_of_rows_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match=r"text embeddings have shape \(3, 4\): expected \[1, dim\]"):
        rank(np.ones((1, 4)), np.ones((3, 4)), pairs_of(1))


@pytest.mark.parametrize(
    "relevance_of_3000",
    [lambda: pairs_of(*[1] * 3000), lambda: Relevance.of(class_names(3000, 3), "text")],
    ids=["pairs", "shared by a third"],
)
def test_memory_does_not_grow_with_the_number_of_pairs(relevance_of_3000):
    rng = np.random.default_rng(0)
    vectors, relevance = rng.standard_normal((3000, 4)), relevance_of_3000()
    tracemalloc.start()
    rank(vectors, vectors, relevance, block=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 3000 * 4 / 10  # of what all similarities would take


def near_ties(seed=5, n=40, dim=24):
    """Rows that differ by less than float32 sums can tell, among others that do not."""
    rng = np.random.default_rng(seed)
    relevance = pairs_of(*rng.integers(1, 12, n))
    images = rng.standard_normal((n, dim)).astype(np.float32)
    images[::3] = images[0] + 1e-6 * rng.standard_normal((len(images[::3]), dim)).astype(np.float32)
    owners = relevance.captions.image_of_text
    texts = images[owners] + np.float32(1e-6) * rng.standard_normal((len(owners), dim)).astype(np.float32)
    return images, texts, relevance


@pytest.mark.parametrize("dense", [0.0, 1.0], ids=["the whole block exactly", "the undecided exactly"])
def test_what_float32_leaves_undecided_is_computed_exactly(dense, monkeypatch):
    monkeypatch.setattr(counting, "_DENSE", dense)
    images, texts, relevance = near_ties()
    right = right_answers(relevance.captions)
    assert_as_defined(images, texts, relevance, right, blocks=(7, 64), fews=(2, 8))


def test_the_errors_of_a_float32_product_change_no_rank():
    # As large as float32 sums of 24 products can be wrong, in both directions, and in another order of the sum.
    rng = np.random.default_rng(1)

    def multiply(texts):
        def product(images):
            error = rng.choice([-1, 1], (len(images), len(texts))) * 24 * 2.0**-24
            return (images[:, ::-1] @ texts[:, ::-1].T + error).astype(np.float32)

        return product

    images, texts, relevance = near_ties()
    found, plain = rank(images, texts, relevance, multiply=multiply, block=16), rank(images, texts, relevance)
    assert measured(found.i2t_answers) == measured(plain.i2t_answers)
    assert measured(found.t2i_answers) == measured(plain.t2i_answers)


def test_progress_reaches_its_end():
    done = []

    @contextlib.contextmanager
    def progress(description, total):
        done.append((description, total))
        yield done.append

    images, texts, relevance = near_ties()
    rank(images, texts, relevance, block=16, progress=progress)
    assert done[0][0] == "ranking"
    assert sum(done[1:]) == done[0][1]
    assert len(done) > 5


def test_embeddings_may_be_mapped_from_a_file(tmp_path):
    images, texts, relevance = near_ties()
    np.save(tmp_path / "texts.npy", texts)
    mapped = rank(images, np.load(tmp_path / "texts.npy", mmap_mode="r"), relevance)
    assert mapped.t2i.tolist() == rank(images, texts, relevance).t2i.tolist()
