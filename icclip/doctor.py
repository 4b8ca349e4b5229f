"""Check this installation: versions, providers, hardware, caches, the hub and plugins.

The status of a finding is `ok`; `absent` if something optional is missing; `warning` if something works less well
than it could; or `broken` if a command will fail. Only `broken` makes `icclip doctor` fail.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icclip import __version__
from icclip.caches import cache_directory, tree_size
from icclip.errors import IcclipError, MissingExtraError, UsageError
from icclip.plugins.loading import BUILT_IN, Plugin, describe
from icclip.plugins.registry import Registry
from icclip.plugins.specs import ExportTargetSpec
from icclip.runtime.cpu import integer_kind
from icclip.runtime.providers import INSTALL, PROVIDERS, choose_provider, clashing_runtimes, import_onnxruntime

if TYPE_CHECKING:
    from rich.console import RenderableType

Status = Literal["ok", "absent", "warning", "broken"]

BASE = ("numpy", "pillow", "pluggy", "rich", "tokenizers", "typer", "huggingface-hub")
"""Distributions that icclip cannot start without."""
OPTIONAL: Mapping[str, str] = {
    "torch": "train", "transformers": "train", "datasets": "train", "accelerate": "train", "safetensors": "train",
    "peft": "lora", "onnxruntime": "onnx", "onnx": "export", "onnxscript": "export",
    "optimum-onnx": "export-optimum",
}  # fmt: skip
"""Distribution -> the extra that brings it."""
HUB_TIMEOUT = 3.0
"""Seconds to wait for the hub; otherwise a machine behind a firewall would wait for minutes."""
GIB = 2**30

Open = Callable[[urllib.request.Request, float], Any]
"""The function that asks the hub; tests replace it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked."""

    area: str
    name: str
    status: Status
    detail: str

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All findings, in the order in which one thing depends on another."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The findings that make a command fail."""
        return tuple(finding for finding in self.findings if finding.status == "broken")

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": not self.broken, "findings": [finding.to_mapping() for finding in self.findings]}

    def renderables(self) -> Iterable[RenderableType]:
        """One table, with a row for each finding."""
        from icclip.report.doctor import diagnosis_table

        return [diagnosis_table(self)]

    def verdict(self) -> None:
        """Raise UsageError if anything is broken; the table has already said what, and how to fix it."""
        if self.broken:
            names = ", ".join(f"{finding.area} {finding.name}" for finding in self.broken)
            raise UsageError(f"something is broken: {names}; the table above says why and how to fix it")


def diagnose(registry: Registry) -> Diagnosis:
    """Check the whole installation. Nothing is changed or downloaded.

    Args:
        registry: knows the plugins, including those that failed.
    """
    looks = (versions, providers, lambda: targets(registry), gpus, caches, hub, lambda: plugins(registry))
    return Diagnosis(findings=tuple(finding for look in looks for finding in look()))


# Versions -----------------------------------------------------------------------------------------


def versions() -> Iterator[Finding]:
    """Check Python, icclip and the packages it builds on, without importing them."""
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding(area="versions", name="python", status="ok", detail=system)
    yield Finding(area="versions", name="icclip", status="ok", detail=__version__)
    gpu_build = ("onnxruntime-gpu",) if _version("onnxruntime-gpu") else ()
    for name in (*BASE, *OPTIONAL, *gpu_build):
        found = _version(name)
        if found is None and name == "onnxruntime" and gpu_build:
            continue
        yield Finding(area="versions", name=name, status=_presence(name, found), detail=found or _how_to_get(name))
    if clash := clashing_runtimes():
        yield Finding(area="versions", name="onnxruntime packages", status="broken", detail=clash)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _presence(name: str, version: str | None) -> Status:
    if version is not None:
        return "ok"
    return "broken" if name in BASE else "absent"


def _how_to_get(name: str) -> str:
    extra = OPTIONAL.get(name)
    return f"not installed: pip install '{f'icclip[{extra}]' if extra else name}'"


# What runs a bundle, and what trains -----------------------------------------------------------------


def providers() -> Iterator[Finding]:
    """Check whether each execution provider of onnxruntime really runs a graph here, and if not, why."""
    try:
        built_in = import_onnxruntime().get_available_providers()
    except IcclipError as error:
        missing = _version("onnxruntime") is None and _version("onnxruntime-gpu") is None
        yield Finding(area="providers", name="onnxruntime", status="absent" if missing else "broken", detail=str(error))
        return
    for name, theirs in PROVIDERS.items():
        try:
            choose_provider(name)
        except UsageError as error:
            status: Status = "broken" if name == "cpu" else "warning" if theirs in built_in else "absent"
            yield Finding(area="providers", name=name, status=status, detail=_reason(str(error), INSTALL[name]))
        else:
            kind = f"; products of integers: {integer_kind()}" if name == "cpu" else ""
            yield Finding(area="providers", name=name, status="ok", detail=f"ran a test graph{kind}")


def _reason(message: str, install: str) -> str:
    """The reason in the brackets of a provider's message, with the command that installs the provider."""
    inner = message.partition("(")[2].rpartition(")")[0].partition(": ")[2]
    return f"{inner or message}: {install}"


def targets(registry: Registry) -> Iterator[Finding]:
    """Check what runs the bundles of those export targets that say it."""
    for plugin in registry.plugins:
        for spec in plugin.specs:
            if isinstance(spec, ExportTargetSpec) and spec.about is not None:
                status, detail = _about(plugin, spec.about)
                yield Finding(area="targets", name=spec.name, status=status, detail=detail)


def _about(plugin: Plugin, about: Callable[[], str]) -> tuple[Status, str]:
    try:
        return "ok", about()
    except MissingExtraError as error:
        return "absent", f"not installed: {error.install}"
    except UsageError as error:
        return "warning", str(error)
    except (Exception, SystemExit) as error:
        # A bug in icclip keeps its traceback.
        if plugin.origin == BUILT_IN:
            raise
        return "broken", f"plugin {plugin.owner}: {describe(error)}"


def gpus() -> Iterator[Finding]:
    """Check the devices that torch would train on."""
    if _version("torch") is None:
        yield Finding(area="GPU", name="torch", status="absent", detail=_how_to_get("torch"))
        return
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(
            area="GPU", name="torch", status="broken", detail=f"torch cannot be imported: {error}; reinstall it"
        )
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield Finding(
            area="GPU", name=f"cuda:{index}", status="ok", detail=f"{about.name}, {about.total_memory / GIB:.0f} GiB"
        )
    if torch.backends.mps.is_available():
        yield Finding(area="GPU", name="mps", status="ok", detail="Apple's GPU")
    elif not torch.cuda.is_available():
        yield _no_gpu(torch.__version__, cuda_build=torch.version.cuda is not None)


def _no_gpu(version: str, *, cuda_build: bool) -> Finding:
    if not Path("/dev/nvidia0").exists():
        return Finding(
            area="GPU", name="none", status="absent", detail="torch sees no GPU: training and eval run on the CPU"
        )
    why = "its driver does not answer" if cuda_build else f"torch {version} was built without CUDA"
    return Finding(
        area="GPU", name="none", status="warning", detail=f"there is an NVIDIA GPU, but {why}; see pytorch.org"
    )


# Directories ---------------------------------------------------------------------------------------------


def caches() -> Iterator[Finding]:
    """Check the directories of images, models and datasets, and their sizes."""
    from huggingface_hub import constants

    datasets = os.environ.get("HF_DATASETS_CACHE") or str(Path(constants.HF_HOME) / "datasets")
    directories = {"images": cache_directory(), "hub": Path(constants.HF_HUB_CACHE), "datasets": Path(datasets)}
    for name, path in directories.items():
        yield _directory(name, path)


def _directory(name: str, path: Path) -> Finding:
    if not path.exists():
        return Finding(area="caches", name=name, status="ok", detail=f"{path}: nothing cached yet")
    size = f"{path}: {tree_size(path) / GIB:.2f} GiB"
    if not os.access(path, os.W_OK):
        return Finding(area="caches", name=name, status="warning", detail=f"{size}, but it cannot be written to")
    return Finding(area="caches", name=name, status="ok", detail=size)


def hub(ask: Open | None = None) -> Iterator[Finding]:
    """Check whether models and datasets can be downloaded."""
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        offline = "offline because HF_HUB_OFFLINE is set: only cached models and datasets can be opened"
        yield Finding(area="hub", name=endpoint, status="ok", detail=offline)
        return
    try:
        (ask or _ask)(urllib.request.Request(endpoint, method="HEAD"), HUB_TIMEOUT)  # noqa: S310  the user's own hub
    except urllib.error.HTTPError as error:
        yield Finding(area="hub", name=endpoint, status="ok", detail=f"reachable (it answered {error.code})")
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        detail = f"not reachable ({why}): give local paths, or set HF_HUB_OFFLINE=1 to use what is cached"
        yield Finding(area="hub", name=endpoint, status="warning", detail=detail)
    else:
        yield Finding(area="hub", name=endpoint, status="ok", detail="reachable")


def _ask(request: urllib.request.Request, timeout: float) -> None:
    with urllib.request.urlopen(request, timeout=timeout):  # noqa: S310  as above
        pass


# Plugins --------------------------------------------------------------------------------------------


def plugins(registry: Registry) -> Iterator[Finding]:
    """Check third-party plugins, and give each reason why one does not work."""
    for plugin in registry.third_party:
        for error in plugin.errors:
            yield Finding(area="plugins", name=plugin.owner, status="broken", detail=error)
        if not plugin.errors:
            yield Finding(area="plugins", name=plugin.owner, status="ok", detail=plugin.version)
    for row in registry.listing():
        if row.status == "duplicate":
            detail = f"{row.kind}: {row.reason}"
            yield Finding(area="plugins", name=row.name, status="broken", detail=detail)
