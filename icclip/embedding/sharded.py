"""Embed a corpus in shards: listed once, embedded here or on a cluster, continued where it was interrupted."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from icclip.config import EmbedConfig, EncoderConfig
from icclip.console import Reporter, counted
from icclip.embedding.layout import Counts, Layout, Manifest, shard_of
from icclip.embedding.places import inputs_of, url_of
from icclip.embedding.sinks import pyarrow
from icclip.embedding.worker import LazyEncoder, ShardWorker
from icclip.encoders import open_encoder
from icclip.errors import UsageError
from icclip.files import readable_os_errors
from icclip.plugins.registry import Registry

if TYPE_CHECKING:
    from rich.console import RenderableType

SECONDS = 30.0
"""Seconds between two progress notes."""
OPEN_FILES = 256
"""Lists of inputs that are written in one pass over the sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedResult:
    """What a directory of embeddings holds now."""

    directory: Path
    manifest: Manifest
    finished: int
    """Shards."""
    counts: Counts

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "output": str(self.directory), "shards": self.manifest.shards, "finished": self.finished,
            **dataclasses.asdict(self.counts), "dim": self.manifest.dim, "encoder": self.manifest.encoder,
        }  # fmt: skip

    def renderables(self) -> Iterable[RenderableType]:
        """Nothing, because the directory is the result and a line on stderr has already announced it."""
        return ()

    def verdict(self) -> None:
        """Embedding always succeeds, because it has no threshold to miss."""


def embed_shards(config: EmbedConfig, registry: Registry, reporter: Reporter) -> ShardedResult:
    """Embed the shards that are not finished.

    Raises:
        UsageError: something that the user can correct: the inputs, checkpoint, provider, cluster or output.
        MissingExtraError: pyarrow or Ray is not installed.
    """
    assert config.shards is not None
    pyarrow()
    engine = _engine(config, reporter)
    layout = Layout(config.output)
    manifest = _manifest(config, registry, reporter)
    layout.begin(manifest)
    wanted = range(config.shards) if config.shard is None else [config.shard]
    missing = [shard for shard in wanted if layout.finished(shard) is None]
    if len(missing) < len(wanted):
        reporter.note(f"{len(wanted) - len(missing):,} of {counted(len(wanted), 'shard')} are finished already")
    list_inputs(config, layout, missing, reporter)
    worker = ShardWorker(layout.directory.absolute(), manifest, LazyEncoder(config.encoder))
    try:
        _run(engine(worker, missing), len(missing), reporter)
    finally:
        layout.write(manifest)
    with suppress(OSError):
        # Only an empty directory can be removed: other machines may be at work.
        layout.inputs(0).parent.rmdir()
    done = dict(layout.all_finished(config.shards))
    result = ShardedResult(
        directory=config.output, manifest=manifest, finished=len(done), counts=sum(done.values(), Counts())
    )
    _say(result, reporter)
    return result


def _engine(config: EmbedConfig, reporter: Reporter) -> Any:
    if config.engine == "local":
        return locally
    from icclip.embedding.on_ray import RayEngine

    return RayEngine.started(config, reporter)


def locally(worker: ShardWorker, shards: Sequence[int]) -> Iterator[tuple[int, Counts]]:
    """Embed one shard after another in this process."""
    for shard in shards:
        yield shard, worker.embed(shard)


def _manifest(config: EmbedConfig, registry: Registry, reporter: Reporter) -> Manifest:
    """What decides the vectors, from an encoder that is opened for this alone: workers open their own."""
    here = config.encoder
    if config.engine == "ray":
        # The machine that starts the work need not have the GPU that does it.
        here = dataclasses.replace(here, provider=None, device=None if here.device is None else "cpu")
    encoder = open_encoder(registry, here, reporter)
    reporter.note(encoder.description)
    return Manifest(
        fingerprint=getattr(encoder, "fingerprint", None),
        checkpoint=_absolute(config.encoder),
        encoder=encoder.description,
        dim=int(encoder.encode_texts(["a"], batch_size=1).shape[1]),
        shards=config.shards or 1,
        sources=tuple(url_of(source) for source in config.images),
        captions=config.captions,
        on_bad_image=config.on_bad_image,
        batch_size=config.batch_size,
    )


def _absolute(encoder: EncoderConfig) -> str:
    path = Path(encoder.checkpoint)
    return str(path.absolute()) if path.exists() else encoder.checkpoint


# The inputs ---------------------------------------------------------------------------------------


def list_inputs(config: EmbedConfig, layout: Layout, shards: Sequence[int], reporter: Reporter) -> None:
    """Write the inputs of each of these shards to a file of its own, unless it is there.

    The sources are listed once, so what changes in them later changes nothing in the work. Names are never all held in
    memory.

    Raises:
        UsageError: a source cannot be listed, or holds nothing.
    """
    lacking = [shard for shard in shards if not layout.inputs(shard).exists()]
    for start in range(0, len(lacking), OPEN_FILES):
        count = _listed(config, layout, lacking[start : start + OPEN_FILES])
        if start == 0 and len(lacking) == config.shards:
            reporter.note(f"{counted(count, 'file')} in {counted(config.shards, 'shard')}")


def _listed(config: EmbedConfig, layout: Layout, shards: Sequence[int]) -> int:
    """List the sources and keep what belongs to these shards. Returns the number of files in all shards."""
    folder = layout.inputs(0).parent
    count = 0
    with readable_os_errors("the inputs", folder), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder))
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        files: dict[int, IO[str]] = {
            shard: stack.enter_context((staging / str(shard)).open("w", encoding="utf-8")) for shard in shards
        }
        for one in inputs_of(config.images):
            count += 1
            file = files.get(shard_of(one.name, config.shards or 1))
            if file is not None:
                file.write(json.dumps([_whole(one.place), one.name]) + "\n")
        for shard, file in files.items():
            file.close()
            (staging / str(shard)).replace(layout.inputs(shard))
    return count


def _whole(place: str) -> str:
    """Workers may have another working directory."""
    path = Path(place)
    return str(path.absolute()) if path.exists() else place


# Progress -----------------------------------------------------------------------------------------


def _run(done: Iterator[tuple[int, Counts]], total: int, reporter: Reporter) -> None:
    began = said = time.monotonic()
    rows = 0
    for number, (_, counts) in enumerate(done, start=1):
        rows += counts.rows + counts.failed
        if time.monotonic() - said > SECONDS:
            said = time.monotonic()
            reporter.note(f"{number:,} of {total:,} shards done, {rows / (said - began):.0f} images per second")


def _say(result: ShardedResult, reporter: Reporter) -> None:
    if result.manifest.fingerprint is None:
        reporter.warn(f"{result.manifest.encoder} has no fingerprint: nothing can tell later which encoder made these")
    reporter.note(
        f"wrote {result.directory}: {result.counts.rows:,} x {result.manifest.dim} float32 in {result.finished:,} of "
        f"{counted(result.manifest.shards, 'shard')}"
    )
    if result.counts.failed:
        reporter.warn(
            f"{result.counts.failed:,} inputs could not be read and were left out: see {result.directory / 'failed'}"
        )
    if not result.counts.rows and result.finished == result.manifest.shards:
        raise UsageError(f"{result.directory}: none of the inputs could be read; see {result.directory / 'failed'}")
