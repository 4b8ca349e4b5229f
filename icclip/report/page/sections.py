"""The sections of the page; one that has nothing to show is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icclip.report.comparison import HEADINGS, ROWS, cells
from icclip.report.page.charts import Series, bar_chart, interval_chart, line_chart, together
from icclip.report.page.html import Html, joined, table, tag
from icclip.report.page.subject import Retrieval, Subject, Tile, Verdict
from icclip.report.tables import CUTOFFS, DIRECTIONS, percent, plugin_metrics

EDGES = (1, 2, 6, 11, 21, 51, 101)
RANK_LABELS = ("1", "2-5", "6-10", "11-20", "21-50", "51-100", "101+")
COSINE_BINS = 40


def summary(subjects: Sequence[Subject]) -> Html:
    """What was trained on what, and how."""
    rows = [(label, *(_fact(subject, label) for subject in subjects)) for label in FACTS]
    shown = [row for row in rows if any(row[1:])]
    notes = [tag("p", f"{one.name}: {one.note}", class_="note") for one in subjects if one.note]
    facts = table("What was measured", ("", *(one.name for one in subjects)), shown) if shown else ""
    return joined([facts, notes])


FACTS = (
    *("model", "parameters", "trained on", "images and captions", "length", "learning rate", "batch", "precision"),
    *("seed", "gentle fine-tuning", "training took", "measured on", "right answers", "best step"),
)


def _fact(subject: Subject, label: str) -> str:
    config, record = subject.record.get("config", {}), subject.record
    about = subject.metrics.get("about", {})
    if label == "measured on":
        size = subject.metrics
        found = f"{about.get('dataset', '')}, {subject.split}"
        return f"{found}: {size['n_images']:,.0f} images, {size['n_texts']:,.0f} captions" if size else ""
    if label == "right answers":
        return str(about.get("relevance", ""))
    if record.get("kind") == "bundle":
        return _of_bundle(label, record)
    return _of_record(label, config, record) if config else ""


def _of_bundle(label: str, record: Mapping[str, Any]) -> str:
    source = record.get("source", {})
    values = {
        "model": f"{source.get('name', '')} ({record.get('model_type', '')}), exported",
        "parameters": f"{source['parameters'] / 1e6:,.1f} million" if "parameters" in source else "",
        "precision": ", ".join(record.get("precisions", ())),
    }
    return values.get(label, "")


def _of_record(label: str, config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    data, model, result = config.get("data", {}), record.get("model", {}), record.get("result", {})
    splits = record.get("data", {}).get("splits", {})
    gentle = {key: value for key, value in config.get("gentle", {}).items() if value not in (None, 0, 1.0, False)}
    values = {
        "model": f"{model.get('source', config.get('model', {}).get('name', ''))} ({model.get('model_type', '')})",
        "parameters": f"{model['parameters'] / 1e6:,.1f} million" if "parameters" in model else "",
        "trained on": data.get("name", ""),
        "images and captions": "; ".join(
            f"{name} {split.get('images') or 0:,} and {split.get('captions') or 0:,}" for name, split in splits.items()
        ),
        "length": f"{config.get('epochs')} epochs"
        if config.get("max_steps") is None
        else f"{config['max_steps']} steps",
        "learning rate": f"{config.get('lr')}, {config.get('scheduler')}, warm-up {config.get('warmup_ratio')}",
        "batch": f"{config.get('train_bs')} images, {config.get('grad_accum')} accumulated",
        "precision": config.get("precision", ""),
        "seed": config.get("seed", ""),
        "gentle fine-tuning": ", ".join(f"{key} {value}" for key, value in gentle.items()),
        "training took": f"{result['seconds']:,.0f} s" if "seconds" in result else "",
        "best step": f"{result['best_step']:,} of {result['steps']:,}" if "best_step" in result else "",
    }
    return str(values[label])


def verdicts(subjects: Sequence[Subject], found: Sequence[Verdict]) -> Html:
    """Every model against the first."""
    return joined(_verdict(subjects[0], other, one) for other, one in zip(subjects[1:], found, strict=True))


def _verdict(first: Subject, other: Subject, one: Verdict) -> Html:
    rows = [(label, *cells(one.changes[key], key)) for label, key in ROWS] if one.changes else []
    title = f"{other.name} against {first.name}, in percent; * is significant at the 5 % level"
    return joined([tag("p", one.sentence, class_="verdict"), table(title, HEADINGS, rows) if rows else ""])


def recall(subjects: Sequence[Subject]) -> Html:
    """Recall with intervals, and the other numbers."""
    measured = [one for one in subjects if one.metrics]
    if not measured:
        return Html("")
    charts = [
        interval_chart(
            f"Recall, {name}",
            [(f"R@{k}", [_recall(one, f"{prefix}_R@{k}") for one in measured]) for k in CUTOFFS],
        )
        for prefix, name in DIRECTIONS.items()
    ]
    others = dict.fromkeys(key for one in measured for key in (*_OTHERS, *plugin_metrics(one.metrics)))
    rows = [(_OTHERS.get(key, key), *(_number(key, one.metrics.get(key)) for one in measured)) for key in others]
    return joined([together(*charts), table("Other numbers", ("", *(one.name for one in measured)), rows)])


_OTHERS = {
    "rsum": "rsum (0 to 600)", "i2t_MedR": "median rank, image to text", "t2i_MedR": "median rank, text to image",
    "i2t_MeanR": "mean rank, image to text", "t2i_MeanR": "mean rank, text to image",
    "avg_best_cosine": "mean best cosine",
}  # fmt: skip


def _number(key: str, value: Any) -> str:
    """With as many digits as the same number of another model has, so that the two stand below each other."""
    if value is None:
        return ""
    if key == "rsum" or key.endswith("_MeanR"):
        return f"{value:,.1f}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.4g}"


def _recall(subject: Subject, key: str) -> tuple[str, float, float | None, float | None]:
    low, high = subject.metrics.get("confidence_95", {}).get(key, (None, None))
    scaled = [None if bound is None else 100 * bound for bound in (low, high)]
    return subject.name, 100 * subject.metrics[key], scaled[0], scaled[1]


def progress(subjects: Sequence[Subject]) -> Html:
    """The validation split against step 0."""
    return joined(_progress(one) for one in subjects)


def _progress(subject: Subject) -> Html:
    lines = [line for line in subject.history if "eval_rsum" in line]
    if len(lines) < 2 or lines[0].get("step") != 0:  # noqa: PLR2004
        return Html("")
    before, best = lines[0], max(lines, key=lambda line: line["eval_rsum"])
    rows = [
        (label, percent(before[f"eval_{key}"]), percent(best[f"eval_{key}"]),
         f"{100 * (best[f'eval_{key}'] - before[f'eval_{key}']):+.1f}")
        for label, key in ROWS if key != "rsum"
    ]  # fmt: skip
    gain = f"{best['eval_rsum'] - before['eval_rsum']:+.1f}"
    if "eval_rsum_gain_low" in best:
        gain += f" [{best['eval_rsum_gain_low']:+.1f}, {best['eval_rsum_gain_high']:+.1f}]"
    rows.append(("rsum", f"{before['eval_rsum']:.1f}", f"{best['eval_rsum']:.1f}", gain))
    title = f"{subject.name}: validation split, step 0 and step {best['step']:,}; 95 % interval in brackets"
    return table(title, ("", "step 0", f"step {best['step']:,}", "difference, points"), rows)


CURVES = (
    ("Training loss", "loss", 1.0),
    ("rsum on the validation split", "eval_rsum", 1.0),
    ("Mean R@1 on the validation split, %", "eval_mR@1", 100.0),
    ("Temperature: logit_scale", "eval_logit_scale", 1.0),
    ("Learning rate", "learning_rate", 1.0),
)


def curves(subjects: Sequence[Subject]) -> Html:
    """What was logged while training."""
    return together(*(line_chart(title, series_of(subjects, key, scale)) for title, key, scale in CURVES))


def series_of(subjects: Sequence[Subject], key: str, scale: float = 1.0) -> list[Series]:
    """A logged value of every run that has it, over steps."""
    found = []
    for one in subjects:
        points = {line["step"]: scale * line[key] for line in one.history if key in line and "step" in line}
        if points:
            found.append(Series(one.name, sorted(points.items())))
    return found


def ranks(subjects: Sequence[Subject]) -> Html:
    """How many queries have their right answer at which rank."""
    charts = []
    for prefix, name in DIRECTIONS.items():
        series = [(one.name, _shares(getattr(one.ranks, prefix).rank)) for one in subjects if one.ranks is not None]
        charts.append(bar_chart(f"Rank of the best right answer, {name}", RANK_LABELS, series, unit="% of queries"))
    return together(*charts)


def _shares(found: np.ndarray) -> list[float]:
    counts = np.histogram(found, [*EDGES, np.inf])[0]
    return [round(float(share), 2) for share in 100 * counts / max(1, len(found))]


def cosines(subjects: Sequence[Subject]) -> Html:
    """How the cosines of right answers lie to those of wrong ones."""
    charts = []
    for one in subjects:
        counts = one.ranks.about.get("cosines") if one.ranks is not None else None
        if counts:
            charts.append(_cosines(one.name, counts))
    return together(*charts)


def _cosines(name: str, counts: Mapping[str, Sequence[int]]) -> Html:
    shares = {key: _halved(values) for key, values in counts.items()}
    used = [n for n in range(COSINE_BINS) if any(values[n] >= 0.01 for values in shares.values())]  # noqa: PLR2004
    bins = range(min(used, default=0), max(used, default=0) + 1)
    labels = [f"{-1 + 2 * n / COSINE_BINS:.2f}" for n in bins]
    series = [(what, [shares[key][n] for n in bins]) for key, what in (("positives", "right"), ("negatives", "wrong"))]
    return bar_chart(f"Cosines of right and wrong answers: {name}", labels, series, unit="% of its kind")


def _halved(counts: Sequence[int]) -> list[float]:
    pairs = np.asarray(counts, np.float64).reshape(COSINE_BINS, -1).sum(axis=1)
    return [round(float(share), 2) for share in 100 * pairs / max(1.0, pairs.sum())]


def data(subjects: Sequence[Subject]) -> Html:
    """Duplicates and leakage."""
    rows = []
    for one in subjects:
        about = one.metrics.get("relevance", {})
        leaks = one.metrics.get("about", {}).get("leakage", [])
        told = "; ".join(
            f"{leak['images']:,} images and {leak['captions']:,} captions in {leak['in']}" for leak in leaks
        )
        if about:
            captions, images = about.get("shared_captions", 0), about.get("duplicate_images", 0)
            rows.append((one.name, f"{captions:,}", f"{images:,}", told or "none found"))
    header = ("", "captions of several images", "images that are copies", "shared with other splits")
    return table("Duplicates and leakage", header, rows) if rows else Html("")


def parity(subjects: Sequence[Subject]) -> Html:
    """What the gate of an exported bundle measured."""
    return joined(_parity(one) for one in subjects if one.parity.get("results"))


def _parity(subject: Subject) -> Html:
    rows = []
    for one in subject.parity["results"]:
        towers = one.get("measured", {}).get("towers", {})
        lowest = [
            f"{value['min_cosine']:.6f}"
            for value in towers.values()
            if isinstance(value, Mapping) and "min_cosine" in value
        ]
        recalls = [percent(one["metrics"][f"{prefix}_R@1"]) if one.get("metrics") else "" for prefix in DIRECTIONS]
        rows.append(
            (
                f"{one['precision']} on {one['provider']}",
                "passed" if one["passed"] else "failed",
                " / ".join(lowest),
                *recalls,
            )
        )
    header = ("precision", "gate", "lowest cosine", *(f"{name} R@1" for name in DIRECTIONS.values()))
    return table(f"Parity of {subject.name} with its checkpoint", header, rows)


def retrievals(subjects: Sequence[Subject]) -> Html:
    """The best and the worst answers, in both directions."""
    return joined(_retrievals(one) for one in subjects if one.retrievals)


def _retrievals(subject: Subject) -> list[Html]:
    found = []
    for direction, name in DIRECTIONS.items():
        for best, word in ((False, "worst"), (True, "best")):
            own = [one for one in subject.retrievals if (one.direction, one.best) == (direction, best)]
            if own:
                found.append(tag("h3", f"{subject.name}: {word}, {name}"))
                found.append(tag("ol", [tag("li", _retrieval(one)) for one in own], class_="queries"))
    return found


def _retrieval(one: Retrieval) -> Html:
    rank = tag("p", f"right answer at rank {one.rank:,}", class_="rank")
    query = tag("div", tag("p", "query", class_="what"), _shown(one.query), class_="query")
    right = tag("div", tag("p", "right answer", class_="what"), _shown(one.right), class_="query")
    answers = tag(
        "ol",
        [tag("li", _answer(answer), class_=None if isinstance(answer, Tile) else "said") for answer in one.answers],
        class_="answers",
    )
    found = tag("div", tag("p", "what came first", class_="what"), answers) if one.answers else ""
    return joined([rank, tag("div", query, right, found, class_="row")])


def _shown(value: str | Tile) -> Html:
    return _tile(value) if isinstance(value, Tile) else tag("blockquote", value)


def _answer(value: Tile | tuple[str, bool]) -> Html:
    if isinstance(value, Tile):
        return _tile(value)
    text, right = value
    return tag("p", tag("strong", "right: " if right else "wrong: "), text, class_="right" if right else "wrong")


def _tile(tile: Tile) -> Html:
    kind = {None: "", True: "right", False: "wrong"}[tile.right]
    image = tag("img", src=tile.source, alt=tile.alt, width=112, height=112)
    return tag(
        "figure",
        image,
        tag("figcaption", tile.label or kind) if tile.label or kind else "",
        class_=f"tile {kind}".strip(),
    )


def environment(subjects: Sequence[Subject]) -> Html:
    """The versions and the machine."""
    names = dict.fromkeys(name for one in subjects for name in one.record.get("versions", {}))
    rows = [(name, *(one.record.get("versions", {}).get(name, "") for one in subjects)) for name in names]
    costs = [one.record.get("cost", {}) for one in subjects]
    for label, key in (("device", "device"), ("processes", "processes"), ("images per second", "images_per_second")):
        if any(key in cost for cost in costs):
            rows.append((label, *(_cost(cost.get(key, "")) for cost in costs)))
    return table("Versions and machine", ("", *(one.name for one in subjects)), rows) if rows else Html("")


def _cost(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def repeat(subjects: Sequence[Subject]) -> Html:
    """What to type to do it again."""
    return joined(
        joined([
            tag("h3", one.name),
            tag("pre", "\n".join(one.commands), tabindex=0, role="region", aria_label=f"Commands of {one.name}"),
            tag("details", tag("summary", f"run.toml of {one.name}"),
                tag("pre", one.configuration, tabindex=0, role="region", aria_label=f"Configuration of {one.name}"))
            if one.configuration else "",
        ])
        for one in subjects if one.commands
    )  # fmt: skip
