"""Every flag that a message names exists in the commands that can raise it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from icclip.reference import commands, options_of

ROOT = Path(__file__).parents[2]
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")

INDEXING = ("index build", "index add")
ENCODING = ("eval", "embed", "export", "blend")
READING = ("train", *ENCODING, "verify")
WHO_REACHES = {
    "icclip/training": ("train",),
    "icclip/config/training.py": ("train",),
    "icclip/config/gentle.py": ("train",),
    "icclip/config/model.py": ("train",),
    "icclip/config/assembling.py": ("assemble",),
    "icclip/config/blending.py": ("blend",),
    "icclip/config/comparing.py": ("compare",),
    "icclip/comparing": ("compare",),
    "icclip/config/embedding.py": ("embed",),
    "icclip/config/searching.py": ("search",),
    "icclip/config/evaluating.py": ("eval",),
    "icclip/config/exporting.py": ("export",),
    "icclip/config/verifying.py": ("verify",),
    "icclip/config/encoder.py": ENCODING,
    "icclip/config/data.py": READING,
    "icclip/config/presenting.py": ("report", "plot"),
    # It repeats the command that trained the run.
    "icclip/presenting/gather.py": ("train",),
    "icclip/presenting": ("report",),
    "icclip/config/publishing.py": ("push",),
    "icclip/publishing": ("push",),
    "icclip/runs/starting.py": ("train",),
    "icclip/runs/results.py": ("eval",),
    "icclip/assembling": ("assemble",),
    "icclip/blending": ("blend",),
    "icclip/embedding": ("embed",),
    "icclip/exporting": ("export",),
    "icclip/verifying": ("verify",),
    "icclip/searching": INDEXING,
    "icclip/searching/opening.py": ("index add", "search"),
    "icclip/config/serving.py": ("serve",),
    "icclip/serving": ("serve",),
    "icclip/searching/query.py": ("search",),
    "icclip/searching/choice.py": ("index build",),
    "icclip/searching/targets.py": ("index build",),
    "icclip/searching/build.py": ("index build",),
    "icclip/searching/on_disk.py": ("index build",),
    "icclip/evaluating": ("eval", "export", "blend"),
    "icclip/zero_shot": ("eval",),
    "icclip/encoders.py": ("eval", "embed"),
    "icclip/models": ("train", *ENCODING),
    "icclip/data": READING,
    "icclip/bundles": ("eval", "embed", "verify", "export"),
    "icclip/runtime": ("eval", "embed", "verify", "export"),
    "export/icclip_export": ("export",),
    "plugins/icclip_plugins/datasets": READING,
    "plugins/icclip_plugins/backends": ("train", *ENCODING),
}
"""Module or package -> the commands that can raise what it raises; the longest path that fits counts."""
ONE_COMMAND_ONLY = {
    "--max-steps": "train",  # about streaming data, which only `train` reads
    "--streaming": "train",
    "--image-resize": "train",  # which alone can ask for another size
    "--model": "train",  # the message says to give `icclip train --model`
    "--resume": "train",  # the message speaks of the command that trained the run
}
"""Flags that shared modules name in messages which only one command can raise."""
OF_OTHERS = {
    "--nproc-per-node", "--multi_gpu", "--logdir", "--upgrade", "--help", "--version", "--nnodes", "--node_rank",
    "--nproc_per_node", "--master_addr", "--master_port", "--standalone", "--train",
}  # fmt: skip
"""Flags of other programs, and those of `icclip` itself."""


def literals(tree: ast.AST) -> Iterator[str]:
    """The text of every string that is not a docstring."""
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def reached_by(path: str) -> tuple[str, ...]:
    fitting = [place for place in WHO_REACHES if path == place or path.startswith(f"{place}/")]
    return WHO_REACHES[max(fitting, key=len)] if fitting else ()


def named() -> list[tuple[str, str]]:
    """(file, flag) for every flag in a message."""
    found = set()
    for root in ("icclip", "plugins/icclip_plugins", "export/icclip_export"):
        for path in sorted((ROOT / root).rglob("*.py")):
            texts = literals(ast.parse(path.read_text(encoding="utf-8")))
            found |= {(str(path.relative_to(ROOT)), flag) for text in texts for flag in FLAG.findall(text)}
    return sorted(found - {pair for pair in found if pair[1] in OF_OTHERS})


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    return {name: {flag for row in options_of(name) for flag in row.flags} for name in commands()}


def missing(path: str, flag: str, flags: dict[str, set[str]]) -> list[str]:
    """The commands that can raise a message of this file and do not have this flag."""
    who = reached_by(path)
    if not who:
        return [] if any(flag in own for own in flags.values()) else ["icclip"]
    if flag in ONE_COMMAND_ONLY and ONE_COMMAND_ONLY[flag] in who:
        who = (ONE_COMMAND_ONLY[flag],)
    return [name for name in who if flag not in flags[name]]


def test_every_flag_in_a_message_exists_where_it_can_be_raised(flags):
    found = named()
    assert len(found) > 50
    wrong = [
        f"{path} names {flag}, which {who} does not have" for path, flag in found for who in missing(path, flag, flags)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "flag", "who"),
    [
        ("icclip/embedding/run.py", "--epochs", ["embed"]),
        ("icclip/data/loading.py", "--image-column", []),
        ("icclip/data/loading.py", "--no-such-flag", list(READING)),
        ("icclip/console.py", "--no-such-flag", ["icclip"]),
    ],
)
def test_the_check_finds_a_flag_that_is_not_there(flags, path, flag, who):
    assert missing(path, flag, flags) == who
