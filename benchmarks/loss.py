"""The contrastive losses beside the plain matrix and beside others': time, and the memory of each alone.

    python -m benchmarks.loss                # everything, about half an hour on two quiet cores
    python -m benchmarks.loss --quick        # batches up to 4,096, two rounds
    python -m benchmarks.loss --more --minutes 4   # a part at a time: what loss.json lacks, in the same order
    python -m benchmarks.loss --device cuda --dtype bfloat16

Forward and backward of embeddings of 512 dimensions and of the temperature, without duplicates:

- icclip: `icclip.training.step.losses`.
- plain: exp(logit_scale) * image @ text.T (+ bias) as a whole, and torch's cross_entropy or logsigmoid of it.
- compiled: the same through torch.compile.
- previous: what icclip did before, a checkpointed block of 4 MiB at a time.
- sentence-transformers: MultipleNegativesRankingLoss in both directions. Its temperature is not learnt.
- open_clip: ClipLoss, SigLipLoss.
- siglip-kernel, inf-cl: Triton kernels, on a GPU only, for one of the two losses each.

Seconds are those of calls in turns, in one process for a batch and a loss; ratios are medians over the rounds.
Peak memory is that of three calls (of one from batch 16,384 on) in a process of its own, beyond what was held before
them: resident memory on a CPU, with the allocator as it is, and torch's on a GPU. Those that are not installed, or have no room, are left out and
the result says why.

`steps` in the result are whole steps of training with both towers frozen and their features kept: a projection of each,
the loss and AdamW, with icclip's loss, the plain matrix and the previous version. Writes loss.json beside itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.support.memory import MIB, peak_since, start
from benchmarks.support.timing import environment, medians, rounded, show, take_turns, times_faster, write

BATCHES = (1024, 2048, 4096, 8192, 16384, 32768)
STEP_BATCHES = (4096, 16384)
"""Of whole steps with kept features."""
LARGE = 16384
"""From here on a call takes many seconds: fewer rounds, and one call for the memory."""
QUICK = 4096
"""Up to here with --quick."""
DIMENSIONS = 512
TEMPERATURE, BIAS = 50.0, -10.0
FAMILIES = ("softmax", "sigmoid")
OURS, PLAIN, COMPILED, PREVIOUS = "icclip", "plain", "compiled", "previous"
SENTENCES, OPEN_CLIP, SIGLIP_KERNEL, INF_CL = "sentence-transformers", "open_clip", "siglip-kernel", "inf-cl"
WHOLE = {PLAIN: 5, COMPILED: 5, OPEN_CLIP: 6, SENTENCES: 8}
"""Those that hold whole matrices of logits, and about how many at once."""

ALLOWED_TIME, ALLOWED_INPUTS, ALLOWED_MIB = 0.8, 4, 64
"""The target: a share of the plain matrix's time; so many times the inputs' bytes and so many MiB besides."""

Loss = Callable[[], Tensor]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="of embeddings and products"
    )
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--without", nargs="+", default=[], help="contestants to leave out")
    parser.add_argument("--more", action="store_true", help="keep what loss.json has and measure what it lacks")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no other case after so many")
    options = parser.parse_args()
    began, result = time.monotonic(), Result(options)
    for part, family, batch in cases(options):
        if result.has(part, family, batch):
            continue
        if time.monotonic() - began > 60 * options.minutes:
            print("there is more to measure: run it again with --more")
            return
        taken = case(family, batch, options) if part == "rows" else {"steps": frozen(family, batch, options)}
        result.take(taken)


PARTS = ("rows", "steps")


def cases(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Part of the result, loss, batch: the small ones first."""
    batches = options.batches or [batch for batch in BATCHES if not options.quick or batch <= QUICK]
    return [
        (part, family, batch)
        for batch in batches
        for part in options.parts
        for family in options.families
        if part == "rows" or batch in STEP_BATCHES
    ]


class Result:
    """What has been measured so far; written each time, so that a long run may be ended before its end."""

    def __init__(self, options: argparse.Namespace) -> None:
        packages = ("icclip", "torch", "open-clip-torch", "sentence-transformers", "siglip-kernel", "inf-cl")
        where = {"device": device_name(options.device), "dtype": options.dtype, "threads": torch.get_num_threads()}
        self.about = {**environment(*packages), **where, "quick": options.quick}
        self.rows: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.left_out: dict[str, str] = {}
        if options.more:
            before = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
            self.rows, self.steps, self.left_out = before["rows"], before["steps"], before["left out"]

    def has(self, part: str, family: str, batch: int) -> bool:
        """Whether a case was measured before."""
        known = self.rows if part == "rows" else self.steps
        return any((row["loss"], row["batch"]) == (family, batch) for row in known)

    def take(self, found: Mapping[str, Any]) -> None:
        """Show and write one more case."""
        self.rows = in_order(self.rows + found.get("rows", []))
        self.steps = in_order(self.steps + found.get("steps", []))
        self.left_out |= found.get("left out", {})
        show(found.get("rows") or found["steps"])
        parts = {"about": self.about, "rows": self.rows, "steps": self.steps, "left out": self.left_out}
        write(__file__, {**parts, "target": verdicts(self.rows)})


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By loss, then by batch."""
    return sorted(rows, key=lambda row: (FAMILIES.index(row["loss"]), row["batch"]))


def case(family: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Rows of all contestants, and why some are missing."""
    rounds = min(2, rounds_of(batch)) if options.quick else rounds_of(batch)
    common = (family, batch, options.device, options.dtype)
    timed = alone("time", *common, rounds, ",".join(options.without))
    peaks = {name: alone("memory", *common, name)["peak_mib"] for name in timed["seconds"]}
    inputs = 2 * batch * DIMENSIONS * torch.finfo(getattr(torch, options.dtype)).bits / 8 / MIB
    middle = medians(timed["seconds"])
    rows = [
        {
            "loss": family,
            "batch": batch,
            "who": name,
            "ms": rounded(1000 * middle[name]),
            "share of plain": rounded(1 / times_faster(timed["seconds"], name, PLAIN)) if PLAIN in middle else "",
            "peak MiB": rounded(peaks[name]),
            "times inputs": rounded(peaks[name] / inputs),
            "inputs MiB": inputs,
        }
        for name in middle
    ]
    return {"rows": rows, "left out": timed["left out"]}


def rounds_of(batch: int) -> int:
    """Calls of each contestant that count."""
    return 1 if batch >= LARGE else max(3, min(15, 2**15 // batch))


def frozen(family: str, batch: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of whole steps with kept features."""
    rounds = 2 if options.quick or batch >= LARGE else 7
    taken = alone("frozen", family, batch, options.device, options.dtype, rounds)["seconds"]
    middle = medians(taken)
    return [
        {
            "loss": family,
            "batch": batch,
            "who": name,
            "ms a step": rounded(1000 * middle[name]),
            "icclip is faster by": times_faster(taken, OURS, name),
        }
        for name in middle
    ]


def verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether the target is met, of each case."""
    return [
        {
            "loss": row["loss"],
            "batch": row["batch"],
            "time": row["share of plain"] == "" or row["share of plain"] <= ALLOWED_TIME,
            "memory": row["peak MiB"] <= ALLOWED_INPUTS * row["inputs MiB"] + ALLOWED_MIB,
        }
        for row in rows
        if row["who"] == OURS
    ]


def alone(*arguments: object) -> dict[str, Any]:
    """One measurement in a fresh process, with the allocator as users have it."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.loss", "--alone", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def device_name(device: str) -> str:
    """The GPU's name, or the processor's number of threads."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"


# In a process of its own --------------------------------------------------------------------------


def time_all(work: Work, rounds: int, without: str) -> dict[str, Any]:
    """Seconds of each contestant's calls, in turns."""
    entered: dict[str, Callable[[], object]] = {}
    left_out: dict[str, str] = {}
    for name in CONTESTANTS:
        reason = "left out by hand" if name in without.split(",") else why_not(name, work)
        if reason is None:
            try:
                step = work.step(name)
                step()
            except ImportError as error:
                reason = f"not installed: {error}"
            else:
                entered[name] = step
        if reason:
            left_out[f"{name}, {work.family}" + (f", {work.batch}" if "room" in reason else "")] = reason
    # Each was called once already.
    return {"seconds": take_turns(entered, rounds=rounds, warmup=int(work.batch < LARGE)), "left out": left_out}


def why_not(name: str, work: Work) -> str | None:
    """The reason for which somebody cannot take part; None: none is known."""
    if work.family not in SERVES.get(name, FAMILIES):
        return "has the other loss only"
    if name in {SIGLIP_KERNEL, INF_CL} and not work.on_gpu:
        return "runs on a GPU only"
    if name == COMPILED and not work.on_gpu and not any(Path(p, "g++").exists() for p in os.get_exec_path()):
        return "torch.compile needs a C++ compiler"
    needed = WHOLE.get(name, 0) * work.batch**2 * 4
    if needed > work.free():
        return f"no room: about {needed / 2**30:.0f} GiB are needed"
    return None


def memory_of(family: str, batch: int, device: str, dtype: str, name: str) -> dict[str, float]:
    """The peak of the third call beyond what was held before it."""
    work = Work(family, batch, device, dtype)
    # Libraries load what they need at their first call.
    Work(family, 64, device, dtype).step(name)()
    step = work.step(name)
    if work.on_gpu:
        step()
    held = start(work.device)
    for _ in range(1 if batch >= LARGE else 3):
        step()
    return {"peak_mib": (peak_since(work.device) - held) / MIB}


def time_frozen(work: Work, rounds: int) -> dict[str, Any]:
    """Seconds of steps with kept features, in turns."""
    names = [name for name in (OURS, PLAIN, PREVIOUS) if why_not(name, work) is None]
    return {"seconds": take_turns({name: frozen_step(work, name) for name in names}, rounds=rounds)}


def frozen_step(work: Work, name: str) -> Callable[[], None]:
    """Project both towers' features, lose, and update the projections and the temperature."""
    features = [one.detach() for one in (work.image, work.text)]
    heads = torch.nn.ModuleList([torch.nn.Linear(DIMENSIONS, DIMENSIONS, bias=False) for _ in features])
    heads.to(work.device, work.dtype)
    optimizer = torch.optim.AdamW([*heads.parameters(), work.scale, work.bias], lr=1e-4)

    def step() -> None:
        work.image, work.text = (
            functional.normalize(head(own), dim=-1) for head, own in zip(heads, features, strict=True)
        )
        CONTESTANTS[name](work)().backward()
        optimizer.step()
        optimizer.zero_grad()
        if work.on_gpu:
            torch.cuda.synchronize()

    return step


class Work:
    """A batch of embeddings, and those who compute a loss of it."""

    def __init__(self, family: str, batch: int, device: str, dtype: str) -> None:
        self.family, self.batch, self.device = family, batch, torch.device(device)
        self.dtype = getattr(torch, dtype)
        generator = torch.Generator().manual_seed(0)
        image = functional.normalize(torch.randn(batch, DIMENSIONS, generator=generator), dim=-1)
        text = torch.randn(batch, DIMENSIONS, generator=generator).mul_(2 / math.sqrt(DIMENSIONS)).add_(image)
        text = functional.normalize(text, dim=-1)
        self.image, self.text = (one.to(self.device, self.dtype).requires_grad_() for one in (image, text))
        self.scale = torch.tensor(math.log(TEMPERATURE), device=self.device, requires_grad=True)
        self.bias = torch.tensor(BIAS, device=self.device, requires_grad=True)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def free(self) -> float:
        """Bytes, and a quarter less: there are others."""
        if self.on_gpu:
            return 0.75 * torch.cuda.mem_get_info()[0]
        found = Path("/proc/meminfo").read_text(encoding="ascii").split("MemAvailable:")[1]
        return 0.75 * int(found.split()[0]) * 1024

    def step(self, name: str) -> Callable[[], None]:
        """Forward and backward of one of them."""
        loss = CONTESTANTS[name](self)

        def step() -> None:
            for leaf in (self.image, self.text, self.scale, self.bias):
                leaf.grad = None
            loss().backward()
            if self.on_gpu:
                torch.cuda.synchronize()

        return step


# The contestants ----------------------------------------------------------------------------------


def ours(work: Work) -> Loss:
    from icclip.training.step.losses import LOSSES, Pairs

    ids = torch.arange(work.batch, device=work.device)
    pairs = Pairs(work.image, work.text, work.image, work.text, ids, ids[:, None], ids[:, None], products=work.dtype)
    return lambda: LOSSES[work.family](pairs, work.scale, work.bias)  # type: ignore[index]


def previous(work: Work) -> Loss:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support import reference_losses

    ids = torch.arange(work.batch, device=work.device)
    pairs = reference_losses.Pairs(work.image, work.text, work.image, work.text, ids, ids[:, None], ids[:, None])
    loss = getattr(reference_losses, f"{work.family}_loss")
    return lambda: loss(pairs, work.scale, work.bias)


def plain(work: Work) -> Loss:
    ids = torch.arange(work.batch, device=work.device)
    whole = {"softmax": plain_softmax, "sigmoid": plain_sigmoid}[work.family]
    return lambda: whole(work.image, work.text, work.scale, work.bias, ids)


def compiled(work: Work) -> Loss:
    ids = torch.arange(work.batch, device=work.device)
    whole = torch.compile({"softmax": plain_softmax, "sigmoid": plain_sigmoid}[work.family])
    return lambda: whole(work.image, work.text, work.scale, work.bias, ids)


def plain_softmax(image: Tensor, text: Tensor, scale: Tensor, _bias: Tensor, ids: Tensor) -> Tensor:
    logits = scale.exp() * (image @ text.T).float()
    return (functional.cross_entropy(logits, ids) + functional.cross_entropy(logits.T, ids)) / 2


def plain_sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, ids: Tensor) -> Tensor:
    logits = scale.exp() * (image @ text.T).float() + bias
    signs = 2 * torch.eye(len(ids), device=ids.device) - 1
    return -functional.logsigmoid(signs * logits).sum() / len(ids)


def open_clip_loss(work: Work) -> Loss:
    open_clip = module_of("open_clip", "loss.py")
    if work.family == "softmax":
        clip = open_clip.ClipLoss()
        return lambda: clip(work.image, work.text, work.scale.exp())
    siglip = open_clip.SigLipLoss()
    return lambda: siglip(work.image, work.text, work.scale.exp(), work.bias)


def module_of(package: str, file: str) -> Any:
    """One file of a package, without all that the package imports: open_clip's losses need no torchvision."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(package)
    path = Path(found.submodule_search_locations[0], file)
    spec = importlib.util.spec_from_file_location(f"{package}_{path.stem}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sentences(work: Work) -> Loss:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(
        SentenceTransformer(modules=[torch.nn.Identity()], device=str(work.device)),
        scale=TEMPERATURE,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    nothing = torch.empty(0)
    return lambda: loss.compute_loss_from_embeddings([work.image, work.text], nothing)


def siglip_kernel(work: Work) -> Loss:
    from siglip_kernel import fused_siglip_loss

    return lambda: fused_siglip_loss(work.image, work.text, work.scale, work.bias)


def inf_cl(work: Work) -> Loss:
    from inf_cl import cal_flash_loss

    def both() -> Tensor:
        scale = work.scale.exp()
        there, back = (
            cal_flash_loss(*pair, scale=scale) for pair in ((work.image, work.text), (work.text, work.image))
        )
        return (there.mean() + back.mean()) / 2

    return both


CONTESTANTS: Mapping[str, Callable[[Work], Loss]] = {
    OURS: ours,
    PLAIN: plain,
    COMPILED: compiled,
    PREVIOUS: previous,
    SENTENCES: sentences,
    OPEN_CLIP: open_clip_loss,
    SIGLIP_KERNEL: siglip_kernel,
    INF_CL: inf_cl,
}
SERVES = {SENTENCES: ("softmax",), INF_CL: ("softmax",), SIGLIP_KERNEL: ("sigmoid",)}


def measured_here(what: str, *case_of: str) -> dict[str, Any]:
    family, batch, device, dtype, *more = case_of
    if what == "time":
        return time_all(Work(family, int(batch), device, dtype), int(more[0]), more[1])
    if what == "frozen":
        return time_frozen(Work(family, int(batch), device, dtype), int(more[0]))
    return memory_of(family, int(batch), device, dtype, more[0])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(measured_here(*sys.argv[2:])))
    else:
        main()
