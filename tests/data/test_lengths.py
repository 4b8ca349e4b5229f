from __future__ import annotations

import pytest

from icclip.data.lengths import CutCaptions, cut_captions


def by_words(texts):
    """A token a word, and two for the ends."""
    return [len(text.split()) + 2 for text in texts]


def test_captions_that_do_not_fit_are_counted_and_the_longest_is_told():
    found = CutCaptions.among(["a dog", "a b c d e f g", "a b c d e f", "a b c d e"], 7, by_words)
    assert found == CutCaptions(total=4, count=2, longest=9, limit=7)
    assert found.line == ("2 of 4 captions are longer than the 7 tokens that the text tower reads; the longest has 9")
    assert found.to_mapping() == {"count": 2, "longest": 9, "limit": 7}


def test_where_all_fit_nothing_is_said():
    assert CutCaptions.among(["a dog", "a b c d e"], 7, by_words).line == ""
    assert CutCaptions.among([], 7, by_words) == CutCaptions(0, 0, 0, 7)


def test_one_caption_is_one():
    assert CutCaptions.among(["a b c d e f g"], 7, by_words).line.startswith("1 of 1 caption is longer")


def test_thousands_are_grouped():
    assert CutCaptions(total=5000, count=1312, longest=103, limit=77).line == (
        "1,312 of 5,000 captions are longer than the 77 tokens that the text tower reads; the longest has 103"
    )


def test_texts_that_cannot_be_too_long_are_not_tokenized():
    looked_at = []

    def lengths(texts):
        looked_at.extend(texts)
        return by_words(texts)

    CutCaptions.among(["short", "\u00e9", "x" * 80], 77, lengths)
    assert looked_at == ["\u00e9", "x" * 80]


class Silent:
    """An encoder of somebody else, which does not say."""


class Counting:
    def cut_captions(self, texts):
        return CutCaptions.among(texts, 4, by_words)


@pytest.mark.parametrize(("encoder", "texts"), [(Silent(), ["a b c d e"]), (Counting(), ["a b"])])
def test_an_encoder_that_does_not_say_or_cuts_nothing(encoder, texts):
    assert cut_captions(encoder, texts) is None


def test_an_encoder_that_cuts():
    assert cut_captions(Counting(), ["a b", "a b c"]).count == 1
