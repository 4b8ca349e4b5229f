"""Graphs as onnxruntime has optimised them for this machine, kept on the disk for the next start.

Starting again then neither hashes nor optimises, and maps the weights from the file; those that onnxruntime rearranges
for the processor's products are copied all the same. What is kept is named by everything that decides it: the hashes of the bundle's graph, the build
of onnxruntime and the processor. A graph is kept when it is opened for the second time, so that a machine that opens
it once, such as a container without a disk of its own, never pays for it. Whatever goes wrong here, the bundle's own
graph is opened instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icclip.bundles.manifest import Manifest, record
from icclip.caches import GRAPHS, cache_directory
from icclip.errors import CheckpointError
from icclip.files import fsync_tree
from icclip.runtime.cpu import FACTS, cpu_flags
from icclip.runtime.providers import import_onnxruntime
from icclip.runtime.sessions import Opening, Session

FORMAT = 1
GRAPH, WEIGHTS, RECORD = "graph.onnx", "graph.data", "kept.json"
SMALLEST = 32 << 20
"""Bytes of a graph and its weights; smaller ones open fast enough by themselves."""
ROOM = 3
"""Times the size of the graph that must be free on the disk."""
VARIABLE = "ICCLIP_KEEP_GRAPHS"
_OFF = ("0", "off", "no", "false")
_log = logging.getLogger(__name__)


def kept_graph(manifest: Manifest, graph: str, root: Path | None = None) -> KeptGraph | None:
    """Where a graph of a bundle is kept, or would be.

    Args:
        manifest: the manifest of the bundle.
        graph: the path of the graph inside the bundle.
        root: the directory of kept graphs; None means the one below `cache_directory()`.

    Returns:
        None if the graph is small, if `ICCLIP_KEEP_GRAPHS` is `off`, or if there is no directory for caches.
    """
    files = manifest.files_of(graph)
    size = sum(manifest.files[name].size for name in files)
    if size < SMALLEST or os.environ.get(VARIABLE, "").strip().lower() in _OFF:
        return None
    try:
        # onnxruntime refuses weights whose directory, links followed, is not that of the graph.
        place = (root or cache_directory() / GRAPHS).expanduser().absolute()
    # There may be no home directory.
    except (OSError, RuntimeError):
        return None
    hashes = [(Path(name).name, manifest.files[name].sha256) for name in files]
    return KeptGraph(place / _name(hashes), size)


def _name(hashes: Sequence[tuple[str, str]]) -> str:
    """32 hexadecimal digits of everything that decides what onnxruntime makes of the files."""
    decisive = [FORMAT, hashes, _onnxruntime(), _processor()]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:32]


def _onnxruntime() -> Sequence[str]:
    onnxruntime = import_onnxruntime()
    return onnxruntime.__version__, onnxruntime.get_build_info()


def _processor(facts: Path = FACTS) -> Sequence[str]:
    """What onnxruntime chooses layouts and fused operators by."""
    flags = " ".join(sorted(cpu_flags(facts))) or platform.processor()
    return platform.system(), platform.machine(), flags


@dataclass(frozen=True, slots=True)
class KeptGraph:
    """One graph's place among the kept ones."""

    directory: Path
    """Empty after the graph was opened for the first time; complete once it holds RECORD."""
    size: int
    """The size of the bundle's graph and its weights in bytes."""

    def opened(self, opening: Opening) -> Session | None:
        """The kept graph as a session, or None if it is not there or is damaged (it is then removed).

        Args:
            opening: how the bundle's own graph would be opened.
        """
        if not self._is_whole():
            return None
        try:
            return opening.optimised(self.directory / GRAPH, [self.directory / WEIGHTS])
        except CheckpointError as error:
            _log.debug("%s cannot be opened (%s); it is made again", self.directory, error)
            self._remove()
            return None

    def made(self, opening: Opening) -> Session | None:
        """Open the bundle's graph and keep what onnxruntime has made of it.

        Returns:
            The session; None if this is the first time, or if it cannot be written: open the bundle's graph instead.
        """
        try:
            if not self._was_seen() or shutil.disk_usage(self.directory.parent).free < ROOM * self.size:
                return None
            staging = Path(tempfile.mkdtemp(dir=self.directory.parent, prefix=f".{self.directory.name}."))
        except OSError as error:
            _log.debug("%s: no graph is kept (%s)", self.directory, error)
            return None
        try:
            session = opening.writing(staging / GRAPH, WEIGHTS)
            self._put_in_place(staging)
            return session
        except (OSError, CheckpointError) as error:
            _log.debug("%s: no graph is kept (%s)", self.directory, error)
            return None
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _was_seen(self) -> bool:
        """Whether the graph was opened before; notes that it is opened now."""
        if self.directory.is_dir():
            return True
        self.directory.mkdir(parents=True, exist_ok=True)
        return False

    def _put_in_place(self, staging: Path) -> None:
        files = {path.name: {"sha256": record(path).sha256, **_looks(path)} for path in sorted(staging.iterdir())}
        (staging / RECORD).write_text(json.dumps({"format": FORMAT, "files": files}), encoding="utf-8")
        fsync_tree(staging)
        # In one step, and only over the empty directory: another process may have been faster.
        staging.replace(self.directory)

    def _is_whole(self) -> bool:
        """Whether the files are those that were written.

        They were hashed then. If their size and times are still the same, they are not hashed again.
        """
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            kept = json.loads((self.directory / RECORD).read_bytes())
            files: Mapping[str, Mapping[str, Any]] = kept["files"]
            if kept["format"] == FORMAT and all(self._is_same(self.directory / n, known) for n, known in files.items()):
                return True
        if self.directory.is_dir() and any(self.directory.iterdir()):
            self._remove()
        return False

    @staticmethod
    def _is_same(path: Path, known: Mapping[str, Any]) -> bool:
        looks = _looks(path)
        if all(known[key] == value for key, value in looks.items()):
            return True
        # Copied or touched: the content decides.
        return bool(known["size"] == looks["size"] and record(path).sha256 == known["sha256"])

    def _remove(self) -> None:
        """Remove what is damaged, and leave the note that the graph was seen."""
        _log.debug("%s is damaged; it is made again", self.directory)
        with contextlib.suppress(OSError):
            shutil.rmtree(self.directory)
            self.directory.mkdir()


def _looks(path: Path) -> dict[str, int]:
    """What changes whenever a file is written to."""
    about = path.stat()
    return {"size": about.st_size, "modified": about.st_mtime_ns, "changed": about.st_ctime_ns}
