from __future__ import annotations

import numpy as np
from PIL import Image

from icclip.report.contact_sheet import RIGHT, WRONG, Answer, Query, contact_sheet, search
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.relevance import Relevance

COLOURS = ("red", "green", "blue")


class ByHand:
    """Image i is the unit vector i; a text's vector is looked up."""

    description = "by hand"

    def __init__(self, texts):
        self.texts = texts

    def encode_images(self, images, *, batch_size=128):
        return np.eye(3, dtype=np.float32)[: len(images)]

    def encode_texts(self, texts, *, batch_size=256):
        return np.array([self.texts[text] for text in texts], dtype=np.float32)


def test_search_ranks_and_marks_every_image_with_the_caption():
    relevance = Relevance.of(CaptionMap.from_lists([["warm"], ["cold", "leaf"], ["cold"]]), "text")
    encoder = ByHand({"warm": (0, 0.6, 0.8), "cold": (0, 0.6, 0.8), "leaf": (0, 1, 0)})
    images = [Image.new("RGB", (4, 4), colour) for colour in COLOURS]
    found = search(encoder, images, relevance, queries=9, best=2)
    assert [query.text for query in found] == ["warm", "cold", "leaf"]
    marks = [[(images.index(a.image), a.right) for a in query.answers] for query in found]
    assert marks == [[(2, False), (1, False)], [(2, True), (1, True)], [(1, True), (0, False)]]
    assert [round(answer.cosine, 6) for answer in found[0].answers] == [0.8, 0.6]
    assert len(search(encoder, images, relevance, queries=2)) == 2


def test_the_sheet_frames_right_and_wrong_answers():
    answers = tuple(Answer(Image.new("RGB", (30, 10), "yellow"), 0.5, right) for right in (True, False))
    sheet = contact_sheet([Query("a yellow bar", answers), Query("nothing", answers[:1])], "what it finds")
    colours = {colour for _, colour in sheet.getcolors(2**16)}
    for name in (RIGHT, WRONG, "yellow", "white"):
        assert Image.new("RGB", (1, 1), name).getpixel((0, 0)) in colours
    assert sheet.mode == "RGB"


def test_a_long_caption_is_not_cut():
    answers = (Answer(Image.new("RGB", (8, 8)), 0.1, right=False),)
    short, long = (contact_sheet([Query(text, answers)], "t").width for text in ("short", "long " * 40))
    assert long > short
