"""Development tasks: `python -m nox -s NAME`, each in an environment of its own. See CONTRIBUTING.md.

Dependencies come from pyproject.toml, exact versions from constraints.txt.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests"]

HERE = Path(__file__).parent
PYPROJECT = nox.project.load_toml(HERE / "pyproject.toml")
CONSTRAINTS = HERE / "constraints.txt"
TOP_LEVEL = {"icclip", "icclip_plugins", "icclip_export"}
# mkdocs-material advertises its successor.
QUIET = {"NO_MKDOCS_2_WARNING": "1"}
SOURCE_ROOTS = (".", "plugins", "export")
TESTED = ".[export-optimum,lora,search,serve,lancedb,plot,openvino]"  # export-optimum includes export, train and onnx
TRANSFORMERS_FAMILY = {"transformers", "huggingface-hub", "tokenizers"}


@nox.session
def quickstart(session: nox.Session) -> None:
    """Train, evaluate, picture and export on the embedded dataset: the whole job in a few minutes."""
    _install(session, "-e", ".[export]")
    session.run("icclip", "quickstart", "--overwrite", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, with coverage, in two processes. Arguments after `--` go to pytest, which then runs in one."""
    _install(session, "-e", TESTED, *_group("test"))
    # A file stays in one process: its fixtures train models, and are made once.
    chosen = session.posargs or ["-n", "2", "--dist", "loadfile"]
    # Each process of two has one core; torch would start as many threads as there are cores in both.
    threads = {} if session.posargs else {"OMP_NUM_THREADS": "1"}
    session.run("pytest", "--cov", "--cov-report=term:skip-covered", *chosen, env=threads)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff, and the directions of imports with import-linter."""
    _install(session, *_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    # The sources are read, not imported: nothing of ours has to be installed.
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": os.pathsep.join(SOURCE_ROOTS)})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation's site into dist/site; a link or an anchor that leads nowhere is an error."""
    _install(session, "-e", ".", *_group("docs"))
    session.run("mkdocs", "build", "--strict", "--config-file", "docs/mkdocs.yml", *session.posargs, env=QUIET)


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, strictly."""
    _install(session, "-e", TESTED, *_group("lint"), "nox")
    session.run("mypy")


@nox.session
def transformers5(session: nox.Session) -> None:
    """Run the tests on the newest transformers 5, where torch exports."""
    constraints = _constraints_without(session, TRANSFORMERS_FAMILY)
    session.install("-c", constraints, "-e", ".[export,lora]", "transformers>=5,<6", *_group("test"))
    session.run("python", "-c", "import transformers; print('transformers', transformers.__version__)")
    session.run("pytest", *(session.posargs or ["tests"]))


@nox.session
def minimums(session: nox.Session) -> None:
    """Run the tests on the lowest versions that pyproject.toml allows of what it names.

    torch stays at the version of constraints.txt unless ICCLIP_MINIMUM_TORCH says otherwise: the
    oldest one that is allowed comes only with gigabytes of CUDA libraries from the usual index.
    """
    torch = os.environ.get("ICCLIP_MINIMUM_TORCH", _pinned("torch"))
    lowest = _write(session, "minimums.txt", [*map(_lowest, _direct_dependencies()), f"torch=={torch}"])
    session.install("-c", lowest, "-e", TESTED, *_group("test"))
    session.run("pip", "list")
    session.run("pytest", *(session.posargs or ["tests"]))


@nox.session
def wheel(session: nox.Session) -> None:
    """Build, look inside, and use the wheel with nothing but the base dependencies."""
    _install(session, "build")
    dist = Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--outdir", str(dist), ".")
    built = max(dist.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    found = {name.split("/")[0] for name in zipfile.ZipFile(built).namelist()}
    if {name for name in found if not name.endswith(".dist-info")} != TOP_LEVEL:
        session.error(f"the wheel's top level is {sorted(found)}: expected {sorted(TOP_LEVEL)}")
    session.run("python", "-m", "pip", "uninstall", "--yes", "--quiet", "icclip")
    _install(session, str(built))
    # Elsewhere, so that the sources here cannot stand in for something the wheel forgot.
    session.chdir(session.create_tmp())
    session.run("icclip", "--help")
    _check_listing(session)


@nox.session
def gpu(session: nox.Session) -> None:
    """Run the tests that need a CUDA device, with the torch that the machine offers."""
    session.install("-e", TESTED, *_group("test"))
    session.run("pytest", "-m", "gpu", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run one benchmark, e.g. `nox -s bench -- startup`; its result is written beside the script."""
    known = sorted(path.stem for path in Path("benchmarks").glob("*.py"))
    if not session.posargs or session.posargs[0] not in known:
        session.error(f"which one: {', '.join(known)}?")
    _install(session, "-e", TESTED, *_group("bench"))
    session.run("python", "-m", f"benchmarks.{session.posargs[0]}", *session.posargs[1:])


def _install(session: nox.Session, *what: str) -> None:
    session.install("-c", str(CONSTRAINTS), *what)


def _group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


def _check_listing(session: nox.Session) -> None:
    """With the base dependencies alone every backend must say what it lacks, and how to get it."""
    listing = session.run("icclip", "plugins", "list", "--json", silent=True)
    session.log(listing)
    backends = [row for row in json.loads(str(listing))["plugins"] if row["kind"] == "backend"]
    if not backends or any(
        row["status"] != "missing extra" or "pip install 'icclip[train]'" not in row["reason"] for row in backends
    ):
        session.error("a backend does not say: missing extra, pip install 'icclip[train]'")


def _constraints_without(session: nox.Session, names: set[str]) -> str:
    return _write(session, "constraints.txt", _filtered(lambda name: name not in names))


def _pinned(name: str) -> str:
    (line,) = _filtered(lambda found: found == name)
    return line.split("==")[1]


def _filtered(wanted: Callable[[str], bool]) -> list[str]:
    """The lines of constraints.txt whose normalised name is wanted."""
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    return [line for line in lines if wanted(line.split("==")[0].lower().replace("_", "-"))]


def _direct_dependencies() -> Iterable[str]:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    named = [
        *project["dependencies"],
        *(one for extra in ("train", "onnx", "export", "export-optimum", "lora") for one in extras[extra]),
    ]
    return [one for one in named if not re.match(r"(torch\b|icclip\[)", one)]


def _lowest(requirement: str) -> str:
    """`name>=1.2,<2` -> `name==1.2`."""
    return re.sub(r">=([^,]+).*", r"==\1", requirement)


def _write(session: nox.Session, name: str, lines: Iterable[str]) -> str:
    path = Path(session.create_tmp()) / name
    path.write_text("\n".join(lines) + "\n")
    return str(path)
