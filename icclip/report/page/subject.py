"""What the page shows of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from icclip.retrieval.comparison import Change
    from icclip.runs.ranks import SavedRanks


@dataclass(frozen=True, slots=True)
class Tile:
    """An image that is a query or an answer."""

    source: str
    """A `data:` URI."""
    alt: str
    label: str = ""
    right: bool | None = None
    """None: it is no answer."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A query and what came first."""

    direction: Literal["i2t", "t2i"]
    best: bool
    """Whether it is one of the best or of the worst."""
    rank: int
    query: str | Tile
    right: str | Tile
    """The right answer."""
    answers: Sequence[Tile | tuple[str, bool]]
    """Images, or texts and whether they are right; the first one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model."""

    name: str
    split: str
    record: Mapping[str, Any] = field(default_factory=dict)
    """`icclip.json` of a run."""
    history: Sequence[Mapping[str, Any]] = ()
    """The lines of `metrics.jsonl`."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The content of the file of metrics."""
    zero_shot: Mapping[str, Any] = field(default_factory=dict)
    """The content of the file of zero-shot metrics."""
    ranks: SavedRanks | None = None
    parity: Mapping[str, Any] = field(default_factory=dict)
    """`parity.json` of a bundle."""
    commands: Sequence[str] = ()
    """What repeats it."""
    configuration: str = ""
    """As TOML."""
    retrievals: Sequence[Retrieval] = ()
    note: str = ""
    """Why something is missing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One model against the first."""

    sentence: str
    changes: Mapping[str, Change] = field(default_factory=dict)
    """Empty where they cannot be compared."""
