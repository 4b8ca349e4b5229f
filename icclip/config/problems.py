"""Problems of a configuration, in words that can name the keys of a file or the flags of a command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

_FIELD = re.compile(r"\{([a-z_.]+)\}")


class Key(NamedTuple):
    """A field that a problem is about."""

    path: str
    """The key in a TOML file, such as `data.val_fraction`."""
    owner: str
    """The owner as in `Declared.owner`, such as `DatasetConfig.val_fraction`."""


class Problem(str):  # noqa: SLOT000 # it holds its parts, which slots of a str cannot
    """One line that names keys, and that can name flags instead."""

    parts: tuple[str | Key, ...]

    def __new__(cls, *parts: str | Key) -> Self:
        """Join plain text and keys."""
        made = super().__new__(cls, "".join(part.path if isinstance(part, Key) else part for part in parts))
        made.parts = parts
        return made

    @classmethod
    def of(cls, template: str, owner: type, where: str) -> Problem:
        """`{lr} is 3: ...` about fields of `owner`, a config whose keys begin with `where`."""
        pieces = _FIELD.split(template)
        return cls(
            *(
                Key(where + piece, f"{owner.__qualname__}.{piece}") if number % 2 else piece
                for number, piece in enumerate(pieces)
                if piece
            )
        )

    def spelled(self, typed: Mapping[str, str], main: Mapping[str, str]) -> Problem:
        """The same problem with flags instead of keys, if at least one of its fields was given by a flag.

        Args:
            typed: for the owner of a field, the flag that was typed.
            main: for the owner of a field, its main flag.
        """
        keys = [part for part in self.parts if isinstance(part, Key)]
        if not any(key.owner in typed for key in keys):
            return self
        named = {key: typed.get(key.owner) or main.get(key.owner) or key.path for key in keys}
        return Problem(*(Key(named[part], part.owner) if isinstance(part, Key) else part for part in self.parts))
