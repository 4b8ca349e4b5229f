"""Export a checkpoint to a bundle that has passed the gate."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip import __version__
from icclip.bundles.golden import GoldenScores, write_golden
from icclip.bundles.manifest import Manifest, ParityData, Source, Tower, TowerFiles, seal
from icclip.bundles.parity_record import ParityRecord, PrecisionParity, Thresholds, write_parity
from icclip.config import ExportConfig, ModelConfig
from icclip.console import Reporter
from icclip.exporting.request import ExportRequest, ExportResult
from icclip.files import put_in_place, staging_directory
from icclip.runtime.encoder import Encoder
from icclip.runtime.engines import engine_directory
from icclip.runtime.preprocessing import image_inputs_from
from icclip_export.destination import check_destination, check_space, failed_name, needed_bytes
from icclip_export.gate.thresholds import thresholds_for
from icclip_export.onnx.export import OPSET, export_towers
from icclip_export.onnx.exporters import choose_exporter
from icclip_export.onnx.graphs import external_data
from icclip_export.precisions import graph_name
from icclip_export.precisions import precision as find_precision
from icclip_export.precisions.value import DIRECTORY
from icclip_export.rewriting.towers import rewrite_towers
from icclip_export.tokenizer import text_inputs, write_tokenizer

if TYPE_CHECKING:
    from icclip.data.gallery import Gallery
    from icclip.models.encoder import TorchEncoder
    from icclip.models.loaded import LoadedModel
    from icclip_export.gate.calibration import Calibration
    from icclip_export.gate.comparison import Reference
    from icclip_export.gate.probes import Probes
    from icclip_export.onnx.exporters.value import Exporter

TOWERS: tuple[Tower, ...] = ("vision", "text")
GOLDEN_IMAGES = 4
PROVED_CAPTIONS = 500
"""Number of real captions whose token ids are compared with the checkpoint's before anything else."""
_LIBRARIES = (
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "tokenizers",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class Data:
    """Images and captions of the split that decides, and of the one that the search may use."""

    tested: Gallery
    searched: Gallery


def export(request: ExportRequest, *, eager_attention: bool = False, encoder: type[Encoder] = Encoder) -> ExportResult:
    """Make and measure a bundle; nothing appears at `output_dir` before it has passed the gate.

    A bundle that does not pass is kept under `failed_name`.

    Args:
        request: the configuration of the export, with the registry and the reporter.
        eager_attention: see `export_towers`.
        encoder: the kind of encoder that will run the bundle, and is measured.

    Raises:
        UsageError: something that the user can correct.
        GateError: a graph does not compute what torch computes; nothing is kept.
    """
    # Everything that can be refused is refused before the work.
    exporter = choose_exporter(request.config.exporter)
    request = dataclasses.replace(request, config=dataclasses.replace(request.config, exporter=exporter.name))
    config, reporter = request.config, request.reporter
    for name in config.precisions:
        encoder.choose(config.provider, name)
    limits = {name: thresholds_for(name, config.thresholds) for name in config.precisions}
    check_destination(config.output_dir, overwrite=config.overwrite)
    check_destination(failed_name(config.output_dir), overwrite=True)
    loaded = _open(request)
    check_space(config.output_dir, needed_bytes(_parameters(loaded), config.precisions))
    data = _data(request)
    reporter.header(_header(config, exporter, loaded, data))
    with staging_directory(config.output_dir) as staging:
        probes = _probes(loaded, config)
        _write_inputs(staging, loaded, data, probes, config)
        reporter.note("exporting the towers")
        (staging / DIRECTORY).mkdir()
        graphs = export_towers(loaded, staging / DIRECTORY, exporter=exporter, eager_attention=eager_attention)
        rewrite_towers(loaded, graphs, reporter)
        parity = _proven(staging, loaded, data, probes, request, limits=limits, encoder=encoder)
        write_parity(staging, parity)
        _remove_unwanted(staging, config)
        manifest = seal(staging, _manifest(loaded, config, staging, encoder.library))
        bundle = config.output_dir if parity.passed else failed_name(config.output_dir)
        put_in_place(staging, bundle)
    reporter.note(f"wrote {bundle}")
    sizes = {name: _size(manifest, name) for name in manifest.precisions}
    return ExportResult(bundle=bundle, parity=parity, sizes=sizes)


def _open(request: ExportRequest) -> LoadedModel:
    from icclip.models.opening import open_model
    from icclip_export.onnx.export import check_finite
    from icclip_export.onnx.towers import check_exportable

    config = request.config
    model = ModelConfig(name=config.checkpoint, revision=config.revision, trust_remote_code=config.trust_remote_code)
    loaded = open_model(request.registry, model)
    check_exportable(loaded)
    check_finite(loaded)
    return loaded


def _data(request: ExportRequest) -> Data:
    """Load the splits; nodes are chosen on the validation or else the training split, so that the test split stays a test."""
    from icclip.data.gallery import Gallery, open_gallery
    from icclip.data.loading import is_whole, load_splits

    config = request.config
    splits: Any = load_splits(request.registry, config.data, request.reporter)
    tested = open_gallery(request.registry, config.data, splits, config.split)
    others = [name for name in ("validation", "train") if name in splits and name != config.split]
    if is_whole(splits, config.data) or not others:
        return Data(tested, tested)
    return Data(tested, Gallery.of(splits[others[0]], others[0], config.data.label))


def _header(config: ExportConfig, exporter: Exporter, loaded: LoadedModel, data: Data) -> dict[str, object]:
    compared = min(config.sample, data.tested.captions.n_images)
    return {
        "checkpoint": f"{config.checkpoint} ({loaded.model.config.model_type}, {_parameters(loaded) / 1e6:.1f} M parameters)",
        "target": f"{config.target}: {', '.join(config.precisions)}",
        "exporter": exporter.label,
        "proven on": f"{data.tested.label}: {compared:,} of {data.tested.captions.n_images:,} images",
        "bundle": config.output_dir,
    }


# Files --------------------------------------------------------------------------------------------


def _remove_unwanted(staging: Path, config: ExportConfig) -> None:
    """Remove the float32 graphs, from which every precision is made, if nothing that the user asked for runs them."""
    for tower in TOWERS:
        graph = staging / graph_name(tower, "fp32")
        if graph in {staging / graph_name(tower, wanted) for wanted in config.precisions}:
            continue
        for path in (graph, *external_data(graph)):
            path.unlink()


def _write_inputs(staging: Path, loaded: LoadedModel, data: Data, probes: Probes, config: ExportConfig) -> None:
    """Write what feeds the encoders (config, processor, tokenizer), and golden inputs from the split and the probes."""
    import numpy as np

    from icclip_export.gate.comparison import Scoring

    loaded.model.config.save_pretrained(staging)
    loaded.feeder.save(staging)
    write_tokenizer(loaded, staging, data.tested.captions.texts[:PROVED_CAPTIONS])
    count = min(GOLDEN_IMAGES, data.tested.captions.n_images)
    images = [data.tested.images[row] for row in range(count)]
    texts = list(data.tested.captions.texts[: data.tested.captions.offsets[count]])
    with _checkpoint(loaded, config) as encoder:
        vision, text = encoder.encode_images(images), encoder.encode_texts(texts)
    vision = np.concatenate([vision, probes.image_embeddings])
    text = np.concatenate([text, probes.text_embeddings])
    scoring = Scoring.of_model(loaded)
    write_golden(
        staging,
        [*images, *probes.images.values()],
        [*texts, *probes.texts.values()],
        vision,
        text,
        names=[""] * count + list(probes.images),
        scores=GoldenScores(scoring.log_scores(text @ vision[0]), scoring.factor),
    )


def _probes(loaded: LoadedModel, config: ExportConfig) -> Probes:
    from icclip_export.gate.probes import Probes

    with _checkpoint(loaded, config) as encoder:
        return Probes.of(loaded, encoder)


@contextlib.contextmanager
def _checkpoint(loaded: LoadedModel, config: ExportConfig, reporter: Reporter | None = None) -> Iterator[TorchEncoder]:
    """Let the checkpoint encode in full float32; afterwards it is back on the CPU, where it is exported."""
    import torch

    from icclip.models.encoder import TorchEncoder

    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    encoder = TorchEncoder(loaded, device=config.device, workers=config.workers, reporter=reporter)
    try:
        # TF32 differs from float32 by more than the gate allows a float32 bundle.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield encoder
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
        loaded.model.to("cpu")


# Manifest -----------------------------------------------------------------------------------------


def _manifest(loaded: LoadedModel, config: ExportConfig, staging: Path, library: str) -> Manifest:
    from icclip_export.gate.comparison import Scoring
    from icclip_export.onnx.towers import tower_ios

    model, ios, scoring = loaded.model, tower_ios(loaded), Scoring.of_model(loaded)
    preprocessing = json.loads((staging / "preprocessor_config.json").read_text(encoding="utf-8"))
    own = config.data.to_mapping()
    return Manifest(
        model_type=model.config.model_type,
        backend=loaded.backend.name,
        loss=scoring.loss,
        embedding_dim=_embedding_dim(staging, config),
        logit_scale=scoring.logit_scale,
        logit_bias=scoring.logit_bias,
        source=Source(name=loaded.source, fingerprint=fingerprint(model.state_dict()), parameters=_parameters(loaded)),
        text=text_inputs(loaded),
        image=image_inputs_from(preprocessing, loaded.source),
        vision_io=ios["vision"],
        text_io=ios["text"],
        opset=OPSET,
        runs_in=library,
        exporter=config.exporter,
        versions=_versions(),
        data=ParityData(
            dataset=config.data.label,
            split=config.split,
            options={
                key: value for key, value in own.items() if key not in ("name", "path", "qrels") and value is not None
            },
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


def _proven(
    staging: Path,
    loaded: LoadedModel,
    data: Data,
    probes: Probes,
    request: ExportRequest,
    *,
    limits: Mapping[str, Thresholds],
    encoder: type[Encoder],
) -> ParityRecord:
    """Make and measure every precision; fp32 comes first, because the others are made from it."""
    from icclip_export.gate.parity import parity_record
    from icclip_export.reduction import ATTEMPTS, Reducer

    config = request.config
    reference = _reference(loaded, data, probes, request)
    reducer = Reducer(staging, _calibrations(loaded, data, config), request.reporter)
    results: dict[str, PrecisionParity] = {}
    for precision in sorted(config.precisions, key=lambda name: name != "fp32"):
        own = limits[precision]
        check = partial(_checked, staging, loaded, reference, request, precision=precision, limits=own, encoder=encoder)
        if find_precision(precision).recipe is None:
            results[precision] = check()
            continue
        # If float32 itself fails, leaving nodes in float32 cannot help.
        attempts = ATTEMPTS if "fp32" not in results or results["fp32"].passed else 1
        results[precision] = reducer.reduce_until_passed(precision, own, check, attempts)
    ordered = [results[precision] for precision in config.precisions]
    return parity_record(reference, ordered, dataset=config.data.label, split=config.split, seed=config.seed)


def _reference(loaded: LoadedModel, data: Data, probes: Probes, request: ExportRequest) -> Reference:
    from icclip_export.gate.comparison import Compared, Reference, Scoring

    config = request.config
    tested = data.tested
    compared = Compared.of(
        tested.images,
        tested.captions,
        config.sample,
        config.seed,
        protocol=tested.protocol,
        digests=tested.image_digests,
        judged=tested.judged,
    )
    with _checkpoint(loaded, config, request.reporter) as encoder:
        return Reference.of(encoder, Scoring.of_model(loaded), compared, probes)


def _calibrations(loaded: LoadedModel, data: Data, config: ExportConfig) -> Mapping[Tower, Calibration]:
    from icclip_export.gate.calibration import calibrations

    if all(find_precision(name).recipe is None for name in config.precisions):
        return {}
    return calibrations(loaded, data.searched.images, data.searched.captions)


def _checked(
    staging: Path,
    loaded: LoadedModel,
    reference: Reference,
    request: ExportRequest,
    *,
    precision: str,
    limits: Thresholds,
    encoder: type[Encoder],
) -> PrecisionParity:
    """The gate's result for the current graphs of one precision."""
    from icclip_export.gate.parity import check_precision

    config, reporter = request.config, request.reporter
    seal(staging, _manifest(loaded, dataclasses.replace(config, precisions=(precision,)), staging, encoder.library))
    # Otherwise the provider and the progress would be reported again for every precision.
    quiet = dataclasses.replace(reporter, silent=True)
    engines = engine_directory(config.output_dir)
    return check_precision(
        reference,
        lambda name: encoder.open(
            staging, name, config.provider, tf32=False, engines=engines, keep_graphs=False, reporter=quiet
        ),
        precision,
        limits=limits,
        provider=config.provider,
        reporter=reporter,
    )
