"""The model card of a run: how it was trained, what it scores, and how to use it.

Every number comes from the arguments; nothing is claimed that was not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from icclip.config import Config, DatasetConfig, TrainConfig
from icclip.report.tables import CUTOFFS, DIRECTIONS, percent, plugin_metrics

ROWS = [(f"{name} R@{k}", f"{prefix}_R@{k}") for prefix, name in DIRECTIONS.items() for k in CUTOFFS]

USAGE = """\
Measure it again, from this directory alone (the data is the run's own unless `--dataset` names another):

```
icclip eval .
```

Find images for texts with icclip, or use the encoder from Python with transformers alone. The numbers below are
cosines; the texts are prepared as they were in training.

```python
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

directory = "."  # where this card is
model = AutoModel.from_pretrained(directory).eval()
processor = AutoProcessor.from_pretrained(directory)

images = [Image.open("photo.jpg").convert("RGB")]
texts = ["two dogs run across a field of snow", "a red car"]

pixels = processor(images=images, return_tensors="pt")
tokens = processor(text={texts}, {padding}, truncation=True, return_tensors="pt")
with torch.inference_mode():
    found = model.get_image_features(**pixels), model.get_text_features(**tokens)
# From transformers 5 on, the embeddings are inside an output object.
found = [getattr(features, "pooler_output", features) for features in found]
image_embeddings, text_embeddings = (torch.nn.functional.normalize(features, dim=-1) for features in found)
print(image_embeddings @ text_embeddings.T)
```"""

LIMITS = """\
- The numbers hold for retrieval among the images and captions of the splits above; a larger gallery, other
  kinds of pictures or another language score differently.
- Intervals come from resampling queries, grouped by image; they say nothing of other training seeds.
- Nothing was measured about bias, safety or any use other than retrieval."""


def model_card(
    *,
    model: Mapping[str, Any],
    config: TrainConfig,
    splits: Mapping[str, Mapping[str, Any]],
    step0: Mapping[str, Any],
    validation: Mapping[str, Any],
    test: Mapping[str, Any] | None,
    text_policy: Mapping[str, Any],
    own_data: bool = False,
    cost: Mapping[str, Any] | None = None,
    curves: str | None = None,
) -> str:
    """Write the card in Markdown with the hub's front matter.

    Args:
        model: the result of `LoadedModel.describe()`.
        config: the configuration of the run.
        splits: name -> `images` and `captions`, their numbers (None if unknown).
        step0: metrics on the validation split before the first step; empty if not measured.
        validation: metrics on the validation split of the checkpoint that was kept.
        test: metrics on the test split of that checkpoint, if there is one.
        text_policy: how texts are padded, cut and lower-cased, as `icclip.json` has it.
        own_data: whether the dataset's name is that of a file format; the files are the user's own.
        cost: what the steps took, as `icclip.json` has it, if there were any.
        curves: the name of a picture of the curves, beside the card.
    """
    data = _dataset(config.data, own=own_data)
    summary = (
        f"A `{model['model_type']}` dual encoder with {model['parameters'] / 1e6:.1f} million parameters, "
        f"trained from `{_shown(config.model.name)}` for image-text retrieval on {data}."
    )
    sections = [
        _front_matter(config, own_data=own_data),
        f"# {_shown(config.model.name)} trained on {data}",
        summary,
        "## Results",
        _results(step0, validation, test),
        "## Training",
        _split_table(splits),
        _options(config),
        *([] if curves is None else [f"![Training loss, and recall on the validation split, over steps]({curves})"]),
        *_cost(cost or {}),
        "## Use",
        _usage(text_policy),
        "## Limits",
        LIMITS,
    ]
    return "\n\n".join(sections) + "\n"


def _usage(policy: Mapping[str, Any]) -> str:
    """The code example, with this model's way of preparing texts."""
    cut = f"max_length={policy['max_length']}"
    padding = f'padding="max_length", {cut}' if policy["padding"] == "max_length" else f"padding=True, {cut}"
    texts = "[text.lower() for text in texts]" if policy["lowercase"] else "texts"
    return USAGE.replace("{padding}", padding).replace("{texts}", texts)


def _cost(cost: Mapping[str, Any]) -> list[str]:
    """The hardware, time and work that training took."""
    if not cost:
        return []
    where = f"{cost['processes']} x {cost['device']}" + (f", driver {cost['driver']}" if cost.get("driver") else "")
    flops = f" {cost['total_flops']:.3g} floating-point operations in all." if "total_flops" in cost else ""
    mfu = f" MFU: {100 * cost['mfu']:.1f} %." if "mfu" in cost else ""
    speed = f"{cost['images_per_second']:,.1f} images per second"
    return ["## Cost", f"Trained on {where}, {cost['threads']} threads: {speed}.{flops}{mfu}"]


def _front_matter(config: TrainConfig, *, own_data: bool) -> str:
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["icclip", "image-text-retrieval"],
        "metrics": ["recall"],
    }
    if not own_data or _is_hub_id(config.data.path or ""):
        fields["datasets"] = [_dataset(config.data, own=False)]
    if _is_hub_id(config.model.name):
        fields["base_model"] = config.model.name
    # JSON is valid YAML, so it is used to quote unusual names.
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _results(step0: Mapping[str, Any], validation: Mapping[str, Any], test: Mapping[str, Any] | None) -> str:
    columns = {"validation, before training": step0, "validation": validation, "test": test}
    measured = {title: metrics for title, metrics in columns.items() if metrics}
    rows = [[label, *(_cell(metrics, key) for metrics in measured.values())] for label, key in ROWS]
    rows.append(["rsum (0 to 600)", *(_sum_cell(metrics) for metrics in measured.values())])
    for prefix, name in DIRECTIONS.items():
        rows.append([f"{name} median rank", *(f"{metrics[f'{prefix}_MedR']:.0f}" for metrics in measured.values())])
    others = dict.fromkeys(name for metrics in measured.values() for name in plugin_metrics(metrics))
    rows += [
        [name, *(f"{metrics[name]:.4g}" if name in metrics else "" for metrics in measured.values())] for name in others
    ]
    for label, key in (("images", "n_images"), ("captions", "n_texts")):
        rows.append([label, *(f"{metrics[key]:,.0f}" for metrics in measured.values())])
    note = "In brackets: 95 % intervals. A right answer that is tied with a wrong one counts as ranked after it."
    return f"{_table(['', *measured], rows)}\n\n{note}"


def _cell(metrics: Mapping[str, Any], key: str) -> str:
    interval = metrics.get("confidence_95", {}).get(key)
    return percent(metrics[key]) + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def _sum_cell(metrics: Mapping[str, Any]) -> str:
    interval = metrics.get("confidence_95", {}).get("rsum")
    return f"{metrics['rsum']:.1f}" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")


def _split_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[name, _count(split.get("images")), _count(split.get("captions"))] for name, split in splits.items()]
    return _table(["split", "images", "captions"], rows)


def _options(config: TrainConfig) -> str:
    length = f"{config.epochs} epochs" if config.max_steps is None else f"{config.max_steps} steps"
    values = {
        "length": length,
        "learning rate": f"{config.lr:g}, {config.scheduler} schedule, warm-up {config.warmup_ratio:g}",
        "weight decay": f"{config.weight_decay:g}",
        "batch": f"{config.train_bs} images per process, {config.grad_accum} accumulated",
        "precision": config.precision,
        "seed": config.seed,
        "captions": config.captions,
        "augmentation": config.augment,
        **_said(config.gentle),
        **_said(config.lora, "adapters, "),
    }
    return "\n".join(f"- {name}: {value}" for name, value in values.items())


def _said(config: Config, what: str = "") -> dict[str, Any]:
    """The fields that differ from their defaults."""
    defaults = type(config)().to_mapping()
    values = config.to_mapping()
    return {what + name.replace("_", " "): values[name] for name in values if values[name] != defaults[name]}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_lines(header, rows))


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|---{'|---:' * (len(header) - 1)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _dataset(config: DatasetConfig, *, own: bool) -> str:
    """The dataset's public name: a hub id or a plugin's name, no path of this machine."""
    if config.path and _is_hub_id(config.path):
        return config.path
    return f"own data ({config.name})" if own else config.name


def _shown(name: str) -> str:
    """A model's public name; for a local directory, only the last part."""
    return name if _is_hub_id(name) else Path(name).name


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()
