"""Select the files of a run directory or a bundle that belong on the hub."""

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
"""Files that transformers opens, without the state of the optimizer and other pickles."""
RECORDS = (CARD, "icclip.json", "metrics.jsonl", "*_metric.json", "*.svg", "*.png")
"""Files that people read, without `local.json`, which holds paths of the machine that trained."""
LOGS = ("costs.jsonl", "logs/*", "logs/*/*")
GRAPHS = ("onnx/*", "golden/*", "parity.json")
REPLACED = (*MODEL, *GRAPHS, "*_metric.json", "metrics.jsonl")
"""Patterns of the files that a publication owns; earlier ones that are not published again are removed."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file as it will be on the hub."""

    path: str
    """The name in the repository, with forward slashes."""
    content: Path | bytes

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def run_files(directory: Path, *, logs: bool) -> list[Item]:
    """The files of a run directory to publish: its best weights, its processor and its records.

    Args:
        directory: the directory of the run.
        logs: whether to include TensorBoard's files and the costs of the steps.
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
    """The regular files of a directory by name; links are left out, because they may lead anywhere."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(directory).as_posix()


def _like(name: str, patterns: Iterable[str]) -> bool:
    # A `*` of fnmatch crosses slashes, which would let checkpoints in.
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
