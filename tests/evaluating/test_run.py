from __future__ import annotations

import pytest
from evaluating.fakes import HashEncoder, coloured

from icclip.console import Reporter
from icclip.errors import CheckpointError, DataError
from icclip.evaluating.run import evaluate_split
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.relevance import Relevance


def measured(n=20, encoder=None, **options):
    images, captions = coloured(n)
    return evaluate_split(
        encoder or HashEncoder(), images, Relevance.of(CaptionMap.from_lists(captions), "text"), **options
    )


def test_a_perfect_encoder_scores_everything():
    metrics = measured()
    assert metrics["rsum"] == 600
    assert metrics["avg_best_cosine"] == pytest.approx(1)
    assert metrics["confidence_95"]["t2i_R@1"] == [1, 1]


def test_the_same_arguments_give_the_same_numbers():
    assert measured() == measured()


def test_no_resamples_no_intervals():
    assert "confidence_95" not in measured(bootstrap=0)


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="the split has no images: check the dataset, or choose another split"):
        evaluate_split(HashEncoder(), [], Relevance.of(CaptionMap.from_lists([]), "text"))


def test_few_images_are_measured_with_a_warning(capsys):
    assert measured(1, reporter=Reporter())["t2i_R@1"] == 1
    assert "t2i_R@10 is always 1, whatever the model: the split has no more than 10 images" in capsys.readouterr().err


def test_a_collapsed_encoder_is_named(capsys):
    metrics = measured(encoder=HashEncoder(value=1.0), reporter=Reporter())
    assert metrics["rsum"] == 0
    assert "20 of 20 captions score the same with a right image and a wrong one" in capsys.readouterr().err


def test_a_broken_encoder_is_refused():
    with pytest.raises(CheckpointError, match="NaN or infinity for 20 of 20 images"):
        measured(encoder=HashEncoder(value=float("nan")))
    with pytest.raises(CheckpointError, match="image embeddings have 16 dimensions and text embeddings 8"):
        measured(encoder=HashEncoder(text_dim=8))
