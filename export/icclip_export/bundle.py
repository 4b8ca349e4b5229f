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
from icclip.runtime.manifest import Manifest, ParityData, Source, Tower, TowerFiles, TowerIO, seal
from icclip.runtime.parity_record import ParityRecord, write_parity
from icclip.runtime.preprocessing import image_inputs_from
from icclip.runtime.providers import import_onnxruntime
from icclip_export.destination import check_destination, check_space, keep_as_failed, needed_bytes
from icclip_export.graphs import external_data
from icclip_export.onnx import OPSET, export_towers
from icclip_export.tokenizer import text_inputs, write_tokenizer

if TYPE_CHECKING:
    from icclip.models.loaded import LoadedModel

GRAPHS = "onnx"
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8"}
"""Of the file names, as transformers.js looks for them."""
TOWERS: tuple[Tower, ...] = ("vision", "text")
GOLDEN_IMAGES = 4
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
        kept = _write_encoders(staging, loaded, data, request, eager_attention=eager_attention)
        _write_inputs(staging, loaded, data, config)
        manifest = seal(staging, _manifest(staging, loaded, config))
        parity = _gate(staging, loaded, data, request)
        write_parity(staging, parity)
        manifest = seal(staging, manifest)
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


def _write_encoders(
    staging: Path, loaded: LoadedModel, data: Data, request: ExportRequest, *, eager_attention: bool
) -> KeptNodes:
    """All precisions of both towers; the nodes that stayed in float32."""
    (staging / GRAPHS).mkdir()
    request.reporter.note("exporting the towers")
    export_towers(loaded, staging / GRAPHS, eager_attention=eager_attention)
    reduced = [name for name in request.config.precisions if name != "fp32"]
    kept = _reduce(staging, loaded, data, request, reduced) if reduced else {}
    if "fp32" not in request.config.precisions:
        for tower in TOWERS:
            graph = staging / graph_name(tower, "fp32")
            for path in (graph, *external_data(graph)):
                path.unlink()
    return kept


def _reduce(staging: Path, loaded: LoadedModel, data: Data, request: ExportRequest, precisions: list[str]) -> KeptNodes:
    from icclip_export.calibration import calibrations
    from icclip_export.precision import convert
    from icclip_export.thresholds import thresholds_for

    ios = _ios(loaded)
    calibrated = calibrations(loaded, data.search_images, data.search_captions, ios)
    kept: dict[str, dict[str, tuple[str, ...]]] = {}
    for precision in precisions:
        limits = thresholds_for(precision, request.config.thresholds)
        for tower in TOWERS:
            own = calibrated[tower]
            source, target = (staging / graph_name(tower, name) for name in ("fp32", precision))
            found = convert(precision, source, target, own.io, own.inputs, own.score(limits))
            kept.setdefault(precision, {})[tower] = found.kept
            request.reporter.note(
                f"{precision} {tower}: {len(found.kept)} nodes stay in fp32 ({found.measure.detail}, "
                f"{found.evaluations} tried)"
            )
    return kept


def _write_inputs(staging: Path, loaded: LoadedModel, data: Data, config: ExportConfig) -> None:
    """What feeds the encoders (config, processor, tokenizer), and golden inputs."""
    from icclip.models.encoder import TorchEncoder

    with readable_os_errors("the processor", staging):
        loaded.model.config.save_pretrained(staging)
        loaded.save_processor(staging)
    write_tokenizer(loaded, staging, data.captions.texts[: data.captions.offsets[min(100, data.captions.n_images)]])
    count = min(GOLDEN_IMAGES, data.captions.n_images)
    images = [data.images[row] for row in range(count)]
    texts = data.captions.texts[: data.captions.offsets[count]]
    encoder = TorchEncoder(loaded, device=config.device)
    write_golden(staging, images, texts, encoder.encode_images(images), encoder.encode_texts(texts))


# Manifest -----------------------------------------------------------------------------------------


def _manifest(staging: Path, loaded: LoadedModel, config: ExportConfig) -> Manifest:
    model, ios = loaded.model, _ios(loaded)
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


def _ios(loaded: LoadedModel) -> dict[Tower, TowerIO]:
    from icclip_export.towers import tower_ios

    return tower_ios(loaded)


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
