"""From a checkpoint to a bundle that has passed the gate."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip import __version__
from icclip.config import ExportConfig, ModelConfig
from icclip.console import Reporter
from icclip.data.captions import CaptionMap
from icclip.errors import GateError
from icclip.exporting import ExportRequest, ExportResult, KeptNodes
from icclip.files import atomic_directory, readable_os_errors
from icclip.runtime.encoder import Encoder
from icclip.runtime.golden import write_golden
from icclip.runtime.manifest import Manifest, ParityData, Source, Tower, TowerFiles, seal
from icclip.runtime.parity_record import ParityRecord, write_parity
from icclip.runtime.preprocessing import image_inputs_from
from icclip.runtime.providers import import_onnxruntime
from icclip_export.destination import check_destination, check_space, keep_as_failed, needed_bytes
from icclip_export.graphs import external_data
from icclip_export.onnx import OPSET, export_towers
from icclip_export.tokenizer import text_inputs, write_tokenizer

if TYPE_CHECKING:
    from icclip.models.loaded import LoadedModel
    from icclip_export.calibration import Calibration
    from icclip_export.search import Found, Score

GRAPHS = "onnx"
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8"}
"""Of the file names, as transformers.js looks for them."""
TOWERS: tuple[Tower, ...] = ("vision", "text")
GOLDEN_IMAGES = 4
PROVED_CAPTIONS = 500
"""Real captions whose token ids are compared with the checkpoint's before anything else is done."""
FIRST_BAR = 0.5
"""Of the thresholds' distance from 1, that the search has to keep to: the split that decides has worse inputs."""
STRICTER = 0.25
ATTEMPTS = 3
_LIBRARIES = (
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class Data:
    """Images and captions of the split that decides, and of one that the search may look at."""

    images: Any
    captions: CaptionMap
    search_images: Any
    search_captions: CaptionMap


def export(request: ExportRequest, *, eager_attention: bool = False) -> ExportResult:
    """Make, measure and keep a bundle; nothing of it is at `output_dir` before it has passed.

    Args:
        request: what is asked for.
        eager_attention: see `export_towers`.

    Raises:
        UsageError: anything the user can mend.
        GateError: it did not pass; it is kept under `failed_name`.
    """
    config, reporter = request.config, request.reporter
    import_onnxruntime()
    check_destination(config.output_dir, overwrite=config.overwrite)
    loaded = _open(request)
    check_space(config.output_dir, needed_bytes(_parameters(loaded), config.precisions))
    data = _data(request)
    reporter.header(_header(config, loaded, data))
    with atomic_directory(config.output_dir) as staging:
        _write_inputs(staging, loaded, data, config)
        reporter.note("exporting the towers")
        (staging / GRAPHS).mkdir()
        export_towers(loaded, staging / GRAPHS, eager_attention=eager_attention)
        kept, parity = _reduce_until_passed(staging, loaded, data, request)
        write_parity(staging, parity)
        _remove_unwanted(staging, config)
        manifest = seal(staging, _manifest(loaded, config, staging))
        _refuse_failed(parity, staging, config.output_dir)
    reporter.note(f"wrote {config.output_dir}")
    sizes = {name: _size(manifest, name) for name in manifest.precisions}
    return ExportResult(bundle=config.output_dir, parity=parity, sizes=sizes, kept=kept)


def _open(request: ExportRequest) -> LoadedModel:
    from icclip.models.opening import open_model
    from icclip_export.onnx import check_finite
    from icclip_export.towers import check_exportable

    config = request.config
    model = ModelConfig(name=config.checkpoint, revision=config.revision, trust_remote_code=config.trust_remote_code)
    loaded = open_model(request.registry, model)
    check_exportable(loaded)
    check_finite(loaded)
    return loaded


def _data(request: ExportRequest) -> Data:
    """Nodes are chosen on the validation (or else the training) split, so that the test split is a test."""
    from icclip.data.loading import choose_split, load_splits
    from icclip.data.split import SplitImages, caption_map

    config = request.config
    splits = load_splits(request.registry, config.data, request.reporter)
    tested = choose_split(splits, config.split, config.data.label)
    others = [name for name in ("validation", "train") if name in splits and name != config.split]
    searched = splits[others[0]] if others else tested
    return Data(SplitImages(tested), caption_map(tested), SplitImages(searched), caption_map(searched))


def _header(config: ExportConfig, loaded: LoadedModel, data: Data) -> dict[str, object]:
    compared = min(config.sample, data.captions.n_images)
    return {
        "checkpoint": f"{config.checkpoint} ({loaded.model.config.model_type}, {_parameters(loaded) / 1e6:.1f} M parameters)",
        "target": f"{config.target}: {', '.join(config.precisions)}",
        "proven on": f"{config.data.label}, split {config.split}: {compared:,} of {data.captions.n_images:,} images",
        "bundle": config.output_dir,
    }


# Files --------------------------------------------------------------------------------------------


def graph_name(tower: Tower, precision: str) -> str:
    """The path of a graph inside a bundle."""
    return f"{GRAPHS}/{tower}_model{SUFFIXES[precision]}.onnx"


def _reduce_until_passed(
    staging: Path, loaded: LoadedModel, data: Data, request: ExportRequest
) -> tuple[KeptNodes, ParityRecord]:
    """Reduce the precision, ask the gate, and where it says no reduce less.

    Returns:
        The nodes that stayed in float32, and the gate's last word.
    """
    from icclip_export.calibration import calibrations
    from icclip_export.thresholds import thresholds_for

    config, reporter = request.config, request.reporter
    found: dict[str, Mapping[Tower, Found]] = {}
    failing = [name for name in config.precisions if name != "fp32"]
    calibrated = calibrations(loaded, data.search_images, data.search_captions) if failing else {}
    for attempt in range(ATTEMPTS):
        for precision in failing:
            limits, bar = thresholds_for(precision, config.thresholds), _bar(found.get(precision))
            scores = {tower: own.score(limits, bar) for tower, own in calibrated.items()}
            found[precision] = _reduce(staging, precision, calibrated, scores, reporter)
        seal(staging, _manifest(loaded, config, staging))
        parity = _gate(staging, loaded, data, request)
        failing = [result.precision for result in parity.results if not result.passed]
        # Nothing can be left in float32 where float32 itself fails.
        if not failing or "fp32" in failing or attempt == ATTEMPTS - 1:
            break
        reporter.note(f"{', '.join(failing)} did not pass: a stricter search follows")
    kept = {precision: {tower: one.kept for tower, one in towers.items()} for precision, towers in found.items()}
    return kept, parity


def _bar(before: Mapping[Tower, Found] | None) -> float:
    """What a search has to keep to: well below what was not enough before."""
    return FIRST_BAR if before is None else STRICTER * min(one.measure.error for one in before.values())


def _reduce(
    staging: Path,
    precision: str,
    calibrated: Mapping[Tower, Calibration],
    scores: Mapping[Tower, Score],
    reporter: Reporter,
) -> dict[Tower, Found]:
    """Both towers in one precision, and the nodes that stayed in float32."""
    from icclip_export.precision import convert

    results: dict[Tower, Found] = {}
    for tower, own in calibrated.items():
        source, target = (staging / graph_name(tower, name) for name in ("fp32", precision))
        found = convert(precision, source, target, io=own.io, inputs=own.inputs, score=scores[tower])
        results[tower] = found
        stay = f"{len(found.kept)} nodes stay in fp32" if found.kept else "every node"
        reporter.note(f"{precision} {tower}: {stay}, {found.measure.detail} ({found.evaluations} tried)")
    return results


def _remove_unwanted(staging: Path, config: ExportConfig) -> None:
    """Every precision is made from the float32 graphs, wanted or not."""
    if "fp32" in config.precisions:
        return
    for tower in TOWERS:
        graph = staging / graph_name(tower, "fp32")
        for path in (graph, *external_data(graph)):
            path.unlink()


def _write_inputs(staging: Path, loaded: LoadedModel, data: Data, config: ExportConfig) -> None:
    """What feeds the encoders (config, processor, tokenizer), and golden inputs."""
    from icclip.models.encoder import TorchEncoder

    with readable_os_errors("the processor", staging):
        loaded.model.config.save_pretrained(staging)
        loaded.save_processor(staging)
    write_tokenizer(loaded, staging, data.captions.texts[:PROVED_CAPTIONS])
    count = min(GOLDEN_IMAGES, data.captions.n_images)
    images = [data.images[row] for row in range(count)]
    texts = data.captions.texts[: data.captions.offsets[count]]
    encoder = TorchEncoder(loaded, device=config.device)
    write_golden(staging, images, texts, encoder.encode_images(images), encoder.encode_texts(texts))


# Manifest -----------------------------------------------------------------------------------------


def _manifest(loaded: LoadedModel, config: ExportConfig, staging: Path) -> Manifest:
    from icclip_export.towers import tower_ios

    model, ios = loaded.model, tower_ios(loaded)
    bias = getattr(model, "logit_bias", None)
    preprocessing = json.loads((staging / "preprocessor_config.json").read_text(encoding="utf-8"))
    own = config.data.to_mapping()
    return Manifest(
        model_type=model.config.model_type,
        backend=loaded.backend.name,
        loss=loaded.backend.loss,
        embedding_dim=_embedding_dim(staging, config),
        logit_scale=model.logit_scale.item(),
        logit_bias=None if bias is None else bias.item(),
        source=Source(name=loaded.source, fingerprint=fingerprint(model.state_dict()), parameters=_parameters(loaded)),
        text=text_inputs(loaded),
        image=image_inputs_from(preprocessing, loaded.source),
        vision_io=ios["vision"],
        text_io=ios["text"],
        opset=OPSET,
        versions=_versions(),
        data=ParityData(
            dataset=config.data.label,
            split=config.split,
            options={key: value for key, value in own.items() if key not in ("name", "path") and value is not None},
        ),
        precisions={
            name: TowerFiles(vision=graph_name("vision", name), text=graph_name("text", name))
            for name in config.precisions
        },
    )


def _embedding_dim(staging: Path, config: ExportConfig) -> int:
    import onnx

    graph = onnx.load(str(staging / graph_name("text", config.precisions[0])), load_external_data=False).graph
    return int(graph.output[0].type.tensor_type.shape.dim[-1].dim_value)


def fingerprint(state: Mapping[str, Any]) -> str:
    """sha256 over the names and values of weights, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + b"\0")
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _parameters(loaded: LoadedModel) -> int:
    return int(loaded.describe()["parameters"])


def _versions() -> dict[str, str]:
    found = {"icclip": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _size(manifest: Manifest, precision: str) -> int:
    return sum(manifest.files[name].size for name in manifest.graph_files(precision))


# The gate -----------------------------------------------------------------------------------------


def _gate(staging: Path, loaded: LoadedModel, data: Data, request: ExportRequest) -> ParityRecord:
    from icclip.models.encoder import TorchEncoder
    from icclip_export.parity import run_gate
    from icclip_export.thresholds import thresholds_for

    config, reporter = request.config, request.reporter
    reference = TorchEncoder(loaded, device=config.device, workers=config.workers, reporter=reporter)
    quiet = dataclasses.replace(reporter, silent=True)

    def open_candidate(precision: str) -> Encoder:
        return Encoder.open(staging, precision, config.provider, tf32=False, reporter=quiet)

    return run_gate(
        reference,
        open_candidate,
        data.images,
        data.captions,
        precisions=config.precisions,
        thresholds={name: thresholds_for(name, config.thresholds) for name in config.precisions},
        reporter=reporter,
        dataset=config.data.label,
        split=config.split,
        provider=config.provider,
        sample=config.sample,
        seed=config.seed,
    )


def _refuse_failed(parity: ParityRecord, staging: Path, directory: Path) -> None:
    from icclip_export.parity import raise_if_failed

    try:
        raise_if_failed(parity)
    except GateError as error:
        kept = keep_as_failed(staging, directory)
        raise GateError(f"{error}; the bundle is kept as {kept}") from error


def open_bundle(path: Path) -> Encoder:
    """`ExportTargetSpec.open`."""
    return Encoder.open(path, reporter=Reporter.for_this_process())
