"""Tables of an index: what was tried, what the gate measured, what it holds, what a search found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from icclip.console import harmless


def tried_table(tried: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each kind that was built: size against recall."""
    table = _table("size and recall@10 against exact search")
    for heading in ("index", "effort", "MB", "text", "image", "build s", "queries/s", ""):
        table.add_column(heading, justify="left" if heading in ("index", "effort", "") else "right", no_wrap=True)
    for one in tried:
        effort = " ".join(f"{name}={value}" for name, value in one["effort"].items())
        table.add_row(
            one["factory"], effort, f"{one['bytes'] / 1e6:.2f}", _share(one["text_recall@10"]),
            _share(one["image_recall@10"]), f"{one['build_seconds']:.1f}", f"{one['queries_per_second'] or 0:,.0f}",
            "kept" if one["chosen"] else "",
        )  # fmt: skip
    return table


def gate_table(gate: Mapping[str, Any]) -> Table:
    """What text and image queries find, with 95 % intervals."""
    verdict = "passed" if gate.get("passed") else "failed"
    table = _table(f"index gate: {verdict} (recall@10 of at least {100 * gate.get('needed', 0):g} %), {gate['texts']}")
    for heading in ("", "text queries", "image queries"):
        table.add_column(heading, no_wrap=True)
    for name in ("recall@1", "recall@10", "R@1", "R@5", "R@10", "exact_R@1", "exact_R@5", "exact_R@10"):
        if name in gate["text"]:
            image = _interval(gate["image"].get(name)) if gate["image"]["queries"] else ""
            table.add_row(name.replace("exact_R", "exact R"), _interval(gate["text"][name]), image)
    table.add_row("queries", f"{gate['text']['queries']:,}", f"{gate['image']['queries']:,}")
    return table


def index_table(name: str, rows: Mapping[str, str]) -> Table:
    """What an index is, line by line."""
    table = Table(
        title=Text(harmless(name)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=False
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, Text(harmless(value)))
    return table


def found_table(title: str, hits: Sequence[Mapping[str, Any]]) -> Table:
    """What a search found, best first."""
    table = _table(title)
    for heading, justify in (("", "right"), ("cosine", "right"), ("score", "right"), ("size", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type] # rich wants the literals
    table.add_column("item", overflow="fold")
    for hit in hits:
        item = hit["item"]
        size = f"{item['width']} x {item['height']}" if item.get("width") else ""
        said = Text(harmless(str(item["path"])))
        if item.get("captions"):
            said.append(f"\n{harmless(item['captions'][0])}", style="dim")
        score = "" if hit["score"] is None else f"{hit['score']:.4f}"
        table.add_row(str(hit["rank"]), f"{hit['cosine']:.4f}", score, size, said)
    return table


def _table(title: str) -> Table:
    return Table(title=Text(harmless(title)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _share(values: Sequence[float] | None) -> str:
    return "" if values is None else f"{100 * values[0]:.1f} %"


def _interval(values: Sequence[float] | None) -> str:
    return "" if values is None else f"{100 * values[0]:.1f} % ({100 * values[1]:.1f} to {100 * values[2]:.1f})"
