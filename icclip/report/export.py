"""What an export gave, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip.exporting import ExportResult

if TYPE_CHECKING:
    from rich.table import Table


def export_table(result: ExportResult) -> Table:
    """A row for each precision, below the checkpoint's own recall."""
    from rich.table import Table

    parity = result.parity
    caption = "fewer than 1,000 images: too few for a verdict on retrieval" if parity.smoke else None
    table = Table(title=f"{result.bundle}: {parity.n_images:,} images, {parity.dataset}", caption=caption)
    for name in ("", "runs on", "MB", "in fp32", "i2t R@1", "t2i R@1", "passed"):
        table.add_column(name, justify="right" if name not in ("", "runs on") else "left")
    table.add_row(
        "checkpoint", "torch", "", "", _percent(parity.reference, "i2t_R@1"), _percent(parity.reference, "t2i_R@1"), ""
    )
    for row in parity.results:
        kept = sum(len(names) for names in result.kept.get(row.precision, {}).values())
        table.add_row(
            row.precision,
            row.provider,
            f"{result.sizes[row.precision] / 1e6:.1f}",
            f"{kept} nodes" if kept else "-",
            _percent(row.metrics, "i2t_R@1"),
            _percent(row.metrics, "t2i_R@1"),
            "yes" if row.passed else "no",
        )
    return table


def _percent(metrics: object, key: str) -> str:
    return f"{100 * metrics[key]:.2f}" if isinstance(metrics, dict) and key in metrics else "-"
