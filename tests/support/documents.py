"""The README and the pages as tests read them: shell blocks with their markers, and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "pages"
DOCUMENTS = (ROOT / "README.md", *sorted(PAGES.rglob("*.md")))
BLOCK = re.compile(
    r"(?:<!-- (?P<kind>needs|stand-in): (?P<said>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: Path
    language: str
    text: str
    needs: str
    """What a test cannot have; empty: it has to run."""
    stand_in: str
    """A model of the hub in whose place a tiny one is trained."""

    @property
    def commands(self) -> list[str]:
        """What stands after each prompt, its continuation lines joined and its comment dropped."""
        joined = self.text.replace("\\\n", " ")
        return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]

    def words(self) -> Iterator[list[str]]:
        """The words of each command, as a shell would split them."""
        for command in self.commands:
            yield shlex.split(command.replace(self.stand_in, "clip-tiny") if self.stand_in else command, comments=True)


def blocks(document: Path, language: str) -> list[Block]:
    """The blocks of one language, in order."""
    return [
        Block(
            document,
            found["language"],
            found["text"],
            needs=(found["said"] or "") if found["kind"] == "needs" else "",
            stand_in=(found["said"] or "") if found["kind"] == "stand-in" else "",
        )
        for found in BLOCK.finditer(document.read_text(encoding="utf-8"))
        if found["language"] == language
    ]
