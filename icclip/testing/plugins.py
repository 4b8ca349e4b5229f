"""The checks of a whole plugin: its import, its hooks, and everything it offers."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from icclip.errors import UnknownNameError
from icclip.plugins.loading import Plugin, load_plugin
from icclip.plugins.registry import Registry, offers
from icclip.plugins.specs import NAME
from icclip.testing.record import Check, Recorder, SkippedError, no_problems, passed
from icclip.testing.specs import spec_checks

HEAVY = (
    "accelerate",
    "datasets",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "optimum",
    "pandas",
    "pyarrow",
    "torch",
    "transformers",
)
"""Modules that a plugin must not import at its top, because every command would take longer."""


def check_plugin(module: ModuleType | str) -> tuple[Check, ...]:
    """Check everything about a plugin: its import, its hooks, and each spec and command that they return.

    Raises:
        ConformanceError: one or more checks failed; the message names each of them.
    """
    name = module if isinstance(module, str) else module.__name__
    return passed(_plugin_checks(load_plugin(name, "this test", "", lambda: importlib.import_module(name), name)))


def check_by_name(registry: Registry, name: str, path: Path | None = None) -> tuple[Check, ...]:
    """Check a plugin, or whatever plugins offer under `name`; failures are returned, not raised.

    Args:
        registry: knows the plugins.
        name: the name of a plugin, a distribution, a spec, a preset or a command.
        path: the path that datasets and backends are asked to load.

    Raises:
        UnknownNameError: nothing has this name.
    """
    found = [p for p in registry.plugins if name in _names(p)]
    if not found:
        known = {known for plugin in registry.plugins for known in _names(plugin)}
        raise UnknownNameError("plugin", name, known, registry.failures())
    return tuple(
        check
        for plugin in found
        for check in _plugin_checks(plugin, path, None if name in (plugin.name, plugin.origin) else name)
    )


def _names(plugin: Plugin) -> set[str]:
    return {plugin.name, plugin.origin, *(name for _, name, _, _ in offers(plugin))}


def _plugin_checks(plugin: Plugin, path: Path | None = None, only: str | None = None) -> list[Check]:
    """All checks of a plugin, or those of the specs and commands that offer the name `only`."""
    recorder = Recorder(plugin.name)
    recorder.run("loads and its hooks return specs", no_problems, plugin.errors)
    recorder.run("imports nothing heavy", _import_light, plugin.module)
    for name, command in plugin.commands.items():
        if only in (None, name):
            _command_checks(Recorder(name, recorder.checks), command)
    wanted = [s for _, name, _, s in offers(plugin) if s is not None and only in (None, name)]
    # A backend is listed once for itself and once for each of its presets.
    for spec in {id(spec): spec for spec in wanted}.values():
        recorder.checks += spec_checks(spec, path)
    return recorder.checks


def _command_checks(recorder: Recorder, command: Any) -> None:
    recorder.run(
        "name",
        lambda: no_problems([] if NAME.fullmatch(recorder.subject) else ["use letters, digits, '.', '_' and '-'"]),
    )
    recorder.run("help", no_problems, [] if command.help else ["the function has no docstring"])


def _import_light(module: str) -> None:
    """Import the plugin in a fresh interpreter and check which modules came with it."""
    if not module:
        raise SkippedError("it is not a module")
    code = (
        f"import sys, importlib; importlib.import_module({module!r}); print(*sorted({set(HEAVY)} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(  # noqa: S603 - our own interpreter, the name of an installed module
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    last = (done.stderr.strip() or "no output").splitlines()[-1]
    no_problems([f"importing {module} in a fresh Python fails: {last}"] if done.returncode else [])
    heavy = done.stdout.split()
    no_problems([f"importing {module} imports {', '.join(heavy)}: import it inside functions"] if heavy else [])
