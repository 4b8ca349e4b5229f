"""What `icclip data inspect` found, as a table and lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from icclip.console import harmless
from icclip.data.leakage import leakage_line

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 5
"""Number of unreadable images that are named."""


def inspection(found: Mapping[str, Any]) -> list[RenderableType]:
    """Make a table with a column for each split, then a line for each possible problem."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(harmless(f"{found['dataset']} (read by {found['reader']})")), title_justify="left")
    table.add_column("")
    for name in found["splits"]:
        table.add_column(name, justify="right")
    described = [_described(split) for split in found["splits"].values()]
    for label in described[0]:
        table.add_row(label, *(Text(harmless(split[label])) for split in described))
    return [table, *(Text(harmless(line)) for line in _remarks(found))]


def _described(split: Mapping[str, Any]) -> dict[str, str]:
    rows = {
        "images": f"{split['images']:,}",
        "captions": f"{split['captions']:,}",
        "captions per image": _range(split["captions_per_image"]),
        "shared captions": f"{split['captions_at_several_images']:,} ({_share(split)})",
        "characters per caption": _range(split["characters"]),
        "width": _range(split["width"]),
        "height": _range(split["height"]),
        "modes": ", ".join(f"{mode} {count:,}" for mode, count in split["modes"].items()),
        "formats": ", ".join(f"{name} {count:,}" for name, count in split["formats"].items()),
        "identical images": f"{split['identical_images']:,}",
        "unreadable images": f"{split['unreadable']:,}",
    }
    if "model" in split:
        model = split["model"]
        rows["tokens per caption"] = _range(model["tokens"])
        rows[f"truncated at {model['limit']} tokens"] = f"{model['cut']:,} ({100 * model['cut_share']:.1f} %)"
    return rows


def _share(split: Mapping[str, Any]) -> str:
    return f"{100 * split['captions_at_several_images'] / split['captions']:.1f} %"


def _range(values: Mapping[str, float]) -> str:
    if values["min"] == values["max"]:
        return f"{values['min']:,}"
    return f"{values['min']:,} .. {values['median']:,g} .. {values['max']:,}"


def _remarks(found: Mapping[str, Any]) -> Iterator[str]:
    yield "Three numbers are the smallest, the median and the largest value."
    for leak in found["leakage"]:
        if leak["images"] or leak["captions"]:
            yield leakage_line(leak, leak["of"])
    for name, split in found["splits"].items():
        for error in split["unreadable_images"][:SHOWN]:
            yield f"unreadable: {error}"
        if split["unreadable"] > SHOWN:
            yield f"unreadable: {split['unreadable'] - SHOWN:,} more in {name} (--json lists all)"
        if "model" in split and split["model"]["cut"]:
            lost = split["model"]["tokens_lost_of_cut"]
            yield f"{name}: {split['model']['cut']:,} captions are truncated, by {lost:.1f} tokens on average"
