"""What the site takes from the code when it is built: every command with its options, and how-to pages as they come."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

OPTIONS = "<!-- options -->"
SECTION = "How to"
PAGES = Path(__file__).parent / "pages"


def on_config(config: Any) -> Any:
    """Add the how-to pages that the navigation does not name to the end of their section."""
    named = re.findall(r"how-to/[\w-]+\.md", str(config.nav))
    present = sorted(f"how-to/{path.name}" for path in (PAGES / "how-to").glob("*.md"))
    for entry in config.nav:
        entry.get(SECTION, []).extend(page for page in present if page not in named)
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the options of every command where a page has their marker."""
    if OPTIONS not in markdown:
        return markdown
    from icclip.reference import markdown_reference

    return markdown.replace(OPTIONS, f'<div class="options" markdown>\n\n{markdown_reference()}\n</div>')
