"""Write the tables of the documents from the result files: what stands there is what was measured.

    python -m benchmarks.readme

A table stands between `<!-- table: NAME -->` and `<!-- end -->` in a README or a page; NAME is a function of this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "pages"
DOCUMENTS = tuple(
    path
    for path in (HERE.parent / "README.md", HERE.parent / "export" / "README.md", *sorted(PAGES.rglob("*.md")))
    if "<!-- table: " in path.read_text(encoding="utf-8")
)
BLOCK = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
LARGE_BATCH = 1024
RECALLS = ("i2t_R@1", "i2t_R@10", "t2i_R@1", "t2i_R@10")


def main() -> None:
    """Write every table anew."""
    for path in DOCUMENTS:
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(text: str) -> str:
    """A Markdown document with its tables as the result files have them."""
    return BLOCK.sub(lambda found: f"{found[1]}{found[2]}\n{_known(TABLES[found[1]])}\n\n", text)


def _known(table_of: Callable[[], str]) -> str:
    try:
        return table_of()
    except FileNotFoundError as error:
        return f"Not measured yet: `{Path(error.filename).name}` is missing."


# What is proven ---------------------------------------------------------------------------------


def proof() -> str:
    """One line for each promise of the README."""
    gate, killed = result("mutants"), result("kill_test")["by_moment"].values()
    kills, same = (sum(row[name] for row in killed) for name in ("kills", "resumed_bit_identical"))
    rows = [
        row
        for row in result("gradient_cache_memory")["rows"]
        if row["loss"] == "softmax" and row["batch"] == LARGE_BATCH
    ]
    whole, cached = (
        next(row["peak_mib"] for row in rows if bool(row["micro_batch"]) is some) for some in (False, True)
    )
    return table(
        ("Promise", "Measured by", "Result"),
        (
            ("Broken exports are refused", "`benchmarks/mutants.py`", f"{gate['caught']} of {gate['broken']}"),
            ("Honest exports pass", "`benchmarks/mutants.py`", f"{gate['passed']} of {gate['honest']}"),
            ("Killed runs resume bit for bit", "`benchmarks/kill_test.py`", f"{same} of {kills}"),
            (
                "Memory of an exact batch of 1,024 with `--micro-batch 32`",
                "`benchmarks/gradient_cache_memory.py`",
                f"{cached:,.0f} MiB instead of {whole:,.0f} MiB",
            ),
            ("Images per second after the first epoch", "`benchmarks/input_pipeline.py`", _pipeline_gain()),
            ("int8 encoders on a CPU, ViT-B/16", "`benchmarks/onnx_speed.py`", f"{_int8_gain()} times torch's speed"),
        ),
    )


def _pipeline_gain() -> str:
    gain = result("input_pipeline")["times_plain"]["ours_later"]
    return f"{gain} times a plain loop's"


def _int8_gain() -> str:
    speed = [row for row in result("onnx_speed")["speed"] if row["tower"] != "both" and row["runs as"] == "icclip int8"]
    gains = sorted(map(_times, speed))
    return f"{gains[0]:.1f} to {gains[-1]:.1f}"


def mutants() -> str:
    """What the gate says of broken and of honest exports."""
    rows = result("mutants")["rows"]
    kinds = {"broken in some way": False, "honest, made in an unusual way": True}
    families = list(dict.fromkeys(row["family"] for row in rows))

    def right(family: str, *, honest: bool) -> str:
        own = [row for row in rows if row["family"] == family and row["honest"] is honest]
        return f"{sum(row['right'] for row in own)} of {len(own)} {'passed' if honest else 'refused'}" if own else "-"

    return table(
        ("bundles", *families),
        ((kind, *(right(one, honest=honest) for one in families)) for kind, honest in kinds.items()),
    )


def mutants_by_data() -> str:
    """The same by the data that the gate was shown."""
    rows = result("mutants")["rows"]

    def right(data: str, *, honest: bool) -> str:
        own = [row for row in rows if row["data"] == data and row["honest"] is honest]
        return f"{sum(row['right'] for row in own)} of {len(own)}" if own else "-"

    named = {"any": "none: by the hashes alone"}
    return table(
        ("gated on", "kinds", "broken, refused", "honest, passed"),
        (
            (
                named.get(data, data),
                len({row["name"] for row in rows if row["data"] == data and not row["honest"]}) or "-",
                right(data, honest=False),
                right(data, honest=True),
            )
            for data in dict.fromkeys(row["data"] for row in rows)
        ),
    )


def hostile() -> str:
    """How hostile inputs of each kind end."""
    rows = result("hostile")["summary"]
    return table(
        ("inputs", "tried", "refused in one line", "harmless", "tracebacks, hangs, over 1 GB", "slowest", "largest"),
        (
            (
                row["group"], row["tried"], row["refused (2, 3)"], row["harmless (0)"], row["faults"],
                f"{row['slowest, s']:.1f} s", f"{row['largest, MB']} MB",
            )
            for row in rows
        ),
    )  # fmt: skip


# What is measured once ----------------------------------------------------------------------------


def whole_job() -> str:
    """Both presets on Flickr8k, from training to the gate."""
    models = result("flickr8k")["models"]
    head = ("from scratch, test split", "trained in", *RECALLS, "rsum (95 %)", "fp32", "fp16", "int8")
    return table(head, (_job(name, one) for name, one in models.items()))


def _job(name: str, one: Mapping[str, Any]) -> Sequence[object]:
    low, high = one["rsum_95"]
    recalls = [f"{100 * one['checkpoint'][key]:.1f} %" for key in RECALLS]
    gates = ["passed" if precision["passed"] else "FAILED" for precision in one["precisions"].values()]
    return (
        f"`{name}`",
        f"{one['seconds'] / 60:.0f} min",
        *recalls,
        f"{one['rsum']:.1f} ({low:.0f}..{high:.0f})",
        *gates,
    )


def parity() -> str:
    """How far the exports of the trained presets are from their checkpoints."""
    models = result("flickr8k")["models"]
    head = ("", "lowest centred cosine, images / texts", "mean", "largest change of a recall, points", "MB")
    rows = (
        (
            f"{model} {precision}",
            *(_both(found["towers"], f"centred_{which}_cosine") for which in ("min", "mean")),
            f"{100 * max(map(abs, found['recall_change'].values())):.2f}",
            f"{found['bytes'] / 1e6:.1f}",
        )
        for model, one in models.items()
        for precision, found in one["precisions"].items()
    )
    return table(head, rows)


def _both(towers: Mapping[str, Mapping[str, float]], name: str) -> str:
    return " / ".join(f"{towers[tower][name]:.6f}" for tower in ("vision", "text"))


def exporters() -> str:
    """What every exporter makes of the same checkpoints, on either transformers."""
    head = (
        "",
        "nodes",
        "embeddings differ from optimum's by",
        *(f"lowest cosine, {name}" for name in ("fp32", "fp16", "int8")),
        "gate",
    )
    rows = (
        (
            f"{row['checkpoint']}: {row['exporter']}, transformers {row['transformers']}",
            row["nodes"],
            f"{row['largest difference']:.1e}" if row["largest difference"] else "-",
            *(f"{one['lowest cosine']:.6f}" for one in row["precisions"].values()),
            "passed" if row["passed"] else "failed",
        )
        for row in result("exporters")["rows"]
    )
    return table(head, rows)


def blocks_of_bits() -> str:
    """Weights in blocks of 4 and 8 bits beside float32 and icclip's int8."""
    batches = list(result("weights_in_4_bits")["rounds"])
    head = ("tower", "weights", "MB", *(f"times float32's speed, batch {one}" for one in batches), "lowest cosine")
    rows = (
        (
            row["tower"], row["weights"], f"{row['MB']:.0f}",
            *(f"{row[f'times faster, batch {one}']:.2f}" for one in batches), f"{row['lowest cosine']:.4f}",
        )
        for row in result("weights_in_4_bits")["rows"]
    )  # fmt: skip
    return table(head, rows)


def static_convolutions() -> str:
    """Ways to make the convolutions of a tower small."""
    head = ("convolutions", "MB", "times float32's speed, batch 1", "batch 8", "lowest cosine", "mean centred cosine")
    rows = (
        (
            row["convolutions"], f"{row['MB']:.1f}", f"{row['times faster, batch 1']:.2f}",
            f"{row['times faster, batch 8']:.2f}", f"{row['lowest cosine']:.4f}", f"{row['mean centred cosine']:.4f}",
        )
        for row in result("static_convolutions")["rows"]
    )  # fmt: skip
    return table(head, rows)


def kills() -> str:
    """What became of killed runs."""
    moments = result("kill_test")["by_moment"]
    names = ("kills", "resumed_bit_identical", "lost")
    total = {name: sum(row[name] for row in moments.values()) for name in names}
    rows = ((moment, *(row[name] for name in names)) for moment, row in {**moments, "all": total}.items())
    return table(("killed while", "kills", "resumed bit-identical", "lost"), rows)


def memory() -> str:
    """Peak memory against the batch, of the softmax loss."""
    rows = [row for row in result("gradient_cache_memory")["rows"] if row["loss"] == "softmax"]
    batches = sorted({row["batch"] for row in rows})
    cached = {row["batch"]: row for row in rows if row["micro_batch"]}
    whole = {row["batch"]: row for row in rows if not row["micro_batch"]}
    return table(
        ("batch", *(f"{batch:,}" for batch in batches)),
        [
            ("`--micro-batch 32`", *(_peak(cached.get(batch)) for batch in batches)),
            ("encoded as a whole", *(_peak(whole.get(batch)) for batch in batches)),
            ("the inputs besides", *(f"{cached[batch]['inputs_mib']:.0f} MiB" for batch in batches)),
        ],
    )


def _peak(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    times = "" if row["ratio_to_256"] == 1 else f" ({row['ratio_to_256']} times)"
    return f"{row['peak_mib']:,.0f} MiB{times}"


def divided() -> str:
    """What each process holds with --fsdp and without."""
    rows = result("fsdp_memory")["rows"]
    head = ("CLIP ViT-B/32, two processes", "peak memory of each", "a step")
    return table(
        head,
        (
            (
                row["way"].replace("--fsdp", "`--fsdp`"),
                f"{max(row['peak MiB of each process']):,} MiB",
                f"{row['s a step']:.3g} s",
            )
            for row in rows
        ),
    )


def pipeline() -> str:
    """Images per second of the input pipeline alone."""
    found = result("input_pipeline")
    names = {
        "ours_later": "after the first epoch",
        "ours_first_epoch": "the first epoch, filling the cache",
        "plain": "plain: datasets and CLIPProcessor",
        "fast": "the same with torchvision's processor",
        "open_clip": "open_clip's transform and tokenizer",
    }
    rows = ((said, f"{found['images_per_second'][n]:,.0f}", found["times_plain"][n]) for n, said in names.items())
    return table(("", "images/s", "times plain, medians of pairs"), rows)


# What is compared ---------------------------------------------------------------------------------


def steps() -> str:
    """A training step and an evaluation beside open_clip's and a plain loop's."""
    rows = result("training_step")["rows"]
    head = ("", "icclip", "open_clip", "transformers", "times open_clip's speed", "times the plain loop's")
    return table(head, ((f"{row['model']}, batch {row['batch']}: {row['what']}", *_three(row)) for row in rows))


def _three(row: Mapping[str, Any]) -> Iterable[str]:
    for name in ("icclip", "open_clip", "transformers"):
        yield f"{row[f'{name} s']:.3g} s"
    for name in ("open_clip", "transformers"):
        yield f"{row[f'times faster than {name}']:.2f}"


def losses() -> str:
    """The contrastive losses beside the plain matrix and others': time, memory over the inputs, and the target."""
    found = result("loss")
    names = list(dict.fromkeys(row["who"] for row in found["rows"]))
    known = {(row["loss"], row["batch"], row["who"]): row for row in found["rows"]}
    cases = list(dict.fromkeys((row["loss"], row["batch"], row["inputs MiB"]) for row in found["rows"]))
    rows = (
        (
            f"{loss}, batch {batch:,}",
            f"{inputs:.0f} MiB",
            *(_loss_cell(known.get((loss, batch, name))) for name in names),
            f"{share:.2f}" if (share := known[loss, batch, names[0]]["share of plain"]) else "",
        )
        for loss, batch, inputs in cases
    )
    return (
        table(("forward and backward", "inputs", *names, "share of plain"), rows) + f"\n\n{_verdict(found['target'])}"
    )


def _loss_cell(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{row['ms']:,.0f} ms, {row['peak MiB']:,.0f} MiB"


def _verdict(target: Sequence[Mapping[str, Any]]) -> str:
    missed = [
        f"{row['loss']} at {row['batch']:,} ({what})" for row in target for what in ("time", "memory") if not row[what]
    ]
    said = f"is missed by: {', '.join(missed)}" if missed else "is met in every row"
    return (
        "The target is at most 0.8 of the plain matrix's time where that has room, and at most four times the inputs' bytes "
        f"plus 64 MiB. It {said}."
    )


def loss_steps() -> str:
    """Whole steps with kept features: icclip's losses, the plain matrix, and the losses before."""
    rows = result("loss")["steps"]
    head = ("projections, loss and AdamW", "", "a step", "icclip is faster by")
    return table(
        head,
        (
            (f"{row['loss']}, batch {row['batch']:,}", row["who"], f"{row['ms a step']:,.0f} ms", f"{row['icclip is faster by']:.2f} times")
            for row in rows
        ),
    )  # fmt: skip


def service_start() -> str:
    """A cold start of a base-size bundle in its parts."""
    starts = result("runtime_service")["start_seconds"]
    parts = list(starts["now"])
    head = ("seconds", *(part.replace("all", "in total") for part in parts))
    names = {"now": "icclip", "before": "an earlier version, without `warm` and limits"}
    return table(head, ((names[name], *(f"{one[part]:.2f}" for part in parts)) for name, one in starts.items()))


def service_memory() -> str:
    """The resident memory of a process that serves."""
    found = result("runtime_service")["memory_mib"]
    return table(("resident memory", "MiB"), ((f"{name}", f"{value:,}") for name, value in found.items()))


def run_cost() -> str:
    """What it costs to measure what a run costs."""
    found = result("run_cost")
    return (
        f"Measuring takes {found['us a step']:.0f} microseconds of a step of {found['step ms']:,.0f} ms, and "
        f"{found['us a line']:.0f} for a line of `costs.jsonl`: {100 * found['share of a step']:.3f} % "
        f"({found['model']}, batch {found['batch']})."
    )


def ranking() -> str:
    """Ranking beside a full sort and CLIP_benchmark's way, and at full size."""
    found = result("ranking")
    head = ("images and texts", "icclip", "full sort", "CLIP_benchmark's way")
    rows = [
        (f"{int(images):,} x {5 * int(images):,}", *(_ranked(row, name) for name in row["seconds"]))
        for images, row in found["sizes"].items()
    ]
    full = found["full"]
    took = f"{full['minutes for all']:,.0f} min, {full['working MiB']:,} MiB"
    return table(head, [*rows, (f"{full['images']:,} x {full['texts']:,}", took)])


def _ranked(row: Mapping[str, Any], name: str) -> str:
    ratio = row["times icclip's"][name]
    times = "" if name == "icclip" else f", {ratio:.2g} times"
    return f"{row['seconds'][name]:.3g} s{times}, {row['working MiB'][name]:,} MiB"


def large_steps() -> str:
    """A step of a large exact batch beside what others have for it."""
    rows = result("large_batch_step")["rows"]
    head = ("", "micro-batch", "a step", "icclip's speed is", "peak memory")
    return table(
        head,
        (
            (
                f"{row['model']}, batch {row['batch']:,}: {row['library']}", row["micro-batch"],
                f"{row['s a step']:.3g} s", f"{row['icclip is faster by']:.2f} times", f"{row['peak MiB']:,.0f} MiB",
            )
            for row in rows
        ),
    )  # fmt: skip


def exact_negatives() -> str:
    """What retrieval gains from an exact batch."""
    found = result("large_batch_recall")
    recipes = {recipe: [run for run in found["runs"] if run["recipe"] == recipe] for recipe in found["means"]}
    rows = [
        (recipe, runs[0]["steps"], *(_interval(run) for run in runs), f"{found['means'][recipe]['mean rsum']:.1f}")
        for recipe, runs in recipes.items()
    ]
    seeds = [f"seed {run['seed']}" for run in next(iter(recipes.values()))]
    return table(("recipe", "steps", *seeds, "mean"), [("before", "", _interval(found["before"])), *rows])


def _interval(run: Mapping[str, Any]) -> str:
    return f"{run['rsum']:.1f} ({run['95 % from']:.0f}..{run['to']:.0f})"


def encoders() -> str:
    """The exported encoders in float32 and fp16 beside torch, optimum and others: times torch's speed."""
    names = ("torch.compile", "optimum", "fastembed", "openvino fp32", "icclip fp32", "icclip fp16")
    return _beside_torch(names, "icclip fp32", "against optimum", "icclip fp32 against optimum")


def small_encoders() -> str:
    """The exported encoders in int8 and bf16: times torch's speed in float32."""
    names = ("exported int8", "openvino int8", "openvino bf16", "icclip int8")
    return _beside_torch(names, "icclip int8", "against exported", "icclip int8 against exported int8")


def _beside_torch(names: Sequence[str], ours: str, compared: str, title: str) -> str:
    speed = [row for row in result("onnx_speed")["speed"] if row["tower"] != "both"]
    known = {(row["model"], row["tower"], row["batch"], row["runs as"]): row for row in speed}
    shown = [name for name in names if any(name == row["runs as"] for row in speed)]
    rows = [
        (
            f"{model.split()[0]} {tower}",
            batch,
            f"{known[model, tower, batch, 'torch']['ms']:.0f} ms",
            *(f"{_times(known[model, tower, batch, name]):.2f}" for name in shown),
            f"{known[model, tower, batch, ours][compared]:.2f}",
        )
        for model, tower, batch in dict.fromkeys((row["model"], row["tower"], row["batch"]) for row in speed)
    ]
    return table(("", "batch", "torch", *shown, title), rows)


def whole_exports() -> str:
    """Both towers beside optimum's own export."""
    speed = [row for row in result("onnx_speed")["speed"] if row["tower"] == "both" and "icclip" in row["runs as"]]
    rows = ((f"{row['model']}, batch {row['batch']}", f"{row['ms']:.0f} ms", f"{_times(row):.2f}") for row in speed)
    return table(("image and text", "icclip fp32", "times optimum's default export"), rows)


def _times(row: Mapping[str, Any]) -> float:
    (found,) = (float(value) for name, value in row.items() if name.startswith("times faster than"))
    return found


def starting() -> str:
    """What starting costs, and what lies on the disk."""
    found = result("onnx_speed")
    rows = [
        (start["model"], *(f"{start[name]:.1f} s" for name in ("icclip s", "torch s")), *_sizes(size))
        for start, size in zip(found["start"], found["size"], strict=True)
    ]
    sizes = [name.removesuffix(" MB") for name in found["size"][0] if name != "model"]
    return table(("", "icclip.runtime", "torch", *sizes), rows)


def _sizes(size: Mapping[str, Any]) -> list[str]:
    return [f"{value:,.0f} MB" for name, value in size.items() if name != "model"]


def cold_starts() -> str:
    """From the start of Python to the first embeddings, without and with kept graphs."""
    rows = [
        (
            f"{row['precision']}, {row['way']}",
            *(
                f"{row[part]:.2f}"
                for part in ("import", "open", "vision tower", "text tower", "first image", "first text")
            ),
            f"{row['all']:.2f}",
            f"{row['processor']:.2f}",
            f"{row['times faster, all']:.2f} / {row['times faster, processor']:.2f}",
        )
        for row in result("cold_start")["start"]
        if row["towers"] == "lazy"
    ]
    head = (
        "seconds",
        "import",
        "open",
        "vision tower",
        "text tower",
        "first image",
        "first text",
        "in total",
        "of the processor",
    )
    return table((*head, "times faster (total / processor)"), rows)


def opening_steps() -> str:
    """The processor's seconds for each step of opening a tower."""
    found = result("cold_start")["opening"]
    names = [name for name in found[0] if name not in ("precision", "tower")]
    rows = [(f"{row['precision']}, {row['tower']}", *(f"{max(0.0, row[name]):.2f}" for name in names)) for row in found]
    return table(("seconds of the processor", *names), rows)


def photo_embedding() -> str:
    """The whole command over large photos."""
    found = result("embed_photos")
    rows = [(row["way"], f"{row['images per second']:.2f}", f"{row['times faster']:.2f}") for row in found["whole"]]
    return table((f"{found['about']['photos']} photos, int8", "images per second", "times faster"), rows)


def photo_shares() -> str:
    """Where the processor's time of one image goes, and what decoding at a fraction changes."""
    found = result("embed_photos")
    steps = ("decode", "resize", "encode")
    rows = [
        (f"{row['jpeg']} JPEG", *(f"{1000 * row[f'{step} s']:.0f} ms ({row[f'{step} share']:.0%})" for step in steps))
        for row in found["shares"]
    ]
    (moved,) = found["pixels"]
    words = (
        f"The fast way moves the model's pixels by {moved['mean grey levels']:.2f} grey levels on average, {moved['largest']} at "
        f"most, and {moved['share over 1']:.3%} of them by more than one; the lowest cosine is {moved['lowest cosine']:.6f}."
    )
    return f"{table(('one image, one thread', *steps), rows)}\n\n{words}"


# The code ----------------------------------------------------------------------------------------


def house() -> str:
    """The shape of the code, before its rooms were separated and now."""
    found = result("house")
    rows = {
        "files": "files",
        "functions": "functions",
        "median length in lines": "median_lines",
        "90th percentile": "p90_lines",
        "longest": "longest_lines",
        "functions with more than 12 parameters": "functions_with_more_than_12_parameters",
        "imports that point upwards": "upward_imports",
        "circles between rooms": "circles_of_rooms",
        "circles between files": "circles_of_files",
    }
    return table(
        ("", "before", "now"),
        ((text, *(_count(found[when][key]) for when in ("before", "now"))) for text, key in rows.items()),
    )


def _count(value: Any) -> str:
    if value is None:
        return "not defined"
    return f"{len(value) if isinstance(value, list) else value:g}"


def frozen_steps() -> str:
    """A training step with a frozen tower, with its features and without, beside others'."""
    rows = result("frozen")["rows"]
    names = [name.removesuffix(" images/s") for name in rows[0] if name.endswith(" images/s")]
    head = ("what is frozen", *(f"{name}, images/s" for name in names), *(f"times {name}" for name in names[1:]))
    return table(
        head,
        (
            (
                row["freeze"],
                *(f"{row[f'{name} images/s']:,.0f}" for name in names),
                *(f"{row[f'times faster than {name}']:.1f}" for name in names[1:]),
            )
            for row in rows
        ),
    )


def allocator() -> str:
    """What it saves that a process keeps the memory it frees."""
    rows = result("allocator")["rows"]
    head = ("tower, batches of 8", "images/s", "page faults an image", "peak memory", "times faster")
    return table(
        head,
        (
            (
                row["tower"],
                *(
                    " instead of ".join(f"{row[f'{key}, {how}']:,.{digits}f}{unit}" for how in ("kept", "as it is"))
                    for key, digits, unit in (("images/s", 1, ""), ("page faults an image", 0, ""), ("peak MiB", 0, " MiB"))
                ),
                f"{row['times faster']:.2f}",
            )
            for row in rows
        ),
    )  # fmt: skip


def convolutions() -> str:
    """Towers of convolutions in both layouts."""
    head = ("EfficientNet-Lite2", "precision", "images/s", "times faster")
    return table(
        head,
        (
            (
                "a training step" if row["step"] == "train" else "encoding", row["precision"],
                f"{row['images/s, channels last']:.1f} instead of {row['images/s, as it is']:.1f}", f"{row['times faster']:.2f}",
            )
            for row in result("convolutions")["rows"]
        ),
    )  # fmt: skip


def recipes() -> str:
    """What helps when two pretrained towers are fine-tuned, the vision tower frozen."""
    return _study("text", "beside the seed project's (95 %)")


def vision_recipes() -> str:
    """Whether the vision tower should be trained as well."""
    return _study("vision", "beside the frozen tower (95 %)")


def batch_statistics() -> str:
    """A start whose BatchNorm layers normalise with the batch."""
    rows = [
        (row["statistics"], f"{row['cosine']:.2f}", f"{row['loss']:.2f}") for row in result("batch_statistics")["rows"]
    ]
    return table(("statistics of the vision tower", "cosine to its own embeddings", "softmax loss of 64 pairs"), rows)


def _study(name: str, compared: str) -> str:
    found = result("recipes")[name]
    rows = [
        (
            row["recipe"],
            row.get("seeds", ""),
            f"{row['rsum']:.1f} ({row['95 % from']:.0f}..{row['to']:.0f})",
            f"± {row['over seeds +-']:.1f}" if "over seeds +-" in row else "",
            f"{row['gain']:+.1f} ({row['gain from']:+.1f}..{row['gain to']:+.1f})" if "gain" in row else "",
            f"{100 * row['t2i_R@10']:.1f} %",
        )
        for row in (found["start"], *found["means"])
    ]
    return table(("recipe", "seeds", "rsum (95 % over images)", "95 % over seeds", compared, "t2i R@10"), rows)


# Corpora, indexes and services --------------------------------------------------------------------


def corpora() -> str:
    """Shards on Ray, with kills."""
    found = result("embed_ray")
    kills = ", ".join(f"{kill['who']} after {kill['finished shards']} shards" for kill in found["kills"])
    rows = [
        (f"{found['images']:,} images in {found['shards']} shards, {found['corrupt']} of them corrupt; killed", kills),
        ("every item exactly once", _yes(found["every item exactly once"])),
        ("equal bit for bit to shards without Ray", _yes(found["equal bit for bit to shards without Ray"])),
        ("largest difference to one file, whose batches are others", f"{found['largest difference to one file']:.1g}"),
    ]
    return table(("two workers of Ray", ""), rows)


def index_kinds() -> str:
    """How large, how fast and how good each kind of index is, beside usearch and hnswlib."""
    rows = result("index")["rows"]
    rates = [name for name in rows[0] if name.startswith("queries/s")]
    head = ("vectors", "index", "built in", "size", "recall@10", *rates)
    return table(
        head,
        (
            (
                f"{row['vectors']:,} {row['made from']}", row["index"], f"{row['build s']:,.0f} s", f"{row['MB']:,.0f} MB",
                f"{100 * row['recall@10']:.1f} %", *(f"{row[name]:,.0f}" for name in rates),
            )
            for row in rows
        ),
    )  # fmt: skip


def large_index() -> str:
    """An index on the disk: memory at each size, and the hours that 100 million vectors take."""
    found = result("index_shards")
    measured = table(
        ("vectors", "their size", "memory of its own", "sorted a second", "merged a second"),
        (
            (
                f"{row['vectors']:,}", f"{row['MB of vectors']:,.0f} MB", f"{row['memory MB']:,} MB",
                f"{row['sorted a second']:,.0f}", f"{row['merged a second']:,.0f}",
            )
            for row in found["rows"]
        ),
    )  # fmt: skip
    computed = found["computed"]
    hours = computed["hours"]
    each = ", ".join(f"{name} {value:.1f}" for name, value in hours.items())
    return (
        f"{measured}\n\nFrom the last row, {computed['items']:,} vectors in {computed['lists']:,} lists take "
        f"{sum(hours.values()):.1f} hours with {found['about']['threads']} threads ({each})."
    )


def search_hits() -> str:
    """What a search finds for typed words, counted against the captions."""
    found = result("search_hits")
    head = (
        f"typed, among {found['images']:,} images",
        "first right one",
        "right of the first ten",
        "expected by chance",
    )
    return table(
        head,
        (
            (row["query"], row["first right one"] or "none", row["right of ten"], f"{row['by chance']:.1f}")
            for row in found["rows"]
        ),
    )


def serving() -> str:
    """Requests a second and latencies, beside a plain handler around transformers."""
    found = result("serving")
    head = ("task", "clients", "service", "requests/s", "p50", "p99", "times the plain handler")
    return table(
        head,
        (
            (
                row["task"], row["clients"], row["service"], f"{row['requests/s']:,.1f}", f"{row['p50 ms']:,.0f} ms",
                f"{row['p99 ms']:,.0f} ms", f"{row['times the plain handler']:.2f}" if row["times the plain handler"] else "",
            )
            for row in found["rows"]
        ),
    )  # fmt: skip


def _yes(value: object) -> str:
    return "yes" if value else "no"


# Two towers ---------------------------------------------------------------------------------------


def two_towers() -> str:
    """From two pretrained towers to a proven bundle: what each command cost, and gave."""
    head = ("data", "two cores", "command", "minutes", "processor minutes", "rsum (95 %)", "t2i R@10", "gate")
    found = result("two_towers")
    rows = [
        (
            data,
            _kind(one["about"]["cpu"]),
            row["command"],
            f"{row['minutes']:.1f}",
            f"{row['cpu minutes']:.1f}",
            f"{row['rsum']:.1f} ({row['from']:.0f}..{row['to']:.0f})" if "rsum" in row else "",
            f"{100 * row['t2i_R@10']:.1f} %" if "rsum" in row else "",
            f"{', '.join(row['precisions'])}: {'passed' if row['passed'] else 'failed'}" if "passed" in row else "",
        )
        for data, one in found.items()
        for row in (*one["commands"], _summed(one["commands"]))
    ]
    return table(head, rows)


def _summed(commands: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of the commands cost."""
    costs = {name: sum(row[name] for row in commands) for name in ("minutes", "cpu minutes")}
    return {"command": "all of them", **costs}


def _kind(cpu: str) -> str:
    """`AMD EPYC` or `Intel Xeon with AMX`, of the whole description."""
    name, *features = cpu.split(", ")
    plain = " ".join(word.removesuffix("(R)") for word in name.split() if word != "Processor")
    return plain + " with AMX" * any("amx" in one for one in features)


# On a GPU -----------------------------------------------------------------------------------------


def gpu() -> str:
    """Training throughput, where it was measured."""
    path = HERE / "gpu" / "throughput.json"
    if not path.exists():
        return "Nothing has been measured on a GPU yet; `benchmarks/gpu` holds the scripts that are ready to."
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = found["rows"]
    return f"{found['about']['device']}:\n\n{table(rows[0], (row.values() for row in rows))}"


# Tables -------------------------------------------------------------------------------------------


def result(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """In Markdown; short rows are filled up."""
    lines = [list(map(str, head)), *(list(map(str, row)) for row in rows)]
    filled = [line + [""] * (len(lines[0]) - len(line)) for line in lines]
    filled.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in filled).replace("|  |", "| |").replace("|  |", "| |")


# Several processes ---------------------------------------------------------------------------------


def together() -> str:
    """How many cases of each kind went as expected."""
    found = result("processes")
    kinds = ((kind, one["cases"], one["as_expected"]) for kind, one in found["by_kind"].items())
    return table(
        ("one to four processes", "cases", "as expected"), (*kinds, ("all", found["cases"], found["as_expected"]))
    )


def resumed_by_others() -> str:
    """Elastic resume against the unbroken run."""
    rows = [row for row in result("processes")["rows"] if "losses" in row]
    return table(
        (
            "cut at step 8, and resumed",
            "largest distance of a loss",
            "i2t and t2i R@1 of the unbroken run",
            "of the resumed run",
        ),
        ((row["name"], row["furthest_loss"], *map(_both_ways, row["recalls"].values())) for row in rows),
    )


def _both_ways(recalls: Mapping[str, float]) -> str:
    return f"{100 * recalls['i2t_R@1']:.1f} %, {100 * recalls['t2i_R@1']:.1f} %"


def every_case() -> str:
    """All cases of several processes, with what was seen."""
    rows = result("processes")["rows"]
    head = ("what was done", "processes", "expected", "seen")
    return table(head, ((row["name"], row["processes"], row["expected"], _in_a_cell(row["seen"])) for row in rows))


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


TABLES: Mapping[str, Callable[[], str]] = {
    one.__name__: one
    for one in (
        proof, mutants, mutants_by_data, hostile, whole_job, parity, exporters, blocks_of_bits, static_convolutions, kills, memory, divided, pipeline, steps, losses, loss_steps, large_steps, exact_negatives,
        encoders, small_encoders, whole_exports, starting, house, gpu, service_start, service_memory, cold_starts, opening_steps, photo_embedding, photo_shares, run_cost, together, resumed_by_others, every_case, frozen_steps, recipes, vision_recipes, batch_statistics, two_towers, ranking, corpora, index_kinds, large_index, serving, search_hits, allocator, convolutions,
    )
}  # fmt: skip


if __name__ == "__main__":
    main()
