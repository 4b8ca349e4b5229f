"""HTML from values: whatever is not HTML already is escaped, so that no caption or file name can become markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from icclip.console import harmless

VOID = frozenset({"meta", "img"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """One element.

    Args:
        name: of the element.
        *children: Html as it is, sequences of children, and anything else escaped.
        **attributes: a trailing underscore is dropped (`class_`), others become hyphens; None leaves one out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(harmless(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" if name in VOID else f"<{name}{given}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Html:
    """The children one after the other, escaped where they are not HTML."""
    return Html("".join(_child(one) for one in children))


def _child(value: object) -> str:
    if isinstance(value, Html):
        return value
    if isinstance(value, list | tuple):
        return joined(value)
    return escape(harmless(str(value)))


def table(caption: str, header: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """A table whose first column names the rows; it scrolls by itself where it is too wide."""
    head = tag("tr", [tag("th", cell, scope="col") if cell else tag("td") for cell in header])
    body = [tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]]) for row in rows]
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body))
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)
