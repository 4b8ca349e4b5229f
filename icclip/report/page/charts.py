"""Charts as SVG: every value is shown when the pointer rests on it, and stands in a table below the chart.

Series differ in colour, in dashes and in the shape of their marks, so that colour is never alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from icclip.report.page.html import Html, joined, table, tag

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 34
MOST_POINTS = 160
DASHES = (None, "7 4", "2 3", "9 3 2 3")
TICKS = 4
WIDEST = 8
"""Of a letter, on a phone; labels of rows stand left of the values."""
MOST_LABELS, FEWER_LABELS = 10, 7
"""Labels below bars: all of up to so many; of more, every n-th, so that they do not touch."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: pairs of x and y."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """Values onto pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values within."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / TICKS))
        step = next(step * factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= TICKS + 1)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 12) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A value with the digits that a chart can show."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004


def line_chart(title: str, series: Sequence[Series], *, x_name: str = "step") -> Html:
    """Lines over steps."""
    drawn = [Series(one.name, thinned(one.points)) for one in series if one.points]
    if not drawn:
        return Html("")
    names = [one.name for one in drawn]
    rows = [(f"{one.name}, {x_name} {number(a)}", number(b)) for one in drawn for a, b in one.points]
    picture = plotted(drawn, names, x_name=x_name)
    return _figure(title, picture, names, ("point", title), rows, unit=f"over {x_name}s")


def plotted(series: Sequence[Series], names: Sequence[str], *, x_name: str = "step") -> list[object]:
    """The axes and the lines, of WIDTH x HEIGHT; a line looks as its name's place among `names` says."""
    drawn = [Series(one.name, thinned(one.points)) for one in series]
    x = _axis([point[0] for one in drawn for point in one.points], LEFT, WIDTH - RIGHT)
    y = _axis([point[1] for one in drawn for point in one.points], HEIGHT - BOTTOM, TOP)
    return [_grid(x, y), [_line(one, names.index(one.name), x, y, x_name) for one in drawn]]


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most MOST_POINTS, evenly spread, with the first and the last one."""
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(n * (len(points) - 1) / (MOST_POINTS - 1))] for n in range(MOST_POINTS)]


def bar_chart(
    title: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], *, unit: str = "%"
) -> Html:
    """Groups of bars, one group a label, one bar a series."""
    if not series:
        return Html("")
    y = _axis([0.0, *(value for _, values in series for value in values)], HEIGHT - BOTTOM, TOP)
    room = (WIDTH - LEFT - RIGHT) / len(labels)
    width = room * 0.8 / len(series)
    bars = []
    for place, (name, values) in enumerate(series):
        for group, value in enumerate(values):
            left = LEFT + group * room + room * 0.1 + place * width
            mark = tag("title", f"{name}, {labels[group]}: {number(value)} {unit}")
            bars.append(tag("g", mark, _bar(left, y(value), width, y(0)), class_=f"bar s{place}"))
    names = [
        tag("text", label, x=round(LEFT + (n + 0.5) * room, 1), y=HEIGHT - BOTTOM + 16, text_anchor="middle")
        for n, label in enumerate(labels)
        if len(labels) <= MOST_LABELS or n % math.ceil(len(labels) / FEWER_LABELS) == 0
    ]
    rows = [(label, *(number(values[n]) for _, values in series)) for n, label in enumerate(labels)]
    header = ("", *(f"{name}, {unit}" for name, _ in series))
    legend = [name for name, _ in series]
    return _figure(title, [_grid(None, y), bars, names], legend, header, rows, unit=unit, bars=True)


def interval_chart(
    title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float, float | None, float | None]]]]
) -> Html:
    """Values from 0 to 100 with their intervals: for each label, (series, value, low, high)."""
    names = list(dict.fromkeys(name for _, values in rows for name, *_ in values))
    if not names:
        return Html("")
    longest = max(len(label) for label, _ in rows)
    x = Axis(0, 100, max(LEFT + 40, WIDEST * longest + 8), WIDTH - RIGHT - 14)
    step = 12 * len(names) + 10
    height = TOP + step * len(rows) + BOTTOM
    parts: list[object] = [_vertical(x, height)]
    for line, (label, values) in enumerate(rows):
        top = TOP + step * line
        parts.append(tag("text", label, x=4, y=top + step / 2 + 4))
        for name, value, low, high in values:
            place = names.index(name)
            parts.append(_interval(place, f"{name}, {label}", (value, low, high), x, top + 10 + 12 * place))
    cells = [(f"{label}, {name}", number(value), "" if low is None else f"{low:.1f} .. {high:.1f}")
             for label, values in rows for name, value, low, high in values]  # fmt: skip
    return _figure(title, parts, names, ("", "%", "95 % interval"), cells, height=height)


def _interval(place: int, said: str, values: tuple[float, float | None, float | None], x: Axis, y: float) -> Html:
    value, low, high = values
    whisker = "" if low is None or high is None else tag("line", x1=x(low), x2=x(high), y1=y, y2=y)
    title = f"{said}: {value:.1f} %" + ("" if low is None else f", 95 % interval {low:.1f} to {high:.1f} %")
    return tag("g", tag("title", title), whisker, _mark(place, x(value), y), class_=f"line s{place}")


def _axis(values: Sequence[float], start: float, stop: float) -> Axis:
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1
    return Axis(low if low == 0 else low - 0.04 * room, high + 0.04 * room, start, stop)


def _grid(x: Axis | None, y: Axis) -> list[Html]:
    found = [
        tag("g", tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick)),
            tag("text", number(tick), x=LEFT - 6, y=y(tick) + 4, text_anchor="end"), class_="grid")
        for tick in y.ticks()
    ]  # fmt: skip
    if x is None:
        return found
    below = HEIGHT - BOTTOM + 18
    return [*found, *(tag("text", number(tick), x=x(tick), y=below, text_anchor="middle") for tick in x.ticks())]


def _vertical(x: Axis, height: float) -> list[Html]:
    return [
        tag("g", tag("line", x1=x(tick), x2=x(tick), y1=TOP, y2=height - BOTTOM),
            tag("text", f"{tick:.0f} %", x=x(tick), y=height - BOTTOM + 18, text_anchor="middle"), class_="grid")
        for tick in (0, 25, 50, 75, 100)
    ]  # fmt: skip


def _line(one: Series, place: int, x: Axis, y: Axis, x_name: str) -> Html:
    way = "M" + "L".join(f"{x(a)} {y(b)}" for a, b in one.points)
    marks = [
        tag("g", tag("title", f"{one.name}, {x_name} {number(a)}: {number(b)}"), _mark(place, x(a), y(b)))
        for a, b in one.points
    ]
    return tag("g", tag("path", d=way, stroke_dasharray=DASHES[place % len(DASHES)]), marks, class_=f"line s{place}")


def _mark(place: int, x: float, y: float) -> Html:
    """A circle, a square, a triangle or a diamond."""
    return tag("path", d=_MARKS[place % len(_MARKS)](x, y), class_="mark")


_MARKS: tuple[Callable[[float, float], str], ...] = (
    lambda x, y: f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    lambda x, y: f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z",
    lambda x, y: f"M{x:.1f} {y - 4:.1f}l4 7h-8z",
    lambda x, y: f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z",
)


def _bar(left: float, top: float, width: float, base: float) -> Html:
    return tag("rect", x=round(left, 1), y=top, width=round(width, 1), height=round(max(0.0, base - top), 1))


def _figure(
    title: str,
    parts: object,
    names: Sequence[str],
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    height: float = HEIGHT,
    unit: str = "",
    bars: bool = False,
) -> Html:
    drawn = swatch if bars else key
    picture = tag(
        "svg",
        parts,
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_label=f"{title}: the values are in the table below",
    )
    keys = [_key(drawn(place), name) for place, name in enumerate(names)]
    legend = tag("p", keys, class_="legend") if len(names) > 1 else ""
    heading = tag("figcaption", title, tag("span", f" ({unit})", class_="unit") if unit else "")
    values = tag("details", tag("summary", f"Values of {title}"), table(title, header, rows))
    return tag("figure", heading, picture, legend, values)


def _key(drawn: Html, name: str) -> Html:
    return tag("span", tag("svg", drawn, viewBox="0 0 28 12", width=28, height=12, aria_hidden="true"), " ", name)


def key(place: int) -> Html:
    """A piece of a line, 28 x 12, for a legend."""
    line = tag("path", d="M0 6L28 6", stroke_dasharray=DASHES[place % len(DASHES)])
    return tag("g", line, _mark(place, 14, 6), class_=f"line s{place}")


def swatch(place: int) -> Html:
    """A piece of a bar, as large as a `key`."""
    return tag("g", _bar(6, 1, 16, 11), class_=f"bar s{place}")


def together(*charts: Html) -> Html:
    """Charts side by side where there is room."""
    return tag("div", joined(charts), class_="charts") if any(charts) else Html("")
