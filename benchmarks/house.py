"""Measure the shape of the code: function lengths and parameters, imports that point upwards, and circles.

    python -m benchmarks.house              # measures this checkout
    python -m benchmarks.house DIRECTORY    # measures an earlier checkout to compare with, as "before"

The result is house.json beside this script.

Only the three shipped packages count. An import that only a type checker reads does not.
"""

from __future__ import annotations

import ast
import json
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).with_suffix(".json")
SOURCE_ROOTS = ("", "plugins", "export")
PACKAGES = ("icclip", "icclip_plugins", "icclip_export")
MOST_PARAMETERS = 12

Edges = Mapping[str, set[str]]


def main() -> None:
    """Measure, print, and write the result."""
    earlier = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    found = {"now": measure(ROOT)} if earlier is None else {"before": measure(earlier)}
    print(json.dumps(found, indent=2))
    RESULT.write_text(json.dumps({**known, **found}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def measure(root: Path) -> dict[str, Any]:
    """Every number of a checkout."""
    trees = dict(sources(root))
    functions = [one for name, tree in trees.items() for one in functions_of(name, tree)]
    edges = imports(trees)
    return {
        "files": len(trees),
        **lengths(functions),
        "functions_with_more_than_12_parameters": [one.name for one in functions if one.parameters > MOST_PARAMETERS],
        # Without a contract there is no up and down.
        "upward_imports": upward(edges, rooms) if (rooms := layers(root)) else None,
        "circles_of_rooms": circles(between_rooms(edges)),
        "circles_of_files": circles(edges),
    }


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Module name -> its syntax tree."""
    for folder in SOURCE_ROOTS:
        for package in PACKAGES:
            for path in sorted((root / folder / package).rglob("*.py")):
                parts = path.relative_to(root / folder).with_suffix("").parts
                yield ".".join(parts).removesuffix(".__init__"), ast.parse(path.read_text(encoding="utf-8"))


# Functions ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """One function or method."""

    name: str
    lines: int
    """Without its decorators."""
    parameters: int
    """Without self and cls."""


def functions_of(module: str, tree: ast.AST) -> Iterator[Function]:
    """Every function of a module, inner ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            own = [one for one in every if one.arg not in ("self", "cls")]
            yield Function(f"{module}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1, len(own))


def lengths(functions: Sequence[Function]) -> dict[str, Any]:
    """How long functions are, in lines."""
    lines = sorted(one.lines for one in functions)
    return {
        "functions": len(lines),
        "median_lines": statistics.median(lines),
        "p90_lines": lines[int(0.9 * len(lines))],
        "longest_lines": lines[-1],
    }


# Imports --------------------------------------------------------------------------------------------


def imports(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, at its top or inside a function."""
    found: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in running(tree):
            found[name].update(target for target in targets(node, trees) if target != name)
    # The package's front door imports what it offers when it is called.
    found["icclip"] = set()
    return found


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that a running program may reach."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from running(child)


def targets(node: ast.AST, trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in trees)
    elif isinstance(node, ast.ImportFrom) and node.module in trees:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in trees else str(node.module)


def layers(root: Path) -> list[set[str]]:
    """The rooms of `icclip`, highest first, as the import contract has them; none for an older checkout."""
    tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
    contracts = tools.get("importlinter", {}).get("contracts", [])
    (found,) = [one["layers"] for one in contracts if one["id"] == "directions"] or [[]]
    return [set(layer.split(" | ")) for layer in found]


def upward(edges: Edges, rooms: Sequence[set[str]]) -> list[str]:
    """Imports of `icclip` from a room of a higher row, or from another room of the same row."""
    row = {room: number for number, layer in enumerate(rooms) for room in layer}
    found = []
    for source, target in ((one, other) for one, others in edges.items() for other in others):
        here, there = room_of(source), room_of(target)
        if here != there and here in row and there in row and row[there] <= row[here]:
            found.append(f"{source} -> {target}")
    return sorted(found)


def room_of(module: str) -> str:
    """`training` for `icclip.training.step.losses`; the whole name for other packages."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "icclip" else module


def between_rooms(edges: Edges) -> dict[str, set[str]]:
    """The imports of `icclip`, from room to room."""
    found: dict[str, set[str]] = {}
    for source, others in edges.items():
        if source.startswith("icclip."):
            inside = {room_of(one) for one in others if one.startswith("icclip.")}
            found.setdefault(room_of(source), set()).update(inside - {room_of(source)})
    return found


def circles(edges: Edges) -> list[list[str]]:
    """Groups whose members reach each other (strongly connected components of more than one)."""
    reached = {name: reachable(edges, name) for name in edges}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached.get(other, ())))
        for name in edges
        if name in reached[name]
    }
    return sorted(map(list, groups))


def reachable(edges: Edges, start: str) -> set[str]:
    """Everything that `start` imports, directly or not."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


if __name__ == "__main__":
    main()
