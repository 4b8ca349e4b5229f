"""Which files of a run directory or a bundle belong on the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from icclip.bundles.manifest import NAME as MANIFEST
from icclip.bundles.manifest import Manifest

CARD = "README.md"
MODEL = (
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json", "preprocessor_config.json", "processor_config.json", "tokenizer*.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "tokenizer.model", "sentencepiece.bpe.model",
)  # fmt: skip
"""What transformers opens. The state of the optimizer and other pickles are not among it."""
RECORDS = (CARD, "icclip.json", "metrics.jsonl", "*_metric.json", "*.svg", "*.png")
"""What people read. `local.json`, which holds paths of the machine that trained, is not among it."""
LOGS = ("costs.jsonl", "logs/*", "logs/*/*")
GRAPHS = ("onnx/*", "golden/*", "parity.json")
REPLACED = (*MODEL, *GRAPHS, "*_metric.json", "metrics.jsonl")
"""What a publication owns in its repository: files of an earlier one that are like these and not published again go."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file as it will be on the hub."""

    path: str
    """Its name in the repository, with forward slashes."""
    content: Path | bytes

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def run_files(directory: Path, *, logs: bool) -> list[Item]:
    """The files of a run directory: its best weights, what feeds them, and its records.

    Args:
        directory: the run's.
        logs: whether TensorBoard's files and what each step cost are wanted too.
    """
    wanted = (*MODEL, *RECORDS, *(LOGS if logs else ()))
    return [Item(name, directory / name) for name in _below(directory) if _like(name, wanted)]


def bundle_files(directory: Path, manifest: Manifest) -> list[Item]:
    """The files that a bundle's manifest lists, and the manifest."""
    return [Item(name, directory / name) for name in (MANIFEST, *sorted(manifest.files))]


def stale(there: Iterable[str], published: Iterable[str]) -> list[str]:
    """Files in a repository that an earlier publication left there, and that the new one does not replace."""
    new = set(published)
    return sorted(name for name in there if name not in new and _like(name, REPLACED))


def _below(directory: Path) -> Iterator[str]:
    """The regular files of a directory by name; what a link leads to may lie anywhere, and stays where it is."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(directory).as_posix()


def _like(name: str, patterns: Iterable[str]) -> bool:
    # A `*` of fnmatch crosses slashes, which would let checkpoints in.
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
