"""A bundle as an encoder: images and texts to unit vectors, with onnxruntime and without torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

import numpy as np
from PIL import Image

from icclip.bundles.manifest import RUNTIME, Manifest, Tower, check_files, is_dynamic, read_manifest
from icclip.config import LossFamily
from icclip.data.lengths import CutCaptions
from icclip.errors import CheckpointError, DataError, UsageError
from icclip.runtime.arguments import as_path, check_arguments, check_batch_size
from icclip.runtime.cpu import int8_note
from icclip.runtime.engines import MAX_BATCH, engine_directory, engine_options
from icclip.runtime.inputs import (
    Decoder,
    Images,
    ImageSource,
    Item,
    Texts,
    check_on_error,
    check_text,
    image_items,
    one_image,
    text_items,
)
from icclip.runtime.kept_graphs import KeptGraph, kept_graph
from icclip.runtime.lanes import IMAGES, TEXTS, Lanes, lane_step
from icclip.runtime.limits import CallCount, Limits
from icclip.runtime.once import once
from icclip.runtime.pipeline import ahead, begun, chunks, pieces, workers
from icclip.runtime.preprocessing import Preprocessor
from icclip.runtime.providers import Choice, Provider, choose_provider, cuda_options
from icclip.runtime.results import Encoded, Failure, OnError, joined, placed
from icclip.runtime.scoring import probabilities
from icclip.runtime.sessions import Opening, Session, check_shape, open_session
from icclip.runtime.threads import choose_threads
from icclip.runtime.tokenization import TOKENIZER, Tokenization
from icclip.runtime.workers import Shared

if TYPE_CHECKING:
    from icclip.console import Reporter

IMAGE_BATCH = 32
TEXT_BATCH = 256
_TOWERS: tuple[Tower, ...] = ("vision", "text")
_log = logging.getLogger(__name__)

Made = tuple[Sequence[Item], np.ndarray, list[tuple[Failure, DataError]]]
"""Some items; the rows of those that could be encoded, float32 [n, dim]; and what failed."""

Progress = Callable[[int], None]
"""A function that is called with the number of inputs done since the last call."""


@dataclass(frozen=True)
class EncoderOptions:
    """How a bundle is run; used by `Encoder.open` and by callers that pass its arguments on."""

    precision: str
    threads: int
    verify_hashes: bool
    tf32: bool
    engines: Path = field(compare=False)
    """The directory of TensorRT's engines."""
    limits: Limits = field(default_factory=Limits)
    threads_reason: str = field(default="asked for", compare=False)
    keep: bool = field(default=True, compare=False)
    """Whether optimised graphs are kept on the disk (`icclip.runtime.kept_graphs`)."""


@dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """An open bundle; implements `icclip.plugins.specs.Encoder`. Safe to use from several threads at once.

    A tower is loaded when it is first used (`warm` loads both), so a program that only encodes texts never loads
    the vision tower. An encoder can be pickled (its path and options travel, and the bundle is opened again)
    and used in forked processes. Two encoders are equal if they give the same embeddings in the same way.

    A subclass may run the graphs in another library: it replaces `library`, `engine`, `choose`, `load` and `lost_by_fork`.
    """

    library: ClassVar[str] = RUNTIME
    """The library that runs the graphs, as `Manifest.runs_in` names it."""
    engine: ClassVar[str] = "onnx"
    """The word for what runs, in descriptions."""

    bundle: Path
    manifest: Manifest
    choice: Choice
    options: EncoderOptions
    reporter: Reporter | None = None
    asked: tuple[Provider | None, int | None] = (None, None)
    """The provider and threads that were asked for; a process that unpickles an encoder chooses for itself."""

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str],
        precision: str | None = None,
        provider: Provider | None = None,
        *,
        threads: int | None = None,
        verify_hashes: bool = True,
        tf32: bool = True,
        engines: Path | None = None,
        limits: Limits | None = None,
        warm: bool = False,
        keep_graphs: bool = True,
        reporter: Reporter | None = None,
    ) -> Self:
        """Open a bundle.

        Args:
            bundle: the directory of the bundle.
            precision: a precision that the bundle holds; None chooses fp32, or else the first one.
            provider: `tensorrt`, `cuda` or `cpu`; None chooses the first of these that works.
            threads: number of threads for the CPU provider and preprocessing; None takes `OMP_NUM_THREADS`, or
                else the number of physical cores, or fewer if a container's quota is smaller.
            verify_hashes: compare the content of every file that is loaded, not only its size.
            tf32: let CUDA use TF32 in float32 graphs.
            engines: the directory of TensorRT's engines; None means a directory beside the bundle.
            limits: limits on images and texts; None means those of `Limits()`.
            warm: load and check everything now, instead of on first use.
            keep_graphs: keep large graphs as onnxruntime optimises them for this CPU in the cache, from the second
                time on that they are opened, so that they open faster; the embeddings are the same.
            reporter: the reporter of the command line; without one, warnings go to `logging`.

        Raises:
            CheckpointError: the directory is not a bundle, or is damaged.
            UsageError: the precision or provider is not available; MissingExtraError: onnxruntime is not installed.
            InputTypeError, InputValueError: an argument has the wrong type, or is out of range.
        """
        # Towers are loaded later, when the working directory may have changed.
        path = as_path(bundle).absolute()
        check_arguments(precision, threads, limits)
        manifest = read_manifest(path)
        cls._check_library(path, manifest)
        if precision is None:
            precision = "fp32" if "fp32" in manifest.precisions else next(iter(manifest.precisions))
        check_files(path, manifest, [TOKENIZER, *manifest.graph_files(precision)], hashes=False)
        choice = cls.choose(provider, precision)
        count, reason = (threads, "asked for") if threads is not None else _chosen_threads()
        options = EncoderOptions(
            precision,
            int(count),
            verify_hashes,
            tf32,
            engines or engine_directory(path),
            limits or Limits(),
            reason,
            keep_graphs,
        )
        encoder = cls(path, manifest, choice, options, reporter, (provider, threads))
        encoder._say_what_was_chosen()
        if warm:
            encoder.warm()
        return encoder

    # What it is

    @property
    def description(self) -> str:
        """A short description of what runs where: `clip, 149.6 M parameters, onnx fp32, cpu, 2 threads`."""
        millions = self.manifest.source.parameters / 1e6
        return (
            f"{self.manifest.model_type}, {millions:.1f} M parameters, {self.engine} {self.options.precision}, "
            f"{self.choice.provider}, {self.options.threads} threads"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """The reasons why other providers are not used, and what this CPU lacks for int8."""
        integers = self.choice.provider == "cpu" and self.manifest.towers(self.precision).dynamic
        line = int8_note() if integers else None
        return (*self.choice.notes, *([line] if line else []))

    @property
    def dim(self) -> int:
        """The number of values in an embedding."""
        return self.manifest.embedding_dim

    @property
    def logit_scale(self) -> float:
        """The natural logarithm of the factor on the cosine, as the checkpoint has it."""
        return self.manifest.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """The bias that is added to the scaled cosine; None for models without one (CLIP)."""
        return self.manifest.logit_bias

    @property
    def loss(self) -> LossFamily:
        """What the checkpoint was trained with: it decides how cosines become scores."""
        return self.manifest.loss

    @property
    def max_length(self) -> int:
        """The maximum number of tokens in a text, including special tokens; longer texts are cut."""
        return self.manifest.text.max_length

    @property
    def image_size(self) -> tuple[int, int]:
        """The size of the vision tower's input, (height, width) in pixels."""
        return self.manifest.image.size

    @property
    def precision(self) -> str:
        """`fp32`, `fp16`, `int8`, ..."""
        return self.options.precision

    @property
    def provider(self) -> Provider:
        """The execution provider that runs the graphs: `tensorrt`, `cuda` or `cpu`."""
        return self.choice.provider

    @property
    def limits(self) -> Limits:
        """The limits that inputs are checked against."""
        return self.options.limits

    @once
    def fingerprint(self) -> str:
        """sha256 over everything that decides embeddings and scores: graphs, tokenizer, preprocessing, text policy, scoring.

        Copies of a bundle share it, and each precision has its own. An index of embeddings stores it, so that
        vectors of another encoder are noticed.
        """
        values, manifest = self.manifest.to_mapping(), self.manifest
        files = [TOKENIZER, *manifest.graph_files(self.precision)]
        decisive = {
            "files": [manifest.files[name].sha256 for name in files if name in manifest.files],
            **{key: values[key] for key in ("image", "text", "loss", "logit_scale", "logit_bias", "embedding_dim")},
        }
        if self.library != RUNTIME:
            # Other libraries compute several precisions from the same graphs.
            decisive["runs"] = [self.library, self.precision]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @once
    def rows_alone(self) -> bool:
        """Whether each row is encoded by itself unless a batch size is given.

        This is so if activations are quantized dynamically (int8), because the scales are those of the whole
        batch, and a row's embedding would depend on the other rows.
        """
        towers = self.manifest.towers(self.precision)
        return is_dynamic(self.bundle, towers) if towers.dynamic is None else towers.dynamic

    def __repr__(self) -> str:
        bundle, options = self.bundle.name, self.options
        return (
            f"<icclip Encoder {bundle!r}: {self.manifest.model_type} {self.precision}, dim {self.dim}, {self.provider}, "
            f"{options.threads} threads ({options.threads_reason}), {self.fingerprint[:12]}>"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoder) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return type(self), self.fingerprint, self.provider, self.options

    def _say_what_was_chosen(self) -> None:
        reporter = self.reporter
        if reporter is None or reporter.silent:
            # A provider that is installed but does not work is always reported.
            for warning in self.choice.warnings:
                _log.warning(warning)
            return
        for note in self.notes:
            reporter.note(note)
        for warning in self.choice.warnings:
            reporter.warn(warning)

    # Its life

    def warm(self) -> Self:
        """Load, check and try both towers and the tokenizer, so that the first call is as fast as the next.

        In a forked worker, call it after the fork, because the graphs are loaded again there.

        Raises:
            CheckpointError: a file is damaged, or the manifest has no digest.
            ClosedError: the encoder was closed.
        """
        if self.manifest.digest is None:
            raise CheckpointError(
                f"{self.bundle}: icclip.json has no digest, so changes to it cannot be detected: "
                "export the checkpoint again"
            )
        with ThreadPoolExecutor(len(_TOWERS)) as pool:
            for _ in pool.map(self.session, _TOWERS):
                pass
        self.encode_images(Image.new("RGB", (1, 1)))
        self.encode_texts("warm")
        return self

    def close(self) -> None:
        """Release the graphs and their memory; encoding afterwards raises ClosedError."""
        self._shared.close()

    def __enter__(self) -> Self:
        self._shared.check_usable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        provider, threads = self.asked
        keywords = {
            "threads": threads,
            "verify_hashes": self.options.verify_hashes,
            "tf32": self.options.tf32,
            "engines": self.options.engines.absolute(),
            "limits": self.limits,
            "keep_graphs": self.options.keep,
        }
        where = (str(self.bundle), self.precision, provider)
        return _reopened, (type(self), where, keywords, self.fingerprint)

    # Encoding

    @overload
    def encode_images(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        errors: Literal["raise"] = "raise",
        progress: Progress | None = None,
    ) -> np.ndarray: ...

    @overload
    def encode_images(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        errors: Literal["skip", "null"],
        progress: Progress | None = None,
    ) -> Encoded: ...

    def encode_images(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        errors: OnError = "raise",
        progress: Progress | None = None,
    ) -> np.ndarray | Encoded:
        """Encode images to float32 [n, dim] with rows of length 1; a single image gives one row.

        Args:
            images: one image, or any iterable of images: PIL images of any mode, paths, bytes of image files, open
                files, uint8 arrays [h, w, 3] or [h, w]. An array [n, h, w, 3] is n images.
            batch_size: number of images that run together; None means 32, or 1 if `rows_alone`. Many images on the CPU are
                divided among the cores in smaller batches, which changes rows only by rounding.
            errors: what happens with an image that cannot be used: it ends the call ("raise"), is left out ("skip"),
                or gets a row of NaN ("null"). With the last two, the result is an `Encoded`, which lists the failures.
            progress: called with the number of images done since the last call.

        Raises:
            InputTypeError: an input is not an image. InputValueError: an image cannot be decoded, or is too large.
            CheckpointError: an embedding is zero or not finite.
        """
        check_on_error(errors)
        items, total = image_items(images)
        count = CallCount(self.limits.pixels_per_call)
        with self._progress("encoding images", total, progress) as advance:
            parts = list(self._image_parts(items, total, batch_size, errors=errors, count=count, advance=advance))
        return joined(parts, self.dim, errors)

    def iter_encode_images(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        errors: OnError = "raise",
        progress: Progress | None = None,
    ) -> Iterator[Encoded]:
        """Encode a stream of any length like `encode_images`, but batch by batch and in bounded memory.

        While a batch runs, the next one is read and decoded; no more than these two are held in memory. The
        iterable is read from another thread, and `Limits.pixels_per_call` does not apply.

        Yields:
            Batches in the order of the inputs; `rows` counts over the whole stream.

        Raises:
            DataError: the same errors as `encode_images`, when the batch is reached.
        """
        check_on_error(errors)
        check_batch_size(batch_size)
        items, total = image_items(images)
        return self._image_parts(
            items, total, batch_size, errors=errors, count=CallCount(None), advance=progress or _ignore
        )

    @overload
    def encode_texts(
        self,
        texts: Texts,
        *,
        batch_size: int | None = None,
        errors: Literal["raise"] = "raise",
        progress: Progress | None = None,
    ) -> np.ndarray: ...

    @overload
    def encode_texts(
        self,
        texts: Texts,
        *,
        batch_size: int | None = None,
        errors: Literal["skip", "null"],
        progress: Progress | None = None,
    ) -> Encoded: ...

    def encode_texts(
        self,
        texts: Texts,
        *,
        batch_size: int | None = None,
        errors: OnError = "raise",
        progress: Progress | None = None,
    ) -> np.ndarray | Encoded:
        """Encode texts to float32 [n, dim] with rows of length 1; a single text gives one row.

        Args:
            texts: one text, or any iterable of texts. Each is cut to `max_length` tokens.
            batch_size: number of texts that run together; None means 256, or 1 if `rows_alone`.
            errors: as for `encode_images`.
            progress: called with the number of texts done since the last call.

        Raises:
            InputTypeError: an input is not a text. InputValueError: a text is too long, or is not valid Unicode.
            CheckpointError: an embedding is zero or not finite.
        """
        check_on_error(errors)
        size = self._batch(batch_size, TEXT_BATCH)
        items, _ = text_items(texts)
        good, failures, total = self._good_texts(items, errors)
        # Texts of similar length share a batch, which then needs little padding.
        order = np.argsort([len(text) for _, text in good], kind="stable")
        embeddings = np.empty((len(good), self.dim), np.float32)
        with self._progress("encoding texts", total, progress) as advance:
            for own, embedded in self._text_batches([text for _, text in good], order, size):
                embeddings[own] = embedded
                advance(len(own))
            advance(total - len(good))
        rows = np.array([row for row, _ in good], np.int64)
        return joined([placed(embeddings, rows, total, failures, errors)], self.dim, errors)

    def cut_captions(self, texts: Sequence[str]) -> CutCaptions:
        """Which texts are longer than the text tower can read."""
        return self.tokenization.cut_captions(texts)

    def rank(self, image: ImageSource, texts: Texts) -> np.ndarray:
        """Score how well each text fits the image, with the model's own temperature: float32 [n].

        A model trained with softmax gives probabilities over all texts; one trained with sigmoids gives a
        probability for each text by itself.

        Raises:
            DataError: the same errors as `encode_images` and `encode_texts`.
        """
        image = one_image(image)
        cosines = self.encode_texts(texts) @ self.encode_images(image)[0]
        return probabilities(cosines, self.manifest)

    @once
    def preprocessor(self) -> Preprocessor:
        """Images -> `pixel_values`."""
        return Preprocessor(self.manifest.image)

    @once
    def tokenization(self) -> Tokenization:
        """Texts -> `input_ids`."""
        check_files(self.bundle, self.manifest, [TOKENIZER], hashes=self.options.verify_hashes)
        return Tokenization.open(self.bundle, self.manifest.text)

    def session(self, tower: Tower) -> Session:
        """The tower's graph, loaded on first use.

        Raises:
            CheckpointError: a file is damaged. ClosedError: the encoder was closed.
            UsageError: it used a GPU before this process was forked.
        """
        return self._shared.session(tower, lambda tower: self._open(tower, self.options.threads))

    def _lane_session(self, tower: Tower) -> Session:
        """The tower's graph without threads of its own, for many threads at once."""
        return self._shared.session(tower, lambda tower: self._open(tower, 1), lanes=True)

    @once
    def _shared(self) -> Shared:
        return Shared(self.limits.pixels_at_once, lost_by_fork=self.lost_by_fork())

    def __post_init__(self) -> None:
        # Made now, because several threads that use it first would each make their own.
        assert self._shared is not None

    def _open(self, tower: Tower, threads: int) -> Session:
        graph: str = getattr(self.manifest.towers(self.options.precision), tower)
        kept = self._kept(graph)
        opening = self._opening(tower, graph, threads)
        session = kept.opened(opening) if kept else None
        if session is None:
            check_files(self.bundle, self.manifest, self.manifest.files_of(graph), hashes=self.options.verify_hashes)
            session = (kept.made(opening) if kept else None) or self.load(tower, graph, threads)
        image = (3, *self.image_size) if tower == "vision" else ()
        check_shape(session, str(self.bundle / graph), inputs=image, dim=self.dim)
        return session

    def _kept(self, graph: str) -> KeptGraph | None:
        """Where the graph is kept as onnxruntime optimises it; None if it is not to be."""
        wanted = self.options.keep and self.choice.provider == "cpu" and self.library == RUNTIME
        return kept_graph(self.manifest, graph) if wanted else None

    def _opening(self, tower: Tower, graph: str, threads: int) -> Opening:
        io = self.manifest.vision_io if tower == "vision" else self.manifest.text_io
        data = [self.bundle / name for name in self.manifest.files_of(graph) if name != graph]
        return Opening(self.bundle / graph, io, threads, data)

    # What runs it

    @classmethod
    def choose(cls, provider: Provider | None, precision: str) -> Choice:  # noqa: ARG003  other libraries need it
        """Where a precision runs. Raises UsageError if it cannot run there, MissingExtraError without the library."""
        return choose_provider(provider)

    def load(self, tower: Tower, graph: str, threads: int) -> Session:
        """Open a tower's graph, a path inside the bundle, whose files have been checked, with so many threads.

        Raises:
            CheckpointError: the file is not a valid graph. UsageError: the provider gave up on this graph.
        """
        opening = self._opening(tower, graph, threads)
        if self.choice.provider == "cpu":
            return opening.plain()
        return open_session(
            opening.path,
            opening.io,
            self.choice.provider,
            options=self._provider_options(tower),
            threads=threads,
            data=opening.data,
        )

    def lost_by_fork(self) -> str | None:
        """What a forked process cannot use once its parent has; None if graphs can be opened again there."""
        return None if self.choice.provider == "cpu" else "a GPU"

    @classmethod
    def _check_library(cls, path: Path, manifest: Manifest) -> None:
        if manifest.runs_in != cls.library:
            raise UsageError(
                f"{path} was exported to run in {manifest.runs_in}, not in {cls.library}: evaluate, embed or index with it "
                "by icclip's commands, or export the checkpoint again for the target onnx"
            )

    def _provider_options(self, tower: Tower) -> dict[str, str]:
        if self.choice.provider == "cpu":
            return {}
        if self.choice.provider == "cuda":
            return cuda_options(tf32=self.options.tf32)
        options = engine_options(self.options.engines, self.manifest, self.options.precision, tower)
        # onnxruntime only makes the last directory of a path.
        Path(options["trt_engine_cache_path"]).mkdir(parents=True, exist_ok=True)
        return options

    def _batch(self, asked: int | None, usual: int) -> int:
        """The number of rows that run together."""
        check_batch_size(asked)
        size = asked if asked is not None else 1 if self.rows_alone else usual
        return min(size, MAX_BATCH) if self.choice.provider == "tensorrt" else size

    @contextmanager
    def _progress(self, what: str, total: int | None, own: Progress | None) -> Iterator[Progress]:
        if own is not None or self.reporter is None or self.reporter.silent:
            yield own or _ignore
            return
        with self.reporter.progress(what, total) as advance:
            yield advance

    def _image_parts(
        self,
        items: Iterator[Item],
        total: int | None,
        batch_size: int | None,
        *,
        errors: OnError,
        count: CallCount,
        advance: Progress,
    ) -> Iterator[Encoded]:
        size = self._batch(batch_size, IMAGE_BATCH)
        # Even if rows run alone, a whole batch is decoded at a time.
        together = IMAGE_BATCH if self.rows_alone and size == 1 else size
        lanes = self._lanes(size, IMAGES)
        group = together if count.limit is None else lanes.group(together)
        parts, known = begun(chunks(items, group))
        decoder = Decoder(self.limits, self._shared.budget, count)
        if lanes.pay(known if total is None else total, group):
            made = self._in_lanes(parts, decoder, lanes)
        else:
            if group != together:
                parts = chunks((item for part, _ in parts for item in part), together)
            made = self._in_batches(parts, decoder, size, strict=errors == "raise")
        # Closed at once after an error: otherwise the error's traceback keeps its threads alive, and the garbage
        # collector may end them from within one of them, which then waits for itself.
        with closing(made):
            for own, embeddings, failures in made:
                if failures and errors == "raise":
                    raise failures[0][1]
                failed = {failure.row for failure, _ in failures}
                rows = np.array([row for row, _ in own if row not in failed], np.int64)
                told = [failure for failure, _ in failures]
                yield placed(embeddings, rows, len(own), told, errors, first=own[0][0])
                advance(len(own))

    def _lanes(self, size: int, usual: int) -> Lanes:
        # Other libraries divide their work themselves.
        threads = self.options.threads if self.library == RUNTIME else 1
        return Lanes(self.choice.provider, threads, lane_step(size, usual, alone=self.rows_alone))

    def _in_batches(
        self, parts: Iterator[tuple[Sequence[Item], bool]], decoder: Decoder, size: int, *, strict: bool
    ) -> Generator[Made]:
        """All threads make the next part ready while they run the current one, `size` rows at a time.

        With `strict`, a part with a failure is not run.
        """
        # Before an image is made ready: a graph that takes other sizes says so first.
        session = self.session("vision")
        with ThreadPoolExecutor(self.options.threads) as pool:
            for (own, last), (pixels, failures) in ahead(
                lambda part: self.preprocessor.batch(part[0], decoder, pool), parts
            ):
                count = 0 if failures and strict else len(pixels)
                embeddings = np.empty((count, self.dim), np.float32)
                for start in range(0, count, size):
                    end = start + size
                    features = session.run(pixels[start:end], last=last and end >= count)
                    embeddings[start:end] = self._unit(features, "vision")
                yield own, embeddings, failures

    def _in_lanes(
        self, parts: Iterator[tuple[Sequence[Item], bool]], decoder: Decoder, lanes: Lanes
    ) -> Generator[Made]:
        """Each thread makes a few images ready and runs them alone."""
        session = self._lane_session("vision")

        def lane(items: Sequence[Item]) -> tuple[np.ndarray, list[tuple[Failure, DataError]]]:
            pixels, failures = self.preprocessor.batch(items, decoder)
            if not len(pixels):
                return np.empty((0, self.dim), np.float32), failures
            return self._unit(session.run(pixels), "vision"), failures

        with workers(lanes.threads) as pool:
            for (own, _), running in ahead(
                lambda part: [pool.submit(lane, piece) for piece in pieces(part[0], lanes.step)], parts
            ):
                done = [one.result() for one in running]
                embeddings = np.concatenate([embedded for embedded, _ in done])
                yield own, embeddings, [failure for _, failures in done for failure in failures]

    def _good_texts(self, items: Iterable[Item], errors: OnError) -> tuple[list[tuple[int, str]], list[Failure], int]:
        """(row, text) of those that can be encoded, cut where they are long; what failed; how many there were."""
        self._shared.check_usable()
        good: list[tuple[int, str]] = []
        failures: list[Failure] = []
        total = 0
        for item in items:
            total += 1
            try:
                good.append((item[0], self.tokenization.shortened(check_text(item, self.limits))))
            except DataError as error:
                if errors == "raise":
                    raise
                failures.append(Failure(item[0], str(error)))
        return good, failures, total

    def _text_batches(
        self, texts: Sequence[str], order: np.ndarray, size: int
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """The numbers of some texts, and their rows, in the order given; in lanes if that pays."""
        lanes = self._lanes(size, TEXTS)
        in_lanes = lanes.pay(len(texts))
        batches = pieces(order.tolist(), lanes.step if in_lanes else size)

        def encode(number: int) -> np.ndarray:
            ids = self.tokenization([texts[i] for i in batches[number]])
            session = self._lane_session("text") if in_lanes else self.session("text")
            return self._unit(session.run(ids, last=number == len(batches) - 1), "text")

        if not in_lanes:
            yield from zip(batches, map(encode, range(len(batches))), strict=True)
            return
        with workers(lanes.threads) as pool:
            yield from zip(batches, pool.map(encode, range(len(batches))), strict=True)

    def _unit(self, features: np.ndarray, tower: Tower) -> np.ndarray:
        """Rows divided by their length, in float32."""
        where = f"{self.bundle} ({tower}, {self.options.precision}, {self.choice.provider})"
        if features.shape[1:] != (self.manifest.embedding_dim,):
            raise CheckpointError(
                f"{where} gives embeddings of shape {features.shape[1:]}, but icclip.json says "
                f"{self.manifest.embedding_dim}: export the checkpoint again"
            )
        features = features.astype(np.float32, copy=False)
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and lengths.all()):
            raise CheckpointError(
                f"{where} gives an embedding that is zero or not finite: choose another precision, or export again"
            )
        unit: np.ndarray = features / lengths
        return unit


def _chosen_threads() -> tuple[int, str]:
    choice = choose_threads()
    return choice.count, choice.reason


def _reopened(
    kind: type[Encoder], where: tuple[str, str, Provider | None], keywords: dict[str, Any], fingerprint: str
) -> Encoder:
    """Open the bundle again when unpickling. Raises CheckpointError if another bundle is at the path now."""
    encoder = kind.open(*where, **keywords)
    if encoder.fingerprint != fingerprint:
        raise CheckpointError(
            f"{where[0]} is not the bundle that the encoder was pickled with (its fingerprint differs): "
            "open it again, or copy the same bundle there"
        )
    return encoder


def _ignore(_done: int) -> None:
    """Stands for a progress callback if none is given."""
