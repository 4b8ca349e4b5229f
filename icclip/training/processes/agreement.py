"""Check that the processes of a run were given the same things, before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from icclip.config import TrainConfig
from icclip.data.gallery import Gallery
from icclip.errors import DisagreementError
from icclip.models.loaded import LoadedModel
from icclip.runs.record import versions, without_secrets
from icclip.training.processes.board import ranks
from icclip.training.processes.gather import from_first_process, is_distributed
from icclip.training.record import about_split

if TYPE_CHECKING:
    from datasets import IterableDataset

MAY_DIFFER = frozenset({"device", "workers", "report_to", "timeout"})
"""Settings of a machine, which change no number of the run."""
BY_CONTENT = frozenset({"output_dir", "model", "data"})
"""Settings that are paths; their contents are compared instead."""
STATE = "trainer_state.json"
"""A file that every complete checkpoint has, and that differs between any two runs."""
SAME_COMMAND = "Start all of them with the same command, data, model and versions"
SHARED_DIRECTORY = "Let all of them see one run directory, on a file system that they share"
SAMPLE = 256
"""Number of values of each weight that the digest of a model reads."""


def require_agreement(statement: Mapping[str, str], way_out: str = SAME_COMMAND) -> None:
    """Compare the statements of all processes. Every process must call this; a single process always agrees.

    Args:
        statement: what this process was given, by names for messages.
        way_out: the advice if they differ.

    Raises:
        DisagreementError: the statements differ; raised on every process, with the names and the ranks.
    """
    if not is_distributed():
        return
    statements: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(statements, dict(statement))
    if found := differences(statements):
        raise DisagreementError(f"the processes of this run do not agree: {'; '.join(found)}. {way_out}")


def differences(statements: Sequence[Mapping[str, str]]) -> list[str]:
    """Describe each thing that is not the same everywhere: `train_bs is 4 on rank 0 and 8 on rank 1`.

    Args:
        statements: the statements of all processes, in the order of their ranks.
    """
    names = dict.fromkeys(name for statement in statements for name in statement)
    found = []
    for name in names:
        places: dict[str, list[int]] = {}
        for rank, statement in enumerate(statements):
            places.setdefault(statement.get(name, "absent"), []).append(rank)
        if len(places) > 1:
            found.append(f"{name} is " + " and ".join(f"{value} on {ranks(at)}" for value, at in places.items()))
    return found


def of_options(config: TrainConfig) -> dict[str, str]:
    """The settings, the versions and the output directory of this process."""
    settings = without_secrets(config.to_mapping())
    kept = {name: value for name, value in settings.items() if name not in MAY_DIFFER | BY_CONTENT}
    if config.data.streaming:
        # The content of a stream cannot be compared in advance.
        kept["data"] = settings["data"]
    return {
        **{name: str(value) for name, value in _flat(kept).items()},
        **{f"the version of {name}": version for name, version in versions().items()},
        "the output directory": str(config.output_dir.resolve()),
    }


def of_content(splits: Mapping[str, Gallery | IterableDataset], loaded: LoadedModel) -> dict[str, str]:
    """The rows of each split in their order, and the weights of the model."""
    return {
        **{f"the {name} split": _about(split) for name, split in splits.items() if isinstance(split, Gallery)},
        "the model": f"{loaded.source} (weights {_digest(loaded.model)})",
    }


def same_checkpoint(root: Path, chosen: Path | None) -> Path | None:
    """Return the checkpoint that the first process has chosen on every process.

    Args:
        root: the run directory.
        chosen: the choice of this process, which only counts on the first one.

    Raises:
        DisagreementError: a process does not see this checkpoint; raised on every process.
    """
    name = from_first_process(chosen.name if chosen else "")
    if not name:
        return None
    require_agreement({name: _seen(root / name / STATE)}, SHARED_DIRECTORY)
    return root / name


def _seen(state: Path) -> str:
    if not state.is_file():
        return f"absent from {state.parent.parent}"
    return f"there (state {hashlib.sha256(state.read_bytes()).hexdigest()[:8]})"


def _about(split: Gallery) -> str:
    about = about_split(split)
    return f"{about['images']} images with {about['captions']} captions (rows {about['fingerprint'][:8]})"


def _digest(model: torch.nn.Module) -> str:
    """A digest of the names, shapes and some values of the weights, since reading a whole model would take seconds."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().flatten()
        values = flat[:: max(1, len(flat) // SAMPLE)].float().cpu().numpy()
        digest.update(repr((name, tuple(weight.shape), str(weight.dtype))).encode() + values.tobytes())
    return digest.hexdigest()[:8]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return flat
