"""A bundle as an encoder: images and texts to unit vectors, with onnxruntime and without torch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from icclip.bundles.manifest import Manifest, Tower, check_files, read_manifest
from icclip.console import Reporter
from icclip.data.lengths import CutCaptions
from icclip.errors import CheckpointError
from icclip.runtime.engines import MAX_BATCH, engine_directory, engine_options
from icclip.runtime.preprocessing import ImageSource, Preprocessor
from icclip.runtime.providers import Choice, Provider, choose_provider, cuda_options
from icclip.runtime.sessions import Session, open_session
from icclip.runtime.threads import default_threads
from icclip.runtime.tokenization import TOKENIZER, Tokenization

_QUIET = Reporter(silent=True)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderOptions:
    """How a bundle is run. Shared by `Encoder.open` and whoever passes its arguments on."""

    precision: str
    threads: int
    verify_hashes: bool
    tf32: bool
    engines: Path
    """Where TensorRT's engines are kept."""


@dataclass(frozen=True)
class Encoder:
    """An open bundle; implements `icclip.plugins.specs.Encoder`. Safe to use from several threads at once.

    A tower is loaded when it is first used: who only encodes texts never loads the vision tower.
    """

    bundle: Path
    manifest: Manifest
    choice: Choice
    options: EncoderOptions
    reporter: Reporter = field(default=_QUIET, repr=False)
    _locks: dict[Tower, threading.Lock] = field(
        default_factory=lambda: {"vision": threading.Lock(), "text": threading.Lock()}, repr=False
    )
    _sessions: dict[Tower, Session] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        precision: str | None = None,
        provider: Provider | None = None,
        *,
        threads: int | None = None,
        verify_hashes: bool = True,
        tf32: bool = True,
        engines: Path | None = None,
        reporter: Reporter = _QUIET,
    ) -> Encoder:
        """Open a bundle.

        Args:
            bundle: its directory.
            precision: one that it holds; None: fp32, or the first that it holds.
            provider: `tensorrt`, `cuda` or `cpu`; None: the first of these that works.
            threads: of the CPU provider and of preprocessing; None: the physical cores.
            verify_hashes: compare the content of every file that gets loaded, not only its size.
            tf32: let CUDA use TF32 in float32 graphs.
            engines: directory of TensorRT's engines; None: beside the bundle.
            reporter: shows progress, and says what was chosen and why.

        Raises:
            CheckpointError: it is no bundle, or damaged.
            UsageError: the precision or provider cannot be had; MissingExtraError: no onnxruntime.
        """
        bundle = Path(bundle)
        manifest = read_manifest(bundle)
        precision = precision or ("fp32" if "fp32" in manifest.precisions else next(iter(manifest.precisions)))
        check_files(bundle, manifest, [TOKENIZER, *manifest.graph_files(precision)], hashes=False)
        choice = choose_provider(provider)
        options = EncoderOptions(
            precision, threads or default_threads(), verify_hashes, tf32, engines or engine_directory(bundle)
        )
        encoder = cls(bundle, manifest, choice, options, reporter)
        encoder._say_what_was_chosen()
        return encoder

    # What it is

    @property
    def description(self) -> str:
        """What runs where: `clip, 149.6 M parameters, onnx fp32, cpu, 2 threads`."""
        millions = self.manifest.source.parameters / 1e6
        return (
            f"{self.manifest.model_type}, {millions:.1f} M parameters, onnx {self.options.precision}, "
            f"{self.choice.provider}, {self.options.threads} threads"
        )

    @property
    def provider(self) -> str:
        """Where the graphs run: `tensorrt`, `cuda` or `cpu`."""
        return self.choice.provider

    @property
    def notes(self) -> tuple[str, ...]:
        """Why other providers are not used."""
        return self.choice.notes

    def _say_what_was_chosen(self) -> None:
        for note in self.choice.notes:
            self.reporter.note(note)
        # What is installed and does not work is never passed over in silence.
        for warning in self.choice.warnings:
            if self.reporter.silent:
                _log.warning(warning)
            else:
                self.reporter.warn(warning)

    # Encoding

    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int = 32) -> np.ndarray:
        """PIL images, paths or encoded bytes -> float32 [n, dim] with rows of length 1.

        Raises:
            DataError: an image cannot be decoded.
            CheckpointError: an embedding is zero or not finite.
        """
        rows = self._batches(len(images), batch_size)
        with ThreadPoolExecutor(self.options.threads) as pool:
            batches = _ahead(lambda own: self.preprocessor(images, own, pool), rows)
            return self._encode("vision", batches, len(images), "images")

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        """Texts -> float32 [n, dim] with rows of length 1.

        Raises:
            CheckpointError: an embedding is zero or not finite.
        """
        # Texts of like length share a batch, which then needs little padding.
        order = np.argsort([len(text) for text in texts], kind="stable")
        batches = (
            self.tokenization([texts[i] for i in order[rows.start : rows.stop]])
            for rows in self._batches(len(texts), batch_size)
        )
        embeddings = np.empty((len(texts), self.manifest.embedding_dim), np.float32)
        embeddings[order] = self._encode("text", batches, len(texts), "texts")
        return embeddings

    def cut_captions(self, texts: Sequence[str]) -> CutCaptions:
        """Which texts are longer than what the text tower reads."""
        return self.tokenization.cut_captions(texts)

    def rank(self, image: ImageSource, texts: Sequence[str]) -> np.ndarray:
        """How well each text fits the image, by the model's own temperature: float32 [n].

        Probabilities over the texts where the model was trained with softmax; of each text by itself
        where it was trained with sigmoids.
        """
        cosines = self.encode_texts(texts) @ self.encode_images([image])[0]
        return probabilities(cosines, self.manifest)

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """Images -> `pixel_values`."""
        return Preprocessor(self.manifest.image)

    @cached_property
    def tokenization(self) -> Tokenization:
        """Texts -> `input_ids`."""
        check_files(self.bundle, self.manifest, [TOKENIZER], hashes=self.options.verify_hashes)
        return Tokenization.open(self.bundle, self.manifest.text)

    def session(self, tower: Tower) -> Session:
        """The tower's graph, loaded on first use."""
        with self._locks[tower]:
            if tower not in self._sessions:
                self._sessions[tower] = self._open(tower)
            return self._sessions[tower]

    def _open(self, tower: Tower) -> Session:
        graph: str = getattr(self.manifest.towers(self.options.precision), tower)
        check_files(self.bundle, self.manifest, self.manifest.files_of(graph), hashes=self.options.verify_hashes)
        return open_session(
            self.bundle / graph,
            self.manifest.vision_io if tower == "vision" else self.manifest.text_io,
            self.choice.provider,
            options=self._provider_options(tower),
            threads=self.options.threads,
        )

    def _provider_options(self, tower: Tower) -> dict[str, str]:
        if self.choice.provider == "cpu":
            return {}
        if self.choice.provider == "cuda":
            return cuda_options(tf32=self.options.tf32)
        options = engine_options(self.options.engines, self.manifest, self.options.precision, tower)
        # onnxruntime makes no directory but the last.
        Path(options["trt_engine_cache_path"]).mkdir(parents=True, exist_ok=True)
        return options

    def _batches(self, total: int, batch_size: int) -> Iterator[range]:
        if self.choice.provider == "tensorrt":
            batch_size = min(batch_size, MAX_BATCH)
        return (range(start, min(start + batch_size, total)) for start in range(0, total, batch_size))

    def _encode(self, tower: Tower, batches: Iterator[np.ndarray], total: int, what: str) -> np.ndarray:
        embeddings = np.empty((total, self.manifest.embedding_dim), np.float32)
        done = 0
        with self.reporter.progress(f"encoding {what}", total) as advance:
            for inputs in batches:
                end = done + len(inputs)
                features = self.session(tower).run(inputs, last=end == total)
                embeddings[done:end] = self._unit(features, tower)
                done = end
                advance(len(inputs))
        return embeddings

    def _unit(self, features: np.ndarray, tower: Tower) -> np.ndarray:
        """Rows divided by their length, in float32."""
        where = f"{self.bundle} ({tower}, {self.options.precision}, {self.choice.provider})"
        if features.shape[1:] != (self.manifest.embedding_dim,):
            raise CheckpointError(
                f"{where} gives embeddings of shape {features.shape[1:]}, icclip.json says "
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


def probabilities(cosines: np.ndarray, manifest: Manifest) -> np.ndarray:
    """Cosines [n] of one image with n texts -> float32 [n], as the model was trained to score them.

    Softmax over the texts for the softmax loss (CLIP, arXiv:2103.00020), a sigmoid with the learnt bias for
    the sigmoid loss (SigLIP, arXiv:2303.15343).
    """
    logits = cosines.astype(np.float64) * np.exp(manifest.logit_scale) + (manifest.logit_bias or 0.0)
    if manifest.loss == "sigmoid":
        # The sigmoid, without overflow at either end.
        scores = np.exp(-np.logaddexp(0.0, -logits))
    else:
        weights = np.exp(logits - logits.max(initial=-np.inf))
        scores = weights / weights.sum()
    return np.asarray(scores, np.float32)


def _ahead(make: Callable[[range], np.ndarray], rows: Iterator[range]) -> Iterator[np.ndarray]:
    """`map(make, rows)`, with the next one being made while the caller works on the last."""
    with ThreadPoolExecutor(1) as maker:
        waiting = None
        for own in rows:
            following = maker.submit(make, own)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
