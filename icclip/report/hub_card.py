"""The model card of a publication, which the hub and people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icclip.bundles.manifest import RUNTIME, Manifest
from icclip.report.tables import CUTOFFS, DIRECTIONS

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from icclip.bundles.parity_record import ParityRecord

TASK = "zero-shot-image-classification"
SAMPLE = {
    "src": "https://huggingface.co/datasets/mishig/sample_images/resolve/main/cat-dog-music.png",
    "candidate_labels": "playing music, playing sports",
    "example_title": "Cat and dog",
}
"""The hub's own sample for this task."""

BUNDLE_USE = """\
With icclip, and without PyTorch (`pip install 'icclip[onnx]'`):

```python
from huggingface_hub import snapshot_download
from icclip.runtime import Encoder

encoder = Encoder.open(snapshot_download("{repository}"), precision="{precision}")
images = encoder.encode_images(["photo.jpg"])  # unit vectors, float32 [1, {dim}]
texts = encoder.encode_texts(["two dogs run across a field of snow", "a red car"])
print(images @ texts.T)
```

Check that what you downloaded gives what the checkpoint gave: `icclip verify {repository}`. The files have the names
that transformers.js looks for."""

BUNDLE_USE_ELSEWHERE = """\
Its graphs run in {library}, where they were measured. With icclip, without PyTorch:

```
icclip embed {repository} --precision {precision} --texts texts.txt -o texts.npy
```

Check that what you downloaded gives what the checkpoint gave: `icclip verify {repository}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Retrieval metrics of one split, and the name of what was measured."""

    dataset: str
    split: str
    metrics: Mapping[str, Any]
    """`i2t_R@1`, ... as fractions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFacts:
    """Facts that the hub shows beside a card."""

    name: str
    """The repository: OWNER/NAME."""
    license: str | None = None
    base_model: str | None = None
    widget: tuple[Mapping[str, str], ...] = (SAMPLE,)


def run_card(text: str, facts: HubFacts, measured: Measured | None) -> str:
    """Make the card of a run with everything that the hub understands.

    Args:
        text: the run's own README.md, with or without front matter.
        facts: facts that are added to the front matter.
        measured: the metrics for the `model-index`.
    """
    from huggingface_hub import ModelCard, ModelCardData

    card = ModelCard(text, ignore_metadata_errors=True)
    assert isinstance(card.data, ModelCardData)
    _complete(card.data, facts, measured)
    return str(card)


def bundle_card(manifest: Manifest, parity: ParityRecord, facts: HubFacts) -> str:
    """Make the card of a bundle: what it is, what its gate measured, and how to use it.

    Args:
        manifest: the manifest of the bundle.
        parity: the gate's record.
        facts: what goes to the front matter.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(library_name="transformers.js", pipeline_tag=TASK, metrics=["recall"])
    data.tags = ["icclip", "onnx", "image-text-retrieval"]
    first = parity.results[0]
    _complete(data, facts, Measured(dataset=parity.dataset, split=parity.split, metrics=first.metrics))
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {facts.name.partition('/')[2]}",
        _summary(manifest),
        "## Proven to retrieve the same",
        f"Measured on `{parity.dataset}`, split `{parity.split}`: {parity.n_images:,} images, {parity.n_texts:,} captions.",
        "\n".join(_parity_rows(parity)),
        "## Use",
        _use(manifest, facts.name, first.precision),
    ]
    return "\n\n".join(sections) + "\n"


def _use(manifest: Manifest, repository: str, precision: str) -> str:
    if manifest.runs_in != RUNTIME:
        return BUNDLE_USE_ELSEWHERE.format(library=manifest.runs_in, repository=repository, precision=precision)
    return BUNDLE_USE.format(repository=repository, precision=precision, dim=manifest.embedding_dim)


def _summary(manifest: Manifest) -> str:
    size = f"{manifest.source.parameters / 1e6:.1f} million parameters"
    return (
        f"Both encoders of `{manifest.source.name}` (`{manifest.model_type}`, {size}) as ONNX. icclip exported them and "
        "compared them with the checkpoint before they left."
    )


def _complete(data: ModelCardData, facts: HubFacts, measured: Measured | None) -> None:
    values: dict[str, Any] = {"license": facts.license, "base_model": facts.base_model}
    for key, value in values.items():
        if value is not None:
            setattr(data, key, value)
    data["widget"] = [dict(example) for example in facts.widget]
    results = [] if measured is None else list(_results(measured))
    if results:
        data.model_name, data.eval_results = facts.name.partition("/")[2], results


def _results(measured: Measured) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    for prefix, direction in DIRECTIONS.items():
        for cutoff in CUTOFFS:
            value = measured.metrics.get(f"{prefix}_R@{cutoff}")
            if value is not None:
                yield EvalResult(
                    task_type="image-text-retrieval",
                    task_name="Image-text retrieval",
                    dataset_type=measured.dataset,
                    dataset_name=measured.dataset,
                    dataset_split=measured.split,
                    metric_type="recall",
                    metric_name=f"{direction} R@{cutoff}",
                    metric_value=round(100 * value, 2),
                )


def _parity_rows(parity: ParityRecord) -> Iterator[str]:
    keys = [f"{prefix}_R@{cutoff}" for prefix in DIRECTIONS for cutoff in (1, 10)]
    labels = [f"{direction} R@{cutoff}" for direction in DIRECTIONS.values() for cutoff in (1, 10)]
    yield f"| encoder | {' | '.join(labels)} | lowest cosine | verdict |"
    yield f"|---|{'---:|' * (len(labels) + 1)}---|"
    yield _row("checkpoint", [_percent(parity.reference.get(key)) for key in keys], "", "")
    for result in parity.results:
        cells = [_percent(result.metrics.get(key)) for key in keys]
        verdict = "passed" if result.passed else "failed"
        yield _row(f"{result.precision} on {result.provider}", cells, _lowest(result.measured), verdict)


def _row(name: str, cells: Sequence[str], cosine: str, verdict: str) -> str:
    return f"| {' | '.join([name, *cells, cosine, verdict])} |"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _lowest(measured: Mapping[str, Any]) -> str:
    """The lower of both towers; a target of a plugin may not measure it."""
    values = [tower.get("min_cosine") for tower in measured.get("towers", {}).values()]
    known = [value for value in values if value is not None]
    return f"{min(known):.6f}" if known else ""
