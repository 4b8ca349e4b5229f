"""Find what plugins offer, by name.

The registry is built explicitly and passed on; there is no global one. The default plugins resolve
first. Third-party plugins (entry points of the group `icclip`) are loaded only when a name is not
among the defaults, or for a listing. `icclip.plugins.loading` loads them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from icclip.errors import MissingExtraError, PluginError, UnknownNameError
from icclip.plugins.loading import BUILT_IN, KINDS, Plugin, describe, installed_plugins, load_built_in
from icclip.plugins.specs import BackendSpec, DatasetSpec, ExportTargetSpec, IndexTargetSpec, MetricSpec, Preset, Spec

DEFAULT_PLUGINS = (
    "icclip_plugins.backends.clip",
    "icclip_plugins.backends.dual",
    "icclip_plugins.backends.siglip",
    "icclip_plugins.datasets.flickr8k",
    "icclip_plugins.datasets.flickr30k",
    "icclip_plugins.datasets.shapes",
    "icclip_plugins.datasets.jsonl",
    "icclip_plugins.datasets.csv",
    "icclip_plugins.datasets.karpathy",
    "icclip_plugins.datasets.coco",
    "icclip_plugins.datasets.json",
    "icclip_plugins.datasets.token",
    "icclip_plugins.datasets.parquet",
    "icclip_plugins.datasets.webdataset",
    "icclip_plugins.datasets.classes",
    "icclip_plugins.datasets.folder",
    "icclip_plugins.datasets.hub",
    "icclip_plugins.metrics.ranking",
    "icclip_plugins.sagemaker",
    "icclip_plugins.indexes.lancedb",
    "icclip_export.plugin",
)
LOAD_PLUGINS_VARIABLE = "ICCLIP_LOAD_PLUGINS"

S = TypeVar("S", bound=Spec)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing:
    """A row of `icclip plugins list`."""

    name: str
    kind: str
    version: str
    origin: str
    status: str
    reason: str
    summary: str = ""


@dataclass
class Registry:
    """Everything that plugins offer.

    Args:
        default_plugins: names of the modules that are searched first.
        load_plugins: names of the third-party plugins (entry point or distribution) to consider;
            None means all. The environment variable ICCLIP_LOAD_PLUGINS sets it, separated by commas.
    """

    default_plugins: Sequence[str] = DEFAULT_PLUGINS
    load_plugins: frozenset[str] | None = None

    @classmethod
    def from_environment(cls) -> Registry:
        """The registry of a normal run."""
        chosen = os.environ.get(LOAD_PLUGINS_VARIABLE)
        if chosen is None:
            return cls()
        return cls(load_plugins=frozenset(name.strip() for name in chosen.split(",") if name.strip()))

    # What there is

    @cached_property
    def built_in(self) -> tuple[Plugin, ...]:
        """The default plugins. Importing one imports nothing heavy."""
        from icclip import __version__

        return tuple(load_built_in(module, __version__) for module in self.default_plugins)

    @cached_property
    def third_party(self) -> tuple[Plugin, ...]:
        """Every selected entry point, loaded or failed, in the order of their names."""
        return tuple(sorted(self._load_third_party(), key=lambda plugin: (plugin.name, plugin.origin)))

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """All plugins."""
        return self.built_in + self.third_party

    def tiers(self) -> Iterator[tuple[Plugin, ...]]:
        """The default plugins, then the others, which are only loaded when they are needed."""
        yield self.built_in
        yield self.third_party

    def failures(self) -> str:
        """One line that names the plugins that failed to load; empty if none did."""
        failed = [plugin.owner for plugin in self.plugins if plugin.errors]
        return f"failed to load: {', '.join(failed)} (see: icclip plugins list)" if failed else ""

    # Looking up

    def backend(self, name: str) -> BackendSpec:
        """The backend called `name`. Raises UnknownNameError, PluginError, MissingExtraError."""
        return self._find(BackendSpec, name)

    def backend_for(self, model_type: str, source: str) -> BackendSpec:
        """The backend that serves a checkpoint's `config.model_type`; `source` is for the message.

        Raises:
            UnknownNameError, PluginError, MissingExtraError.
        """
        found = self._only("backend for the model type", model_type, _serving(model_type))
        if found is None:
            known = {t for s in _specs(self.plugins, BackendSpec) for t in s.model_types}
            raise UnknownNameError("model type", model_type, known, _joined(f"in {source}", self.failures()))
        return _usable(found, "backend")

    def dataset(self, name: str) -> DatasetSpec:
        """The dataset called `name`. Raises UnknownNameError, PluginError, MissingExtraError."""
        return self._find(DatasetSpec, name)

    def dataset_for_path(self, path: Path) -> DatasetSpec | None:
        """The first dataset that recognises a bare path, or None.

        Raises:
            PluginError: no dataset recognises it, and a plugin failed when asked.
            MissingExtraError: the dataset that recognises it lacks a dependency.
        """
        errors: list[str] = []
        for plugin, spec in self._each(DatasetSpec):
            if _recognises(plugin, spec, path, errors):
                return _usable(spec, "dataset")
        if errors:
            raise PluginError("; ".join(errors))
        return None

    def metric(self, name: str) -> MetricSpec:
        """The metric called `name`. Raises UnknownNameError, PluginError, MissingExtraError."""
        return self._find(MetricSpec, name)

    def default_metrics(self) -> tuple[MetricSpec, ...]:
        """The metrics that every evaluation reports."""
        return tuple(_specs(self.built_in, MetricSpec))

    def export_target(self, name: str) -> ExportTargetSpec:
        """The target called `name`. Raises UnknownNameError, PluginError, MissingExtraError."""
        return self._find(ExportTargetSpec, name)

    def index_target(self, name: str) -> IndexTargetSpec:
        """The vector database called `name`. Raises UnknownNameError, PluginError, MissingExtraError."""
        return self._find(IndexTargetSpec, name)

    def target_of(self, path: Path, warn: Callable[[str], None]) -> ExportTargetSpec | None:
        """The export target that wrote what is at `path`: the first that recognises it, or None.

        A target that fails when it is asked is skipped, with a message to `warn`.
        """
        # No plugin has to be loaded for a hub id, or for a path that does not exist.
        if not path.exists():
            return None
        errors: list[str] = []
        for plugin, spec in self._each(ExportTargetSpec):
            if _recognises(plugin, spec, path, errors):
                return spec
        for error in errors:
            warn(error)
        return None

    def preset(self, name: str) -> tuple[BackendSpec, Preset] | None:
        """A from-scratch preset and its backend, or None if no backend has a preset of that name."""
        found = self._only("preset", name, _presets_called(name))
        return None if found is None else (_usable(found[0], "backend"), found[1])

    def names(self, spec_type: type[Any]) -> list[str]:
        """All names of one kind, for messages and listings."""
        return [spec.name for spec in _specs(self.plugins, spec_type)]

    def preset_names(self) -> list[str]:
        """All from-scratch presets."""
        return [preset.name for spec in _specs(self.plugins, BackendSpec) for preset in spec.presets]

    def listing(self, own_commands: Collection[str] = ()) -> list[Listing]:
        """A row for everything on offer and every failure, default plugins first.

        Args:
            own_commands: names of our own subcommands, which no plugin can take.
        """
        found = [(plugin, *offer) for plugin in self.plugins for offer in offers(plugin)]
        owners: dict[tuple[str, str], list[str]] = {}
        for command in own_commands:
            owners["command", command] = [f"icclip ({BUILT_IN})"]
        for plugin, kind, name, _, _ in found:
            owners.setdefault((kind, name), []).append(plugin.owner)
        rows = [
            Listing(name, kind, plugin.version, plugin.origin, *_status(plugin, owners[kind, name], spec), summary)
            for plugin, kind, name, summary, spec in found
        ]
        return rows + [
            Listing(plugin.name, "plugin", plugin.version, plugin.origin, "failed", error)
            for plugin in self.plugins
            for error in plugin.errors
        ]

    # How

    def _load_third_party(self) -> Iterator[Plugin]:
        if self.load_plugins is not None and not self.load_plugins:
            return
        missing = set(self.load_plugins or ())
        for name, origin, load in installed_plugins():
            if self.load_plugins is None or self.load_plugins & {name, origin}:
                missing -= {name, origin}
                yield load()
        for name in missing:
            yield Plugin(name, "unknown", "", errors=(f"{LOAD_PLUGINS_VARIABLE} names it, but it is not installed",))

    def _each(self, spec_type: type[S]) -> Iterator[tuple[Plugin, S]]:
        """Every spec of a kind with its plugin; third-party plugins are only loaded after the defaults."""
        for plugins in self.tiers():
            yield from ((plugin, spec) for plugin in plugins for spec in _specs([plugin], spec_type))

    def _find(self, spec_type: type[S], name: str) -> S:
        kind, _ = KINDS[spec_type]
        found = self._only(kind, name, lambda plugin: [s for s in _specs([plugin], spec_type) if s.name == name])
        if found is None:
            raise UnknownNameError(kind, name, self.names(spec_type), self.failures())
        return _usable(found, kind)

    def _only(self, kind: str, name: str, offered: Callable[[Plugin], Iterable[T]]) -> T | None:
        """What the default plugins offer, or else what one third party offers. Raises PluginError if two offer it."""
        for plugins in self.tiers():
            found = [(plugin, offer) for plugin in plugins for offer in offered(plugin)]
            if len(found) > 1:
                owners = " and ".join(plugin.owner for plugin, _ in found)
                raise PluginError(f"{kind} {name!r} is provided by {owners}; {_CHOOSE}")
            if found:
                return found[0][1]
        return None


_CHOOSE = f"choose one with {LOAD_PLUGINS_VARIABLE}=NAME"


# Reading plugins --------------------------------------------------------------------------------


def _specs(plugins: Iterable[Plugin], spec_type: type[S]) -> Iterator[S]:
    for plugin in plugins:
        for spec in plugin.specs:
            if isinstance(spec, spec_type):
                yield spec


def _serving(model_type: str) -> Callable[[Plugin], list[BackendSpec]]:
    return lambda plugin: [s for s in _specs([plugin], BackendSpec) if model_type in s.model_types]


def _presets_called(name: str) -> Callable[[Plugin], list[tuple[BackendSpec, Preset]]]:
    return lambda plugin: [(s, p) for s in _specs([plugin], BackendSpec) for p in s.presets if p.name == name]


def _recognises(plugin: Plugin, spec: DatasetSpec | ExportTargetSpec, path: Path, errors: list[str]) -> bool:
    if spec.recognises is None:
        return False
    try:
        return bool(spec.recognises(path))
    except (Exception, SystemExit) as error:
        # A bug in icclip keeps its traceback.
        if plugin.origin == BUILT_IN:
            raise
        kind, _ = KINDS[type(spec)]
        errors.append(f"plugin {plugin.owner}: {kind} {spec.name!r} failed while checking {path}: {describe(error)}")
        return False


def offers(plugin: Plugin) -> Iterator[tuple[str, str, str, Spec | None]]:
    """The kind, name and summary of each offer and, if there is one, the spec that names its requirements."""
    for spec in plugin.specs:
        yield KINDS[type(spec)][0], spec.name, spec.summary, spec
        for preset in spec.presets if isinstance(spec, BackendSpec) else ():
            yield "preset", preset.name, preset.summary, spec
    for name, command in plugin.commands.items():
        yield "command", name, (command.get_short_help_str() or ""), None


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def missing_requirements(spec: Spec) -> list[str]:
    """The required modules that are not installed; nothing is imported to find out."""
    return [name for name in spec.requires if not _installed(name)]


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    # The parent package is missing, or the module hides its spec.
    except (ImportError, ValueError):
        return False


def _usable(spec: S, kind: str) -> S:
    missing = missing_requirements(spec)
    if missing:
        raise MissingExtraError(f"{kind} {spec.name!r}", missing, spec.install)
    return spec


def _status(plugin: Plugin, owners: Sequence[str], spec: Spec | None) -> tuple[str, str]:
    """Whether one offer can be used, and if not, why. `owners` holds everyone who offers that name."""
    others = [owner for owner in owners if owner != plugin.owner]
    if others and plugin.origin != BUILT_IN:
        taken = [owner for owner in others if owner.endswith(f"({BUILT_IN})")]
        if taken:
            return "duplicate", f"the name is already taken by {taken[0]}"
        return "duplicate", f"also provided by {' and '.join(others)}; {_CHOOSE}"
    missing = missing_requirements(spec) if spec else []
    if missing and spec:
        return "missing extra", f"needs {', '.join(missing)}: {spec.install}"
    return "ok", ""
