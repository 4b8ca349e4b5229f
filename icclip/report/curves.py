"""The curves of runs as a picture: loss and recall over steps, as SVG by itself and as PNG or PDF through matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from icclip.errors import MissingExtraError
from icclip.report.page.charts import DASHES, HEIGHT, WIDTH, Series, key, plotted
from icclip.report.page.html import Html, tag
from icclip.report.page.sections import series_of
from icclip.report.page.subject import Subject

CURVES = "curves.svg"
"""The picture in a run directory, which its card shows."""
PANELS = (("training loss", "loss", 1.0), ("mean R@1 on the validation split, %", "eval_mR@1", 100.0))
COLOURS = ("#0b5cad", "#b3261e", "#0a6b45", "#7a3ea8")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#444}.title{font-weight:600;fill:#111}.grid line{stroke:#ccc}"
    ".line path{fill:none;stroke-width:2}.line .mark{stroke:none}"
    + "".join(f".s{n} path{{stroke:{own}}}.s{n} .mark{{fill:{own}}}" for n, own in enumerate(COLOURS))
)
_TITLE, _LEGEND = 28, 22


def panels_of(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, list[Series]]]:
    """Title and lines of each panel that has some; from the name and the history of each run."""
    subjects = [Subject(name=name, split="", history=history) for name, history in runs.items()]
    found = [(title, series_of(subjects, value, scale)) for title, value, scale in PANELS]
    return [(title, series) for title, series in found if series]


def curves_svg(panels: Sequence[tuple[str, list[Series]]]) -> str:
    """One panel below the other, on white, readable by itself."""
    names = list(dict.fromkeys(one.name for _, series in panels for one in series))
    height = len(panels) * (HEIGHT + _TITLE) + _LEGEND * (len(names) > 1) * len(names)
    parts: list[Html] = [tag("style", Html(STYLE)), tag("rect", width="100%", height="100%", fill="#fff")]
    for place, (title, series) in enumerate(panels):
        heading = tag("text", f"{title}, over steps", x=8, y=18, class_="title")
        inside = tag("g", plotted(series, names), transform=f"translate(0 {_TITLE})")
        parts.append(tag("g", heading, inside, transform=f"translate(0 {place * (HEIGHT + _TITLE)})"))
    top = len(panels) * (HEIGHT + _TITLE) + 14
    for place, name in enumerate(names if len(names) > 1 else ()):
        words = tag("text", name, x=36, y=4)
        parts.append(
            tag(
                "g",
                tag("g", key(place), transform="translate(0 -6)"),
                words,
                transform=f"translate(12 {top + place * _LEGEND})",
            )
        )
    return str(
        tag("svg", parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}", width=WIDTH, height=height,
            role="img", aria_label="; ".join(title for title, _ in panels))
    )  # fmt: skip


def curves_picture(panels: Sequence[tuple[str, list[Series]]], suffix: str) -> bytes:
    """The same as PNG or PDF.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(f"a picture in {suffix}", ["matplotlib"], "pip install 'icclip[plot]'") from error
    figure = Figure(figsize=(6, 3.2 * len(panels)), layout="constrained")
    names = list(dict.fromkeys(one.name for _, series in panels for one in series))
    for place, (title, series) in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, place)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(visible=True, alpha=0.4)
        for one in series:
            number = names.index(one.name) % len(COLOURS)
            style = ("-", "--", ":", "-.")[number % len(DASHES)]
            axes.plot(
                *zip(*one.points, strict=True),
                style,
                marker="osd^"[number],
                markersize=3,
                color=COLOURS[number],
                label=one.name,
            )
        if len(series) > 1:
            axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format=suffix.removeprefix("."), dpi=150)
    return file.getvalue()
