"""The sections put together into a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icclip import __version__
from icclip.report.page import protocols, sections
from icclip.report.page.html import Html, joined, tag
from icclip.report.page.subject import Subject, Verdict

STYLE = Path(__file__).with_name("style.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page asks the network for nothing, and a browser holds it to that."""


def page(title: str, subjects: Sequence[Subject], verdicts: Sequence[Verdict] = ()) -> str:
    """The whole document.

    Args:
        title: its heading.
        subjects: the models.
        verdicts: one for each subject but the first; empty where there is one subject.
    """
    found = [(name, anchor, content) for name, anchor, content in _contents(subjects, verdicts) if content]
    links = [tag("li", tag("a", name, href=f"#{anchor}")) for name, anchor, _ in found]
    parts = [tag("section", tag("h2", name, id=anchor), content) for name, anchor, content in found]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    ]
    body = [
        tag("header", tag("h1", title), tag("nav", tag("ul", links), aria_label="Sections")),
        tag("main", parts),
        tag("footer", tag("p", f"Written by icclip {__version__}. Ties count against the model.")),
    ]
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', joined(body)), lang='en')}\n"


def _contents(subjects: Sequence[Subject], verdicts: Sequence[Verdict]) -> list[tuple[str, str, Html]]:
    return [
        ("Summary", "summary", sections.summary(subjects)),
        ("Comparison", "comparison", sections.verdicts(subjects, verdicts) if verdicts else Html("")),
        ("Recall", "recall", sections.recall(subjects)),
        ("Folds", "folds", protocols.folds(subjects)),
        ("Within images and captions", "within", protocols.within(subjects)),
        ("Zero-shot classification", "zero-shot", protocols.zero_shot(subjects)),
        ("Against step 0", "progress", sections.progress(subjects)),
        ("Training", "training", sections.curves(subjects)),
        ("Ranks", "ranks", sections.ranks(subjects)),
        ("Cosines", "cosines", sections.cosines(subjects)),
        ("Best and worst answers", "answers", sections.retrievals(subjects)),
        ("Duplicates and leakage", "data", sections.data(subjects)),
        ("Parity", "parity", sections.parity(subjects)),
        ("Environment", "environment", sections.environment(subjects)),
        ("Do it again", "again", sections.repeat(subjects)),
    ]
