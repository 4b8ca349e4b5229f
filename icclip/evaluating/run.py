"""One evaluation, from a checkpoint and a dataset to a file of metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip import __version__
from icclip.bundles.manifest import is_bundle
from icclip.bundles.parity_record import measured_batch
from icclip.config import EvalConfig
from icclip.console import Reporter
from icclip.encoders import open_encoder
from icclip.errors import DataError, MissingExtraError
from icclip.evaluating.keeping import Keep, keep_ranks, size_line
from icclip.evaluating.products import fastest_multiply
from icclip.evaluating.request import dataset_identity, local_path, recorded, training_data, warn_of_leaks
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder, MetricSpec
from icclip.report.tables import metrics_table, within_table
from icclip.retrieval import bootstrap as intervals
from icclip.retrieval.folds import fold_metrics
from icclip.retrieval.metrics import CUTOFFS, retrieval_metrics, values_by_query
from icclip.retrieval.ranking import RetrievalRanks, rank
from icclip.retrieval.relevance import Relevance
from icclip.retrieval.within import DIRECTIONS, Partners, within_metrics
from icclip.runs.directory import RunDirectory
from icclip.runs.ranks import ranks_path
from icclip.runs.results import metric_path, refuse_other_numbers, write_metrics

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

    from icclip.data.gallery import Gallery

RELEVANCE = "relevance"
"""The key of the metrics that says which answers counted as right."""
FOLDS = "folds"
"""The key of the metrics that holds the means over folds, and their number."""
WITHIN = "within"
"""The key of the metrics that holds retrieval of images by images and of texts by texts."""
Further = Callable[["np.ndarray", "np.ndarray", Relevance], dict[str, Any]]
"""Takes the embeddings of images and texts, and the right answers."""
RIGHT_ANSWERS = {
    "text": "the same caption is right for every image that has it (--relevance text)",
    "pair": "a caption is right only for its own image (--relevance pair)",
}

_QUIET = Reporter(silent=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What an evaluation measured."""

    metrics: Mapping[str, Any]
    """The content of the result file: the metrics, `confidence_95` and `about`."""
    title: str
    """The name of the dataset and of the split."""

    def to_mapping(self) -> Mapping[str, Any]:
        """The content of the result file."""
        return self.metrics

    def renderables(self) -> Iterable[RenderableType]:
        """The metrics as a table, including those of plugins, and what else was measured as further ones."""
        tables = [metrics_table(self.metrics, self.title)]
        if FOLDS in self.metrics:
            folds = self.metrics[FOLDS]
            tables.append(metrics_table(folds["mean"], f"{self.title}, mean of {folds['count']} folds"))
        if WITHIN in self.metrics:
            tables.append(within_table(self.metrics[WITHIN], self.title))
        return tables

    def verdict(self) -> None:
        """An evaluation always succeeds, because it has no threshold to miss."""


def evaluate(config: EvalConfig, registry: Registry, reporter: Reporter) -> Evaluation:
    """Measure a checkpoint on a split and write `<split>_metric.json`.

    Raises:
        UsageError: something that the user can correct: a name, a path, the data, or what blocks the result file.
    """
    from icclip.data.lengths import cut_captions

    specs = dict.fromkeys([*registry.default_metrics(), *map(registry.metric, config.metrics)])
    further = [recall_at(config.at)] if set(config.at) - set(CUTOFFS) else []
    run = recorded(config.checkpoint, config.encoder.revision)
    directory = output_directory(registry, run, config)
    about = subject(registry, config, directory)
    path = metric_path(directory, config.split)
    # A file in the way is reported before the work, not after it.
    refuse_other_numbers(path, about)
    warn_of_leaks(registry, run, config.data, reporter)
    gallery, shared = _opened(config, registry, reporter)
    relevance, other = gallery.relevances()
    if config.within and not any(len(Partners.of(relevance, one).queries()) for one in DIRECTIONS):
        raise DataError(
            f"{gallery.label}: no two images share a caption and no image has two: nothing answers its own kind"
        )
    encoder = open_encoder(registry, config.encoder, reporter)
    reporter.header(_header(config, encoder, gallery, relevance, path))
    if cut := cut_captions(encoder, gallery.captions.texts):
        reporter.warn(cut.line)
        about |= {"cut_captions": cut.to_mapping()}
    kept = ranks_path(directory, config.split)
    metrics = evaluate_split(
        encoder,
        gallery.images,
        relevance,
        other,
        image_batch=config.eval_bs,
        metrics=[*specs, *further],
        bootstrap=config.bootstrap,
        seed=config.seed,
        reporter=reporter,
        keep=keep_ranks(kept, gallery, about),
        further=_further(config, [*specs, *further], reporter),
    )
    about |= {"encoder": encoder.description, "icclip": __version__, "fingerprint": gallery.fingerprint()}
    about |= {"leakage": shared} if shared else {}
    about = write_metrics(path, metrics, about)
    reporter.note(f"wrote {path} and {kept.name}")
    title = f"{config.data.name}, {config.split}" + (", the first caption of each image" if config.one_caption else "")
    return Evaluation(metrics={**metrics, "about": about}, title=title)


def _further(config: EvalConfig, metrics: Sequence[MetricSpec], reporter: Reporter) -> dict[str, Further]:
    """What is asked for beside retrieval between all images and all texts of the split."""
    found: dict[str, Further] = {}
    if config.folds:
        found[FOLDS] = partial(
            fold_metrics, folds=config.folds, metrics=metrics, resamples=config.bootstrap, seed=config.seed
        )
    if config.within:
        found[WITHIN] = partial(
            within_metrics, resamples=config.bootstrap, seed=config.seed, progress=reporter.progress
        )
    return found


def recall_at(cutoffs: Sequence[int]) -> MetricSpec:
    """R@K in both directions for each K that is not computed anyway."""
    wanted = sorted(set(cutoffs) - set(CUTOFFS))

    def by_query(ranks: RetrievalRanks) -> dict[str, np.ndarray]:
        directions = {"i2t": ranks.i2t, "t2i": ranks.t2i}
        return {f"{name}_R@{k}": (own <= k).astype(float) for k in wanted for name, own in directions.items()}

    def compute(ranks: RetrievalRanks) -> dict[str, float]:
        return {key: float(values.mean()) for key, values in by_query(ranks).items()}

    return MetricSpec(name="recall-at", summary="recall at further K", compute=compute, by_query=by_query)


def _opened(config: EvalConfig, registry: Registry, reporter: Reporter) -> tuple[Gallery, list[dict[str, Any]]]:
    """The split, and what it shares with the others; what a reader should know of both is said."""
    try:
        from icclip.data.loading import is_whole, load_splits
    except ImportError as error:
        raise MissingExtraError("an evaluation", ["datasets"], "pip install datasets") from error
    from icclip.data.gallery import open_gallery
    from icclip.data.leakage import leakage, leakage_line

    splits = load_splits(registry, config.data, reporter)
    gallery = open_gallery(registry, config.data, splits, config.split)
    published = registry.dataset(config.data.name).split_sizes
    if line := size_line(config.data.name, config.split, published, gallery):
        reporter.warn(line)
    others = {} if is_whole(splits, config.data) else {name: splits[name] for name in splits if name != config.split}
    shared = leakage(gallery, others)
    for one in shared:
        reporter.warn(leakage_line(one, config.split))
    if config.one_caption:
        gallery = gallery.with_one_caption()
    if config.folds and gallery.captions.n_images % config.folds:
        raise DataError(
            f"{gallery.label} has {gallery.captions.n_images:,} images, which do not make {config.folds} folds of the same "
            "size: choose a number that divides it"
        )
    return gallery, shared


def evaluate_split(
    encoder: Encoder,
    images: Sequence[Image],
    relevance: Relevance,
    other: Relevance | None = None,
    *,
    image_batch: int = 128,
    text_batch: int = 256,
    metrics: Sequence[MetricSpec] = (),
    bootstrap: int = 1000,
    seed: int = 42,
    reporter: Reporter = _QUIET,
    keep: Keep | None = None,
    further: Mapping[str, Further] = MappingProxyType({}),
) -> dict[str, Any]:
    """Encode a split, rank it and compute its metrics. The same arguments give the same numbers.

    The result has a key `relevance` with the protocol that the numbers follow, the number of captions that
    several images share, the number of images that are copies of others and, under the name of the other
    protocol, the numbers by that protocol.

    Args:
        encoder: the encoder, which returns unit vectors and shows its own progress.
        images: the images, in the order of `relevance`.
        relevance: the right answers and the captions.
        other: the right answers by another protocol, whose numbers are reported as well.
        image_batch: number of images per batch.
        text_batch: number of texts per batch.
        metrics: metrics of plugins, computed in addition to those of `retrieval_metrics`.
        bootstrap: number of resamples behind `confidence_95`; 0 leaves that key out.
        seed: seed of the resamples.
        reporter: shows progress, and warnings about numbers that say less than they seem to.
        keep: is given the ranks and the embeddings, as `icclip.evaluating.keeping.keep_ranks` makes it.
        further: what else is measured from the embeddings, by its key in the result.

    Raises:
        DataError: the split has no images.
        CheckpointError: the embeddings cannot be compared.
    """
    if not relevance.captions.n_images:
        raise DataError("the split has no images: check the dataset, or choose another split")
    embeddings = (
        encoder.encode_images(images, batch_size=measured_batch(encoder, image_batch)),
        encoder.encode_texts(relevance.captions.texts, batch_size=measured_batch(encoder, text_batch)),
    )
    multiply = fastest_multiply(len(embeddings[0]) * len(embeddings[1]))
    ranks = rank(*embeddings, relevance, multiply=multiply, progress=reporter.progress)
    if keep is not None:
        keep(ranks, *embeddings)
    result: dict[str, Any] = retrieval_metrics(ranks, metrics)
    result[RELEVANCE] = _about_relevance(relevance, other)
    if other is not None:
        result[RELEVANCE][other.protocol] = retrieval_metrics(rank(*embeddings, other, multiply=multiply))
    for doubt in doubts(ranks):
        reporter.warn(doubt)
    if bootstrap:
        result[intervals.KEY] = intervals.confidence_intervals(ranks, resamples=bootstrap, seed=seed)
        values = values_by_query(ranks, metrics)
        result[intervals.KEY] |= intervals.query_intervals(ranks, values, resamples=bootstrap, seed=seed)
    for key, measure in further.items():
        result[key] = measure(*embeddings, relevance)
    return result


def _about_relevance(relevance: Relevance, other: Relevance | None) -> dict[str, Any]:
    by_text = next((one for one in (relevance, other) if one is not None and one.protocol == "text"), None)
    shared = 0 if by_text is None else by_text.n_shared_captions
    copies = 0 if by_text is None else by_text.n_duplicate_images
    return {"protocol": relevance.protocol, "shared_captions": shared, "duplicate_images": copies}


def doubts(ranks: RetrievalRanks) -> list[str]:
    """What a reader of the numbers should know: that the split is too small, or that answers are tied."""
    found = []
    n_images, n_texts, largest = ranks.captions.n_images, ranks.captions.n_texts, max(CUTOFFS)
    if n_images <= largest:
        found.append(f"t2i_R@{largest} is always 1, whatever the model: the split has no more than {largest} images")
    tied = int(np.count_nonzero(ranks.t2i > ranks.t2i_optimistic))
    if tied:
        found.append(
            f"{tied} of {n_texts} captions score the same with a right image and a wrong one: ties count as misses"
        )
    return found


def output_directory(registry: Registry, run: RunDirectory, config: EvalConfig) -> Path:
    """The directory for the result: the one that the user named, the run's own, or one below `eval/`.

    A run's own directory only receives results on the data it was trained on, with right answers counted as
    during training.
    """
    from icclip.data.gallery import counted_as

    if config.output_dir is not None:
        return config.output_dir
    own, counted = training_data(registry, run, config.data), _counted(registry, config)
    usual = counted_as(registry, dataclasses.replace(config.data, relevance=None, qrels=None) if own is None else own)
    if own is not None and counted == usual and Path(config.checkpoint).exists():
        return Path(config.checkpoint)
    dataset = Path(dataset_identity(registry, config.data)).stem
    protocol = "" if counted == usual else f"-{counted}"
    return Path("eval") / f"{Path(config.checkpoint).resolve().name}{_variant(config)}-{dataset}{protocol}"


def subject(registry: Registry, config: EvalConfig, directory: Path) -> dict[str, Any]:
    """What a result is about: the checkpoint, the data and the right answers, as `write_metrics` takes them."""
    return {
        "checkpoint": _checkpoint_identity(config.checkpoint, directory) + _variant(config),
        "dataset": dataset_identity(registry, config.data),
        "split": config.split,
        "relevance": _counted(registry, config),
    }


def _counted(registry: Registry, config: EvalConfig) -> str:
    """What the right answers follow; with one caption of each image, it says so."""
    from icclip.data.gallery import counted_as

    counted = counted_as(registry, config.data)
    return f"{counted}-one-caption" if config.one_caption else counted


def _checkpoint_identity(checkpoint: str, directory: Path) -> str:
    """The checkpoint that a result is about: `.` beside its own weights, because a run directory may be moved."""
    path = Path(checkpoint)
    if not path.exists():
        return checkpoint
    return "." if path.resolve() == directory.resolve() else str(path.resolve())


def _variant(config: EvalConfig) -> str:
    """The part of a name that tells a bundle's precisions apart."""
    precision = config.encoder.precision
    return f"-{precision}" if precision and is_bundle(local_path(config.checkpoint, config.encoder.revision)) else ""


def _header(
    config: EvalConfig, encoder: Encoder, gallery: Gallery, relevance: Relevance, path: Path
) -> dict[str, object]:
    captions = gallery.captions
    size = f"{captions.n_images:,} images, {captions.n_texts:,} captions"
    return {
        "model": config.checkpoint,
        "runs as": encoder.description,
        "data": f"{gallery.label}: {size}",
        "right answers": RIGHT_ANSWERS.get(relevance.protocol, f"as judged in {config.data.qrels}"),
        "result": path,
    }
