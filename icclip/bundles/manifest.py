"""`icclip.json` of a bundle: what the encoders are, how they are fed, and the hash of every file.

    Manifest
    ├── source: Source            where the weights came from
    ├── text: TextInputs          how captions become token ids
    ├── image: ImageInputs        how images become pixels
    ├── vision_io, text_io: TowerIO   names of the graphs' input and output
    ├── data: ParityData | None   the split that the bundle was measured on
    ├── precisions                precision -> TowerFiles
    └── files                     every file's FileRecord, by its path inside the bundle

Paths are relative, with forward slashes, and never leave the bundle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from icclip import __version__
from icclip.bundles.reading import read_table
from icclip.config import Config, LossFamily
from icclip.errors import CheckpointError, ConfigError, UnknownNameError, shorten
from icclip.files import atomic_write_json
from icclip.foreign_files import read_json
from icclip.naming import public_name

FORMAT = 1
NAME = "icclip.json"
RUNTIME = "onnxruntime"
"""What runs a bundle whose icclip.json names nothing else."""
_CHUNK = 1 << 20
LARGEST_LENGTH = 32_768
"""Tokens; text towers read 64 to 8,192."""
LARGEST_VOCABULARY = 1 << 24
LARGEST_SIDE = 4_096
"""Pixels; a batch of images of this size takes 6 GB."""
LARGEST_DIM = 65_536
LARGEST_SCALE = 50.0
"""Of the logarithm; models have 2 to 5, and float32 ends at 88."""
FILTERS = range(6)
"""As PIL numbers them."""

Tower = Literal["vision", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord(Config):
    """The size and hash that a file must have."""

    sha256: str
    size: int
    """The size of the file in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerFiles(Config):
    """The two graphs of one precision, as paths inside the bundle."""

    vision: str
    text: str
    dynamic: bool | None = None
    """Whether activations are quantized while they are computed, with one scale for a whole tensor.

    A row's embedding then depends on the rows beside it, so that the runtime gives each row a run of its
    own. None: not known (`seal` finds it out).
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerIO(Config):
    """The names of a graph's only input and only output."""

    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Config):
    """The checkpoint that the bundle was made from."""

    name: str
    fingerprint: str
    """sha256 over the names and values of the weights, which tells two checkpoints apart."""
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInputs(Config):
    """How texts become `input_ids`: the checkpoint's TextPolicy and the token that its tokenizer pads with.

    `tokenizer.json` does the rest, including canonicalisation (case, punctuation, whitespace).
    """

    padding: Literal["longest", "max_length"]
    max_length: int
    """The maximum length in tokens, including special tokens."""
    lowercase: bool
    pad_id: int
    padding_side: Literal["left", "right"] = "right"
    truncation_side: Literal["left", "right"] = "right"

    def problems(self) -> list[str]:
        """One line for each value that is out of range."""
        found = [] if self.max_length > 0 else [f"max_length is {self.max_length}: give at least 1"]
        if self.max_length > LARGEST_LENGTH:
            found.append(f"max_length is {self.max_length}: give at most {LARGEST_LENGTH:,}")
        if not 0 <= self.pad_id < LARGEST_VOCABULARY:
            found.append(f"pad_id is {self.pad_id}: give the number of a token")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInputs(Config):
    """How images become `pixel_values`: the values of preprocessor_config.json, made explicit.

    Either `shortest_edge`, or `height` and `width`, is set; if all three are None, images are only cropped.
    """

    processor: str
    """The image processor class that fed the checkpoint; transformers' slow (PIL) and fast (torchvision) classes differ slightly."""
    shortest_edge: int | None = None
    height: int | None = None
    width: int | None = None
    resample: int = 3
    """The number of PIL's filter: 2 is bilinear, 3 is bicubic."""
    crop_height: int | None = None
    """Size of the centre crop; None means no crop."""
    crop_width: int | None = None
    rescale_factor: float | None = 1 / 255
    mean: tuple[float, ...] | None = None
    """One value per channel; None means no normalisation."""
    std: tuple[float, ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of `pixel_values`."""
        return (self.crop_height or self.height or 0, self.crop_width or self.width or 0)

    def problems(self) -> list[str]:
        """One line for each setting that cannot be carried out."""
        found = []
        if (self.height is None) != (self.width is None) or (self.height and self.shortest_edge):
            found.append("give either shortest_edge, or height and width")
        if (self.crop_height is None) != (self.crop_width is None):
            found.append("give both crop_height and crop_width, or neither")
        if not self.crop_height and not self.height:
            found.append("images would keep different sizes: give height and width, or a crop")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != len("RGB"):
                found.append(f"{name} has {len(values)} values: give 3")
        if (self.mean is None) != (self.std is None):
            found.append("give both mean and std, or neither")
        return found + self._out_of_range()

    def _out_of_range(self) -> list[str]:
        found = []
        for name in ("shortest_edge", "height", "width", "crop_height", "crop_width"):
            side = getattr(self, name)
            if side is not None and not 1 <= side <= LARGEST_SIDE:
                found.append(f"{name} is {side}: give 1 to {LARGEST_SIDE:,} pixels")
        if self.resample not in FILTERS:
            found.append(f"resample is {self.resample}: give one of PIL's filters, 0 to {FILTERS[-1]}")
        if self.rescale_factor is not None and not (math.isfinite(self.rescale_factor) and self.rescale_factor):
            found.append(f"rescale_factor is {self.rescale_factor}: give a finite number that is not 0")
        if not all(map(math.isfinite, (*(self.mean or ()), *(self.std or ())))) or 0 in (self.std or ()):
            found.append("mean and std: give finite numbers, and none that is 0 in std")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityData(Config):
    """The dataset and split that parity.json was measured on; `verify --dataset` compares with it."""

    dataset: str
    """The dataset, written as on the command line (`DatasetConfig.label`)."""
    split: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Other fields of DatasetConfig that decide which images the split holds (`seed`, `val_fraction`, ...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Config):
    """Everything that is needed to run a bundle."""

    format: int = FORMAT
    kind: Literal["bundle"] = "bundle"
    """A run directory's icclip.json has no such key."""
    model_type: str
    backend: str
    loss: LossFamily
    """Decides how `rank` turns similarities into probabilities."""
    embedding_dim: int
    logit_scale: float
    """The natural logarithm of the factor on the cosine, as the checkpoint stores it."""
    logit_bias: float | None = None
    source: Source
    text: TextInputs
    image: ImageInputs
    vision_io: TowerIO
    text_io: TowerIO
    opset: int
    runs_in: str = RUNTIME
    """The library that runs the graphs, for which `parity.json` holds. Another one may compute a precision differently."""
    exporter: str | None = None
    """What wrote the float32 graphs: `optimum` or `torch`; None if the bundle is older than this field."""
    versions: Mapping[str, str]
    """The versions of the libraries that made the bundle."""
    data: ParityData | None = None
    precisions: Mapping[str, TowerFiles]
    files: Mapping[str, FileRecord] = dataclasses.field(default_factory=dict)
    digest: str | None = None
    """sha256 over all other values (`digest_of`); None if the bundle is older than this field."""

    def problems(self) -> list[str]:
        """One line for each contradiction, and for each path that leaves the bundle."""
        found = [
            f"{name} is {value}: expected a finite number"
            for name, value in (("logit_scale", self.logit_scale), ("logit_bias", self.logit_bias or 0.0))
            if not math.isfinite(value)
        ]
        if not 1 <= self.embedding_dim <= LARGEST_DIM:
            found.append(f"embedding_dim is {self.embedding_dim}: give 1 to {LARGEST_DIM:,}")
        if abs(self.logit_scale) > LARGEST_SCALE:
            found.append(
                f"logit_scale is {self.logit_scale}: give the logarithm of a temperature, at most {LARGEST_SCALE:g}"
            )
        if not self.precisions:
            found.append("precisions is empty")
        named = [path for towers in self.precisions.values() for path in (towers.vision, towers.text)]
        found += [f"path {path!r} leaves the bundle" for path in {*named, *self.files} if not _stays_inside(path)]
        if self.files:
            found += [f"{path!r} has no hash under 'files'" for path in sorted(set(named) - set(self.files))]
        return found

    def towers(self, precision: str) -> TowerFiles:
        """The graphs of a precision. Raises UnknownNameError."""
        if precision not in self.precisions:
            raise UnknownNameError("precision", precision, self.precisions)
        return self.precisions[precision]

    def files_of(self, graph: str) -> list[str]:
        """A graph and its external data (`<graph>_data...`)."""
        return [graph, *sorted(path for path in self.files if path.startswith(f"{graph}_data"))]

    def graph_files(self, precision: str) -> list[str]:
        """The names of all files of both towers of a precision. Raises UnknownNameError."""
        towers = self.towers(precision)
        return [*self.files_of(towers.vision), *self.files_of(towers.text)]


def read_manifest(bundle: Path) -> Manifest:
    """Read and check `icclip.json`; no other file is touched.

    Raises:
        CheckpointError: it is missing, is not valid JSON, has another format, belongs to a run directory, or
            contradicts itself.
    """
    path = bundle / NAME
    values = read_table(path, f"{bundle} is not a bundle: cannot read {NAME}")
    if values.get("kind") != "bundle":
        raise CheckpointError(f"{bundle} is not a bundle but a run directory: make one with `icclip export {bundle}`")
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {values.get('format')!r}, but this icclip reads {FORMAT}: "
            "use the icclip version that wrote it, or export the checkpoint again"
        )
    _refuse_unknown_keys(path, values)
    try:
        manifest = Manifest.from_mapping(values)
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged: {shorten(str(error))}; export the checkpoint again") from error
    if manifest.digest is not None and manifest.digest != digest_of(values):
        raise CheckpointError(
            f"{path} was changed after it was written (its digest differs): "
            "copy the bundle again, or export the checkpoint again"
        )
    return manifest


def digest_of(values: Mapping[str, Any]) -> str:
    """sha256 over the values of an `icclip.json`, whatever its layout; its own digest is left out."""
    others = {key: value for key, value in values.items() if key != "digest"}
    return hashlib.sha256(json.dumps(others, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse_unknown_keys(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse keys that this version does not know, because ignoring what another version meant would be a guess."""
    unknown = sorted(_unknown(Manifest, values, ""))
    if unknown:
        versions = values.get("versions")
        writer = versions.get("icclip", "unknown") if isinstance(versions, Mapping) else "unknown"
        raise CheckpointError(
            f"{path} holds {shorten(', '.join(unknown))}, which this icclip ({__version__}) does not know: a newer one "
            f"(version {shorten(str(writer), 40)}) wrote it; install that: pip install --upgrade icclip"
        )


def _unknown(kind: type[Config], values: Mapping[str, Any], where: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            yield f"{where}{key}"
        elif isinstance(value, Mapping):
            yield from _unknown_below(hints[key], value, f"{where}{key}.")


def _unknown_below(hint: Any, value: Mapping[str, Any], where: str) -> Iterator[str]:
    """In a table (`text.`), or in each of a mapping of tables (`precisions.fp32.`)."""
    kinds = [hint, *typing.get_args(hint)]
    own = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config)), None)
    if own is None:
        return
    if typing.get_origin(hint) is not Mapping:
        yield from _unknown(own, value, where)
        return
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _unknown(own, item, f"{where}{name}.")


def is_bundle(directory: Path) -> bool:
    """Whether the `icclip.json` of a directory is that of a bundle; run directories have such a file, too."""
    return library_of(directory) is not None


def library_of(directory: Path) -> str | None:
    """The library that runs the bundle in a directory (`Manifest.runs_in`); None if there is no bundle."""
    try:
        values = read_json(directory / NAME)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.get("kind") != "bundle":
        return None
    return str(values.get("runs_in", RUNTIME))


def seal(bundle: Path, manifest: Manifest) -> Manifest:
    """Hash every file below `bundle`, and write `icclip.json` with the result, which is returned.

    Directories of this machine are removed from the names of the source and the data, each precision records
    whether it is quantized dynamically, and the manifest receives its digest. Call it last, and again if
    `parity.json` is added later.
    """
    names = sorted(
        path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file() and path.name != NAME
    )
    sealed = _public(dataclasses.replace(manifest, files={name: record(bundle / name) for name in names}))
    problems = sealed.problems()
    if problems:
        raise ConfigError(problems)
    sealed = dataclasses.replace(sealed, precisions=_with_dynamic(bundle, sealed), digest=None)
    # The digest is over what will be read, and JSON has no tuples.
    sealed = dataclasses.replace(sealed, digest=digest_of(json.loads(json.dumps(sealed.to_mapping()))))
    atomic_write_json(bundle / NAME, sealed.to_mapping())
    return sealed


def _public(manifest: Manifest) -> Manifest:
    """The manifest without the directories of the machine that made it."""
    source = dataclasses.replace(manifest.source, name=public_name(manifest.source.name))
    data = manifest.data and dataclasses.replace(manifest.data, dataset=public_name(manifest.data.dataset))
    return dataclasses.replace(manifest, source=source, data=data)


def _with_dynamic(bundle: Path, manifest: Manifest) -> dict[str, TowerFiles]:
    return {
        name: dataclasses.replace(towers, dynamic=is_dynamic(bundle, towers))
        for name, towers in manifest.precisions.items()
    }


def is_dynamic(bundle: Path, towers: TowerFiles) -> bool:
    """Whether a graph of either tower quantizes activations as it runs, judging by the operator names in the files."""
    return any(_holds(bundle / graph, b"DynamicQuantize") for graph in (towers.vision, towers.text))


def _holds(path: Path, word: bytes) -> bool:
    with path.open("rb") as file:
        before = b""
        while chunk := file.read(_CHUNK):
            if word in before + chunk:
                return True
            before = chunk[-len(word) :]
    return False


def record(path: Path) -> FileRecord:
    """The size and hash of a file, which is read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return FileRecord(sha256=digest.hexdigest(), size=path.stat().st_size)


def check_files(bundle: Path, manifest: Manifest, names: Iterable[str] | None = None, *, hashes: bool = True) -> None:
    """Compare the sizes of files with the manifest, and with `hashes` their contents as well.

    Args:
        bundle: the directory of the bundle.
        manifest: the manifest of the bundle.
        names: paths inside the bundle; None means all that the manifest lists.
        hashes: whether to read the files and compare their hashes.

    Raises:
        CheckpointError: a file is missing, truncated or changed; the message names the first one.
    """
    for name in manifest.files if names is None else names:
        problem = file_problem(bundle, manifest, name, hashes=hashes)
        if problem:
            raise CheckpointError(f"{problem}: copy the bundle again, or export the checkpoint again")


def file_problem(bundle: Path, manifest: Manifest, name: str, *, hashes: bool = True) -> str | None:
    """What is wrong with one file of the bundle, or None."""
    path, expected = bundle / name, manifest.files.get(name)
    if expected is None:
        return f"{path} is not listed in {NAME}"
    try:
        if not path.is_file():
            return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"
    size = path.stat().st_size
    if size != expected.size:
        return f"{path} has {size} bytes instead of {expected.size} (truncated or replaced)"
    if hashes and record(path).sha256 != expected.sha256:
        return f"{path} is not the file that {NAME} describes (its sha256 differs)"
    return None


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    # A backslash or a colon has a special meaning on Windows, so they are refused everywhere.
    return bool(name) and not path.is_absolute() and ".." not in path.parts and not set("\\:") & set(name)
